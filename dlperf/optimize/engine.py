"""Plans by kind of call, and the call itself."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch import nn as torch_nn

from .. import backends, memory
from ..backends import cpu
from ..nn import LAYERS
from ..precision import strict
from . import passes
from .capture import Program, capture
from .plan import Plan
from .structure import (
    Unsupported,
    build_result,
    flatten_result,
    objects_in,
    rebuild_arguments,
    signature,
    without_numbers,
)
from .swap import swap_layers
from .watch import (
    Versions,
    changed_attribute,
    check_same,
    have_sizes,
    holds,
    python_state,
    version,
    versions_of,
    why_not_plain,
)
from .work import CountWork, Work

# Calls that differ only in sizes or Python numbers are captured so often, later ones run layer by layer.
MOST_CAPTURES = 8
MOST_PLANS = 32

_TORCH_CLASSES = {mine: theirs for theirs, mine in LAYERS.items()}


@dataclass
class Fallback:
    """A kind of call that runs layer by layer, and why."""

    reason: str
    work: list[Work] = field(default_factory=list)


class Engine:
    """Plans by kind of call."""

    def __init__(self, model: torch_nn.Module, dtype: torch.dtype | None):
        self.model, self.dtype = model, dtype
        self.lock = threading.RLock()
        self.replan()

    def replan(self) -> None:
        with self.lock:
            self.plans: dict = {}
            self.programs: dict[tuple, list[Program]] = {}
            self.captures: dict[tuple, int] = {}
            self.uncaptured: dict[str, int] = {}
            self.unsettled: set = set()
            self._watch()

    # --- one call ---

    def __call__(self, args: tuple, kwargs: dict):
        if not torch.compiler.is_compiling() and not self._unchanged():
            self.replan()
        reason = why_not_plain()
        tensors: list[Tensor] = []
        if reason is None:
            try:
                key = signature((args, kwargs), tensors)
            except Unsupported as unsupported:
                reason = str(unsupported)
            except TypeError:
                reason = "an input can't be told from others (it has no hash)"
        if reason is None and torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            reason = "an input requires a gradient"
        if reason is not None:
            self.uncaptured[reason] = self.uncaptured.get(reason, 0) + 1
            return self._by_layers(args, kwargs, grad="gradient" in reason)
        key = (key, backends.named(), cpu.C and cpu.C.isa(), torch.get_num_threads(), strict())
        plan = self.plans.get(key)
        if plan is None:
            return self._first(key, args, kwargs, tensors)
        if type(plan) is Fallback:
            result = self._by_layers(args, kwargs)
            self._versions.remember()  # what the model itself has written
            return result
        traced = backends._state.trace
        if traced is not None:
            traced.extend(plan.traced)
        with torch.no_grad():
            return build_result(plan.template, plan(self._cast(tensors)))

    def _cast(self, tensors: list[Tensor]) -> list[Tensor]:
        dtype = self.dtype
        if dtype is None:
            return tensors
        return [t.to(dtype) if t.is_floating_point() else t for t in tensors]

    def _by_layers(self, args, kwargs, grad: bool = False):
        if self.dtype is not None:
            args, kwargs = _map_tensors((args, kwargs), self._cast)
        with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            result = self.model(*args, **kwargs)
        return result if self.dtype is None else self._cast_result(result)

    def _cast_result(self, result):
        leaves: list = []
        try:
            template = flatten_result(result, leaves)
        except Unsupported:
            return result
        if all(not t.is_floating_point() or t.dtype is self.dtype for t in leaves if isinstance(t, Tensor)):
            return result
        return build_result(template, self._cast(leaves))

    # --- the first call of a kind ---

    def _first(self, key, args, kwargs, tensors):
        with self.lock:
            known = self.plans.get(key)
            if known is not None:
                return self(args, kwargs)
            while len(self.plans) >= MOST_PLANS:
                del self.plans[next(iter(self.plans))]
            result, observed = self._observe(args, kwargs, tensors)
            if observed.unsettled and key not in self.unsettled:
                self.unsettled.add(key)  # many a model sets itself up in its first call
                return result
            try:
                with torch.inference_mode(False):  # plans outlive the caller's mode
                    plan = self._plan(key, args, kwargs, tensors, result, observed)
            except Unsupported as reason:
                plan = Fallback(str(reason), observed.work)
            except Exception as error:  # the layers have served the call: a graph that nobody foresaw must not fail it
                plan = Fallback(f"the capture failed: {type(error).__name__}: {error}"[:300], observed.work)
            self.plans[key] = plan
            memory.empty_cache()  # what layers took one by one, in sizes that the plan has no use for
            self._versions.remember()
        return result

    def _observe(self, args, kwargs, tensors):
        """The call, layer by layer, and what it does beside returning a result."""
        before = python_state(self.model), versions_of(self.model), [version(t) for t in tensors]
        rng = torch.get_rng_state()
        with CountWork() as counted:
            result = self._by_layers(args, kwargs)
        observed = _Observed(counted.work, rng)
        state, versions, inputs = before
        changed = changed_attribute(state, self.model)
        if changed is not None:
            observed.reason, observed.unsettled = f"the model changes its attribute {changed}", True
        elif versions != versions_of(self.model):
            observed.reason = "the model writes into its parameters or buffers"
        elif inputs != [version(t) for t in tensors]:
            observed.reason = "the model writes into its input"
        else:
            kept = {id(v) for m in self.model.modules() for v in m.__dict__.values()}
            if any(id(o) in kept for o in objects_in(result)):
                observed.reason = "the model returns an object that it keeps"
        return result, observed

    def _plan(self, key, args, kwargs, tensors, result, observed) -> Plan:
        reason = observed.reason or _why_not_fused(self.model)
        if reason is not None:
            raise Unsupported(reason)
        if self.dtype is not None:
            args, kwargs = _map_tensors((args, kwargs), self._cast)
            tensors = self._cast(tensors)
        if any(t.is_inference() for t in tensors):
            tensors = [t.clone() for t in tensors]
            args, kwargs = rebuild_arguments((args, kwargs), iter(tensors))
        expected: list = []
        template = flatten_result(result, expected)
        program = self._program(key, args, kwargs, tensors)
        if not _same_template(template, program.template):
            raise Unsupported("the captured graph returns another structure than the model")
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.set_rng_state(observed.rng)
            plan = Plan(program, tensors, expected)
            torch.set_rng_state(observed.rng)
            actual = plan(tensors)
        check_same(actual, expected)
        return plan

    def _program(self, key, args, kwargs, tensors) -> Program:
        kind = _without_sizes(key[0])
        for program in self.programs.get(kind, ()):
            if program.accepts(tensors):
                return program
        count_key = without_numbers(key[0])
        if self.captures.get(count_key, 0) >= MOST_CAPTURES:
            raise Unsupported(
                f"calls of this kind were captured for {MOST_CAPTURES} different sizes or numbers already; "
                "pass numbers that change as tensors"
            )
        self.captures[count_key] = self.captures.get(count_key, 0) + 1
        program = capture(swap_layers(self.model, _TORCH_CLASSES), args, kwargs, tensors)
        with torch.no_grad():
            program.notes = passes.run(program.graph, passes.INFERENCE)
        self.programs.setdefault(kind, []).append(program)
        return program

    # --- what makes plans stale ---

    def _watch(self) -> None:
        """Remembers every parameter, buffer and submodule by identity, and the tensors' versions."""
        slots = [
            (d, k, v)
            for m in self.model.modules()
            for d in (m._parameters, m._buffers, m._modules)
            for k, v in d.items()
        ]
        self._slots = tuple(zip(*slots, strict=True)) if slots else ((), (), ())
        self._hooks = tuple(
            d for m in self.model.modules() for d in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)
        )
        self._hook_counts = tuple(map(len, self._hooks))
        tensors = tuple(v for _, _, v in slots if isinstance(v, Tensor) and not v.is_inference())
        self._versions = Versions(tensors, [t._cdata for t in tensors])

    def _unchanged(self) -> bool:
        return holds(*self._slots) and have_sizes(self._hooks, self._hook_counts) and self._versions.unchanged()


