"""Runs one case on one backend and holds outputs and gradients against float64 and torch's own."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from .. import backends
from ..diffusion import functional as diffusion_functional
from ..errors import BackendError
from ..nn import functional
from ..ops import dropout as ops
from .cases import Case, Maker
from .compare import Comparison, compare


@dataclass
class Outcome:
    """What running a case showed.

    Attributes:
        declined: the backend's reason, where it does not serve the case.
        comparisons: by "output 0", "gradient of argument 1", ...
        served: the operators that the backend served.
    """

    declined: str | None = None
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    served: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(c.ok for c in self.comparisons.values())

    def failures(self) -> dict[str, Comparison]:
        return {name: c for name, c in self.comparisons.items() if not c.ok}


def _public(name: str):
    module, _, function = name.rpartition(".")
    if module == "ops":
        return getattr(ops, function)
    return getattr(diffusion_functional if module == "diffusion" else functional, function)


def _tensors(args: tuple, kwargs: dict) -> list[Tensor]:
    return [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]


def _to_double(value):
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().to(torch.float64, copy=True).requires_grad_(value.requires_grad)
    return value


def _clone(value):
    if isinstance(value, Tensor):
        # Through the storage, so that offsets and overlaps stay.
        copy = torch.empty(0, dtype=value.dtype, device=value.device)
        copy.set_(value.untyped_storage().clone(), value.storage_offset(), value.shape, value.stride())
        return copy.requires_grad_(value.requires_grad)
    return value


class _InFloat32:
    """Products of float32 in float32 on a GPU too, ours and torch's: by default cuDNN rounds to TF32 where it likes.

    The switches are the process's: of calls in several threads the first sets them and the last puts them back.
    """

    _lock, _inside, _before = threading.Lock(), 0, ()
    _SWITCHES = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn

    def __enter__(self) -> None:
        with self._lock:
            if _InFloat32._inside == 0:
                _InFloat32._before = tuple(switch.fp32_precision for switch in self._SWITCHES)
                for switch in self._SWITCHES:
                    switch.fp32_precision = "ieee"
            _InFloat32._inside += 1

    def __exit__(self, *exc) -> None:
        with self._lock:
            _InFloat32._inside -= 1
            if _InFloat32._inside == 0:
                for switch, value in zip(self._SWITCHES, self._before, strict=True):
                    switch.fp32_precision = value


def _call(case: Case, args: tuple, kwargs: dict, backend: str, with_gradients: bool):
    """Outputs, the gradients by argument, and the state that the call left in its tensors."""
    with _InFloat32(), backends.backend(backend), backends.trace() as calls:
        outputs = _public(case.function)(*args, **kwargs)
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        gradients: list[Tensor | None] = []
        inputs = [t for t in _tensors(args, kwargs) if t.requires_grad]
        if with_gradients and inputs:
            differentiable = [o for o in outputs if o.is_floating_point() and o.requires_grad]
            cotangents = [_cotangent(o) for o in differentiable]
            gradients = list(torch.autograd.grad(differentiable, inputs, cotangents, allow_unused=True))
    state = [t for t in _tensors(args, kwargs) if not t.requires_grad and t.is_floating_point()]
    return outputs, gradients, state, calls


def call_case(case: Case, dtype: torch.dtype, backend: str, device: str = "cpu", seed: int = 0) -> None:
    """Forward and gradients, compared with nothing."""
    args, kwargs = case.make(Maker(dtype, device, seed))
    _call(case, args, kwargs, backend, case.gradients)


def _cotangent(output: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    # Rounded through bfloat16, so that every dtype sees the same gradient.
    return values.to(torch.bfloat16).to(output.device, output.dtype)


@lru_cache(maxsize=1024)
def _expected(case: Case, dtype: torch.dtype, device: str, seed: int):
    """The truth in float64 and torch's own result in the dtype: the same for every backend and instruction set."""
    args, kwargs = case.make(Maker(dtype, device, seed))
    in_double = tuple(_to_double(a) for a in args), {k: _to_double(v) for k, v in kwargs.items()}
    truth = _call(case, *in_double, "reference", case.gradients)
    own = _call(case, args, kwargs, "reference", case.gradients)
    return truth, own


def run_case(case: Case, dtype: torch.dtype, backend: str, device: str = "cpu", seed: int = 0) -> Outcome:
    """Runs the case pinned to the backend. Where the backend declines, the outcome says why."""
    args, kwargs = case.make(Maker(dtype, device, seed))
    outcome = Outcome()
    try:
        given = tuple(_clone(a) for a in args), {k: _clone(v) for k, v in kwargs.items()}
        actual = _call(case, *given, backend, case.gradients)
    except BackendError as error:
        outcome.declined = str(error)
        return outcome
    outcome.served = [op for op, served_by in actual[3] if served_by == backend]
    truth, own = _expected(case, dtype, device, seed)
    labels = (
        ("output", case.reduction),
        ("gradient", case.grad_reduction or case.reduction),
        ("state", case.reduction),
    )
    for (label, reduction), got, true, torchs in zip(labels, actual, truth, own, strict=False):
        for i, (a, t, b) in enumerate(zip(got, true, torchs, strict=True)):
            if (a is None) != (t is None):
                outcome.comparisons[f"{label} {i}"] = Comparison(float("inf"), 0.0)
            elif a is not None:
                outcome.comparisons[f"{label} {i}"] = compare(a, t, baseline=b, reduction=reduction)
    return outcome
