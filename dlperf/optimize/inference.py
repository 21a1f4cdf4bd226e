"""What dlperf.optimize(model, mode="inference") returns."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch import nn as torch_nn

from .engine import Engine
from .swap import swap_layers


class InferenceModel(torch_nn.Module):
    """A model's snapshot for inference: captured at the first call of each kind, folded, fused, its weights packed.

    It has the wrapped model's submodules, state_dict and attributes. Calls run without gradients, except where an input
    requires one: then, and where a call can't be captured, the snapshot runs layer by layer with dlperf's layers.
    Any number of threads may call it. New weights through ``load_state_dict``, ``.to()`` or assignment are seen, and
    in-place writes as far as torch counts them; after any other change (``.data``, numpy, attributes of submodules)
    call ``replan()``.
    """

    def __init__(self, model: torch_nn.Module, dtype: torch.dtype | None = None):
        super().__init__()
        model = _snapshot(model, dtype)
        for name in ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"):
            self.__dict__[name] = model.__dict__[name]
        self.__dict__["_engine"] = Engine(model, dtype)
        self.training = False

    def forward(self, *args, **kwargs):
        return self._engine(args, kwargs)

    def replan(self) -> None:
        """Forgets every capture and packed weight; the next call makes them anew."""
        self._engine.replan()

    # --- the wrapped model shows through ---

    @property
    def wrapped(self) -> torch_nn.Module:
        """The snapshot itself, with dlperf's layers."""
        return self.__dict__["_engine"].model

    def __getattr__(self, name: str):
        if name in self._modules:
            return self._modules[name]
        engine = self.__dict__.get("_engine")
        if engine is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(engine.model, name)

    def __setattr__(self, name: str, value) -> None:
        engine = self.__dict__.get("_engine")
        if engine is None or name == "training":
            super().__setattr__(name, value)
            return
        setattr(engine.model, name, value)
        engine.replan()

    def __delattr__(self, name: str) -> None:
        delattr(self.wrapped, name)
        self.replan()

    def __dir__(self):
        return sorted({*super().__dir__(), *dir(self.wrapped)})

    def __getitem__(self, index):
        return self.wrapped[index]

    def __setitem__(self, index, module) -> None:
        self.wrapped[index] = module
        self.replan()

    def __iter__(self):
        return iter(self.wrapped)

    def __len__(self) -> int:
        return len(self.wrapped)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}(\n{self.wrapped!r}\n)"

    def __reduce_ex__(self, protocol):
        return _restore, (self.wrapped, self._engine.dtype)

    def state_dict(self, *args, **kwargs):
        return self.wrapped.state_dict(*args, **kwargs)

    def load_state_dict(self, *args, **kwargs):
        try:
            return self.wrapped.load_state_dict(*args, **kwargs)
        finally:
            self.replan()

    def _apply(self, fn, recurse: bool = True):
        self.wrapped._apply(fn, recurse)
        self._follow_dtype()
        return self

    def to(self, *args, **kwargs):
        self.wrapped.to(*args, **kwargs)
        self._follow_dtype()
        return self

    def _follow_dtype(self) -> None:
        """Inputs are cast to what the parameters are now."""
        if self._engine.dtype is not None:
            dtypes = [t.dtype for t in (*self.parameters(), *self.buffers()) if t.is_floating_point()]
            self._engine.dtype = dtypes[0] if dtypes else self._engine.dtype
        self.replan()

    def train(self, mode: bool = True):
        """Raises RuntimeError for ``mode=True``: weights are folded and packed."""
        if mode:
            raise RuntimeError(
                "train(): a model optimized for inference can't train; optimize the original with mode='train'"
            )
        return self


def _restore(model: torch_nn.Module, dtype) -> InferenceModel:
    return InferenceModel(model, dtype)


def _snapshot(model: torch_nn.Module, dtype: torch.dtype | None) -> torch_nn.Module:
    """A copy with dlperf's layers and tensors of its own, in eval mode."""
    if isinstance(model, InferenceModel):
        model = model.wrapped
    snapshot = swap_layers(model)
    memo: dict[int, Tensor] = {}
    with torch.inference_mode(False), torch.no_grad():
        for module in snapshot.modules():
            module._parameters = {k: _own(p, memo) for k, p in module._parameters.items()}
            module._buffers = {k: _own(b, memo) for k, b in module._buffers.items()}
            module._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
            for name, value in module.__dict__.items():
                if isinstance(value, Tensor):
                    module.__dict__[name] = _own(value, memo)
        snapshot.eval()
        for module in snapshot.modules():
            module.training = False
        if dtype is not None:
            snapshot.to(dtype)
    return snapshot


def _own(tensor: Tensor | None, memo: dict[int, Tensor]) -> Tensor | None:
    if tensor is None:
        return None
    if id(tensor) not in memo:
        if isinstance(tensor, torch_nn.parameter.UninitializedTensorMixin):
            raise TypeError("optimize(): argument 'model' holds a lazy module: call the model once first")
        kind = type(tensor)
        if kind in (Tensor, torch_nn.Parameter):
            own = tensor.detach().clone()
            own = torch_nn.Parameter(own, requires_grad=False) if kind is torch_nn.Parameter else own
        else:
            own = copy.deepcopy(tensor).requires_grad_(False)
        memo[id(tensor)] = own
    return memo[id(tensor)]
