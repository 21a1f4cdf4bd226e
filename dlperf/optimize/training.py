"""``optimize(model, mode="train")``: a model whose training step, once seen, runs as two sequences of kernels.

The first call of a kind is served layer by layer. Before the second, it is traced (:mod:`.joint`) and becomes two plans
(:mod:`.captured`). From then on one autograd function runs the forward plan, and the backward plan when the gradients
come. What plans take for granted is looked at in every call.
"""

from __future__ import annotations

import threading
import types
import weakref
from collections import Counter

import torch
from torch import Tensor
from torch import nn as torch_nn

from .. import backends, memory
from ..backends import cpu
from ..precision import strict
from . import watch
from .captured import CapturedStep, capture_step, requires_grad
from .engine import MOST_CAPTURES, MOST_PLANS, Fallback
from .functions import exchanging_class, saved_tensors_are_hooked, subclass
from .joint import Call, Held
from .structure import Unsupported, signature
from .swap import PLANS

_SEEN = "seen once"  # in the place of a plan
_CHANGED = "a parameter, submodule, hook or attribute of the model had changed"
# Attributes of a module that plans take as they are.
_PLAIN = (bool, int, float, str, tuple, type(None))


class Training:
    """The captured steps of one model, by kind of call."""

    def __init__(self, model: torch_nn.Module):
        self._model = weakref.ref(model)
        self.lock = threading.RLock()
        self.captures = 0
        self.uncaptured: Counter[str] = Counter()
        self.forget()

    def serves(self, model: torch_nn.Module) -> bool:
        return self._model() is model

    def __reduce__(self):
        return _nothing, ()  # copies and pickles of the model begin anew

    def forget(self) -> None:
        with self.lock:
            self.steps: dict[tuple, object] = {}
            self._watch(self._model())

    def __call__(self, layers, args: tuple, kwargs: dict):
        """The model's call; ``layers`` is its forward, layer by layer."""
        model = self._model()
        if not model.training or not torch.is_grad_enabled():
            return layers(*args, **kwargs)
        reason = _why_not_now()
        if reason is None:
            if not self._unchanged():
                self.forget()
                self.uncaptured[_CHANGED] += 1
            reason = self._unfit
        tensors: list[Tensor] = []
        if reason is None:
            try:
                key = signature((args, kwargs), tensors)
                hash(key)
            except Unsupported as unsupported:
                reason = str(unsupported)
            except TypeError:
                reason = "an input can't be told from others (it has no hash)"
        if reason is not None:
            self.uncaptured[reason] += 1
            return layers(*args, **kwargs)
        autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        call = Call(args, kwargs, tensors, autocast)
        values = [*self._own, *tensors]
        state = backends.named(), cpu.C.isa(), torch.get_num_threads(), strict()
        key = (key, autocast, tuple(map(requires_grad, values)), *state)
        step = self.steps.get(key)
        if type(step) is CapturedStep:
            traced = backends._state.trace
            if traced is not None:
                traced.extend(step.forward.traced)
            return step(model, call, values)
        if type(step) is Fallback:
            return layers(*args, **kwargs)
        with self.lock:
            if key not in self.steps:
                while len(self.steps) >= MOST_PLANS:
                    del self.steps[next(iter(self.steps))]
                self.steps[key] = _SEEN
                return layers(*args, **kwargs)
            if self.steps[key] is not _SEEN:
                return self(layers, args, kwargs)
            self.steps[key] = self._capture(model, call, values)
            memory.empty_cache()  # what layers took one by one, in sizes that the plans have no use for
        return self(layers, args, kwargs)

    def _capture(self, model, call: Call, values: list[Tensor]) -> CapturedStep | Fallback:
        before, work = watch.python_state(model), []
        try:
            if self.captures >= MOST_CAPTURES:
                raise Unsupported(f"{MOST_CAPTURES} kinds of calls were captured already")
            self.captures += 1
            with torch.random.fork_rng(devices=[]):
                step = capture_step(model, call, values, work)
            changed = watch.changed_attribute(before, model)
            if changed is not None:
                raise Unsupported(f"the model changes its attribute {changed}")
        except Unsupported as reason:
            return Fallback(str(reason), work)
        except Exception as error:  # a graph that nobody foresaw must not fail what the layers can serve
            return Fallback(f"the capture failed: {type(error).__name__}: {error}"[:300], work)
        return step

    # --- what makes plans stale ---

    def _watch(self, model: torch_nn.Module) -> None:
        """Remembers every parameter, buffer, submodule and plain attribute, and where the tensors lie."""
        modules = list(model.modules())
        slots = [(d, k, v) for m in modules for d in (m._parameters, m._buffers, m._modules) for k, v in d.items()]
        slots += [(m.__dict__, k, v) for m in modules for k, v in m.__dict__.items() if type(v) in _PLAIN]
        self._slots = tuple(zip(*slots, strict=True)) if slots else ((), (), ())
        # The model's own hooks run outside of its forward.
        hooks = [
            d
            for m in modules[1:]
            for d in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)
        ]
        self._dicts = (*hooks, *(d for m in modules for d in (m._parameters, m._buffers, m._modules)))
        self._sizes = tuple(map(len, self._dicts))
        self._held = Held(model)
        self._own = self._held.all
        self._unfit = _why_unfit(modules, self._own, any(hooks))
        self._places = [] if self._unfit else [t.data_ptr() for t in self._own]
        self._kinds = [] if self._unfit else [_kind(t) for t in self._own]

    def _unchanged(self) -> bool:
        if not (watch.holds(*self._slots) and watch.have_sizes(self._dicts, self._sizes)):
            return False
        if self._unfit is not None:
            return True
        places = [t.data_ptr() for t in self._own]
        if places != self._places:
            if [_kind(t) for t in self._own] != self._kinds:
                return False
            self._places = places
        return True


