"""What a plan takes for granted of a model and of a call, and whether it still holds."""

from __future__ import annotations

import copy
from operator import getitem, is_

import torch
from torch import Tensor
from torch import nn as torch_nn
from torch.nn.modules import module as module_hooks

from ..backends import cpu
from ..ops import _frame
from .structure import Unsupported


def holds(holders: tuple, keys: tuple, held: tuple) -> bool:
    try:
        return all(map(is_, map(getitem, holders, keys), held))
    except KeyError:
        return False


def have_sizes(dicts: tuple, sizes: tuple) -> bool:
    return tuple(map(len, dicts)) == sizes


class Versions:
    """Of tensors, as they were when they were last remembered."""

    def __init__(self, tensors: tuple[Tensor, ...], memory: list[int]):
        self.tensors = tensors
        self.remember()

    def remember(self) -> None:
        self.versions = [t._version for t in self.tensors]

    def unchanged(self) -> bool:
        return [t._version for t in self.tensors] == self.versions


if cpu.C is not None:  # a model has a thousand of them, looked at in every call
    holds, have_sizes, Versions = cpu.C.holds, cpu.C.have_sizes, cpu.C.Versions


def why_not_plain(autocast: bool = False) -> str | None:
    """Where something has to see each operator, or changes what they do. ``autocast``: whether that is allowed."""
    if torch.compiler.is_compiling():
        return "the call is being traced"
    if _frame._dispatch_modes() or _frame._function_modes() or _frame._functorch_level() is not None:
        return "a mode or transform is active"
    if not autocast and (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")):
        return "torch.autocast is active (dtype= does without)"
    if module_hooks._global_forward_hooks or module_hooks._global_forward_pre_hooks:
        return "a global module hook is set"
    return None


def version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def versions_of(model: torch_nn.Module) -> list:
    return [(id(t), version(t)) for t in (*model.parameters(), *model.buffers())]


def python_state(model: torch_nn.Module) -> list[tuple[dict, dict]]:
    """Every module's attributes, containers by a shallow copy."""
    return [
        (m.__dict__, {k: copy.copy(v) if type(v) in (list, dict, set) else v for k, v in m.__dict__.items()})
        for m in model.modules()
    ]


def changed_attribute(before: list, model: torch_nn.Module) -> str | None:
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


# A plan's result may differ from the layers' by rounding, amplified through the model's depth; a wrong graph by more.
_DIFFERENCE = {torch.float64: 1e-6, torch.float32: 1e-2, torch.bfloat16: 0.25, torch.float16: 0.1}


def check_same(actual, expected) -> None:
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