@dataclass
class _Observed:
    work: list[Work]
    rng: Tensor
    reason: str | None = None
    unsettled: bool = False


# Hooks that models install for themselves, and that do nothing but hand results on to the model's own output.
_TRACEABLE_HOOKS = frozenset({"transformers.utils.output_capturing"})


def _why_not_fused(model: torch_nn.Module) -> str | None:
    """What in the model has to be seen or run at each layer."""
    for path, module in model.named_modules():
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        if any(getattr(hook, "__module__", "") not in _TRACEABLE_HOOKS for hook in hooks):
            return f"{path or 'the model'} has a hook"
        if torch_nn.utils.parametrize.is_parametrized(module):
            return f"{path or 'the model'} is parametrized"
    return None


def _map_tensors(value, function):
    tensors: list[Tensor] = []

    def collect(x):
        if type(x) in (Tensor, torch_nn.Parameter):
            tensors.append(x)
        elif isinstance(x, (list, tuple)):
            for v in x:
                collect(v)
        elif type(x) is dict:
            for v in x.values():
                collect(v)

    collect(value)
    return rebuild_arguments(value, iter(function(tensors)))


def _without_sizes(key):
    """The key with tensors reduced to dtype, device and rank."""
    if isinstance(key, tuple):
        if len(key) == 4 and isinstance(key[0], torch.dtype):
            return (key[0], key[1], len(key[2]))
        return tuple(_without_sizes(k) for k in key)
    return key


def _same_template(a, b) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_same_template(x, y) for x, y in zip(a, b, strict=True))
    return a is b or (type(a) is type(b) and a == b)