def _why_not_now() -> str | None:
    if saved_tensors_are_hooked():
        return "saved tensors are hooked, as under activation checkpointing"
    if torch.is_anomaly_enabled():
        return "anomaly detection is on"
    if backends.named() not in (None, "cpu"):
        return f"the backend {backends.named()!r} was asked for"
    return watch.why_not_plain(autocast=True)


def _why_unfit(modules: list[torch_nn.Module], tensors: list[Tensor], hooked: bool) -> str | None:
    if cpu.C is None or not all(t.is_cpu for t in tensors):
        return "only on the CPU are steps captured"
    if not all(type(t) in (Tensor, torch_nn.Parameter) and t.layout is torch.strided for t in tensors):
        return "a parameter or buffer is no plain tensor"
    if hooked:
        return "a submodule has a hook"
    if any(torch_nn.utils.parametrize.is_parametrized(m) for m in modules):
        return "the model is parametrized"
    return None


def _kind(t: Tensor) -> tuple:
    return t.dtype, t.device, t.shape, t.stride()


def _nothing() -> None:
    return None


# --- the class ---


_CLASSES: weakref.WeakValueDictionary[type, type] = weakref.WeakValueDictionary()


def capture_training(model: torch_nn.Module) -> torch_nn.Module:
    """Makes a model with dlperf's layers run its training steps from plans. Gives the same object back."""
    if model._modules:  # a single layer is a kernel already
        made = _capturing_class(type(model))
        if made is not None:
            model.__class__ = made
    return model


def _capturing_class(kind: type) -> type | None:
    """A subclass, of the same name, whose forward asks the model's captured steps first; None where there can't be."""
    if kind not in _CLASSES:
        layers = kind.forward

        def forward(self, *args, **kwargs):
            if torch.compiler.is_compiling():
                return layers(self, *args, **kwargs)
            training = self.__dict__.get(PLANS)
            if training is None or not training.serves(self):
                training = self.__dict__[PLANS] = Training(self)
            return training(types.MethodType(layers, self), args, kwargs)

        made = subclass(kind, forward, _class_of)
        if made is None:
            return None
        _CLASSES[kind] = made
    return _CLASSES[kind]


def _class_of(kind: type) -> type:
    """The class that captures, of the user's."""
    kind = exchanging_class(kind)
    return _capturing_class(kind) or kind


def training_of(model: torch_nn.Module) -> Training | None:
    """The captured steps of a model that :func:`capture_training` has made, or None."""
    found = model.__dict__.get(PLANS)
    return found if found is not None and found.serves(model) else None
