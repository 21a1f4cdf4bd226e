"""Plans by kind of call, and the call itself."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, field
from operator import getitem, is_

import torch
from torch import Tensor
from torch import nn as torch_nn
from torch.nn.modules import module as module_hooks

from .. import backends, memory
from ..backends import cpu
from ..nn import LAYERS
from ..ops import _frame
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
        reason = _why_not_plain()
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
            self._tensor_versions = [t._version for t in self._tensors]  # what the model itself has written
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
            self._tensor_versions = [t._version for t in self._tensors]
        return result

    def _observe(self, args, kwargs, tensors):
        """The call, layer by layer, and what it does beside returning a result."""
        before = _python_state(self.model), _versions(self.model), [_version(t) for t in tensors]
        rng = torch.get_rng_state()
        with CountWork() as counted:
            result = self._by_layers(args, kwargs)
        observed = _Observed(counted.work, rng)
        state, versions, inputs = before
        changed = _changed_attribute(state, self.model)
        if changed is not None:
            observed.reason, observed.unsettled = f"the model changes its attribute {changed}", True
        elif versions != _versions(self.model):
            observed.reason = "the model writes into its parameters or buffers"
        elif inputs != [_version(t) for t in tensors]:
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
        _check_same(actual, expected)
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
        self._tensors = [v for _, _, v in slots if isinstance(v, Tensor) and not v.is_inference()]
        self._tensor_versions = [t._version for t in self._tensors]

    def _unchanged(self) -> bool:
        return (
            _holds(*self._slots)
            and _have_sizes(self._hooks, self._hook_counts)
            and [t._version for t in self._tensors] == self._tensor_versions
        )


def _holds(holders: tuple, keys: tuple, held: tuple) -> bool:
    try:
        return all(map(is_, map(getitem, holders, keys), held))
    except KeyError:
        return False


def _have_sizes(dicts: tuple, sizes: tuple) -> bool:
    return tuple(map(len, dicts)) == sizes


if cpu.C is not None:  # a model has a thousand of them, looked at in every call
    _holds, _have_sizes = cpu.C.holds, cpu.C.have_sizes


@dataclass
class _Observed:
    work: list[Work]
    rng: Tensor
    reason: str | None = None
    unsettled: bool = False


def _why_not_plain() -> str | None:
    """Where something has to see each operator, or changes what they do."""
    if torch.compiler.is_compiling():
        return "the call is being traced"
    if _frame._dispatch_modes() or _frame._function_modes() or _frame._functorch_level() is not None:
        return "a mode or transform is active"
    if torch.is_autocast_enabled("cpu") or (torch.cuda.is_available() and torch.is_autocast_enabled("cuda")):
        return "torch.autocast is active (dtype= does without)"
    if module_hooks._global_forward_hooks or module_hooks._global_forward_pre_hooks:
        return "a global module hook is set"
    return None


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


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _versions(model: torch_nn.Module) -> list:
    return [(id(t), _version(t)) for t in (*model.parameters(), *model.buffers())]


def _python_state(model: torch_nn.Module) -> list[tuple[dict, dict]]:
    """Every module's attributes, containers by a shallow copy."""
    return [
        (m.__dict__, {k: copy.copy(v) if type(v) in (list, dict, set) else v for k, v in m.__dict__.items()})
        for m in model.modules()
    ]


def _changed_attribute(before: list, model: torch_nn.Module) -> str | None:
    for now, then in before:
        for name in now.keys() | then.keys():
            a, b = now.get(name), then.get(name)
            if a is b:
                continue
            if type(a) is not type(b) or type(a) not in (list, dict, set, int, float, str, bool, tuple):
                return repr(name)
            if not _same_items(a, b):
                return repr(name)
    return None


def _same_items(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(a[k] is b[k] for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))
    return a == b


def _same_template(a, b) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_same_template(x, y) for x, y in zip(a, b, strict=True))
    return a is b or (type(a) is type(b) and a == b)


# A plan's result may differ from the layers' by rounding, amplified through the model's depth; a wrong graph by more.
_DIFFERENCE = {torch.float64: 1e-6, torch.float32: 1e-2, torch.bfloat16: 0.25, torch.float16: 0.1}


def _check_same(actual, expected) -> None:
    """Raises Unsupported where a plan's first result is not the model's."""
    for mine, theirs in zip(actual, expected, strict=True):
        if not isinstance(theirs, Tensor):
            same = mine == theirs
        elif mine.shape != theirs.shape or mine.dtype is not theirs.dtype or mine.device != theirs.device:
            same = False
        elif not theirs.is_floating_point():
            same = torch.equal(mine, theirs)
        else:
            finite = torch.isfinite(theirs)
            same = torch.equal(torch.isfinite(mine), finite)
            if same and bool(finite.any()):
                scale = theirs[finite].abs().max().double()
                difference = (mine[finite].double() - theirs[finite].double()).abs().max()
                same = bool(difference <= _DIFFERENCE.get(theirs.dtype, 0.1) * scale)
        if not same:
            raise Unsupported("the captured graph gave another result than the model")
