"""Exchanges torch layers for dlperf's, one to one, without touching the user's model.

Modules are copied shallowly; Parameters, buffers and the dictionaries that hold them are shared, so both models see
every change of a weight, a running statistic, a dtype or a device.
"""

from __future__ import annotations

import types
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn as torch_nn

from ..nn import LAYERS
from .functions import exchanging_class, original_class

PLANS = "_dlperf_training"  # the attribute that holds a model's captured training steps
_SHARED = ("_parameters", "_buffers", "_non_persistent_buffers_set")

# Wrappers that hold hooks or compiled code for the very modules inside them.
_WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "call dlperf.optimize before torch.compile",
    "torch.nn.parallel.distributed.DistributedDataParallel": "call dlperf.optimize before DistributedDataParallel",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "call dlperf.optimize before FSDP",
}


def why_not_swapped(module: torch_nn.Module) -> str:
    """Why torch serves a layer."""
    kind = type(module)
    if kind in LAYERS.values():
        own = getattr(module, "why_not", None)
        return (own() if own is not None else None) or "it called no operator of dlperf"
    for torch_class in LAYERS:
        if isinstance(module, torch_class) and kind is not torch_class:
            if torch.nn.utils.parametrize.is_parametrized(module):
                return "parametrized: the parametrization has made a class of its own"
            return f"a subclass of {torch_class.__name__} may compute something else"
    return f"dlperf has no {kind.__name__}"


def swap_layers(
    model: torch_nn.Module, classes: dict[type, type] = LAYERS, exchange_functions: bool = False
) -> torch_nn.Module:
    """A copy that shares parameters and buffers, of the classes that ``classes`` gives.

    exchange_functions: what other modules call of torch's functions is exchanged for dlperf's, too.
    """
    copies: dict[int, torch_nn.Module] = {}
    class_of = exchanging_class if exchange_functions else original_class
    swapped = _copy(model, copies, lambda kind: classes.get(kind) or class_of(kind))
    for copy in set(copies.values()):
        _remap_attributes(copy, copies)
    return swapped


def _copy(module: torch_nn.Module, copies: dict[int, torch_nn.Module], class_of: Callable) -> torch_nn.Module:
    if id(module) in copies:
        return copies[id(module)]
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError("optimize(): argument 'model' holds a scripted module: call dlperf.optimize before torch.jit")
    kind = type(module)
    mend = _WRAPPERS.get(f"{kind.__module__}.{kind.__qualname__}")
    if mend is not None:
        raise TypeError(f"optimize(): argument 'model' holds a {kind.__name__}: {mend}")
    new_class = class_of(kind)
    copy = new_class.__new__(new_class)
    copies[id(module)] = copy
    state = dict(module.__dict__)
    state.pop(PLANS, None)
    for name, value in state.items():
        if name not in _SHARED and name != "_modules" and type(value) in (dict, OrderedDict):
            state[name] = value.copy()
    state["_modules"] = type(module._modules)(
        (name, None if child is None else _copy(child, copies, class_of)) for name, child in module._modules.items()
    )
    copy.__dict__.update(state)
    return copy


def _remap_attributes(copy: torch_nn.Module, copies: dict[int, torch_nn.Module]) -> None:
    """Attributes that refer to modules of the tree (lists of layers, bound methods) refer to their copies."""
    for name, value in list(copy.__dict__.items()):
        if name.startswith("_") and name in ("_modules", *_SHARED):
            continue
        remapped = _remap(value, copies)
        if remapped is not value:
            copy.__dict__[name] = remapped


def _remap(value, copies):
    if isinstance(value, torch_nn.Module):
        return copies.get(id(value), value)
    if isinstance(value, types.MethodType) and id(value.__self__) in copies:
        return types.MethodType(value.__func__, copies[id(value.__self__)])
    if type(value) in (list, tuple):
        items = [_remap(v, copies) for v in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else type(value)(items)
    if type(value) is dict:
        items = {k: _remap(v, copies) for k, v in value.items()}
        return value if all(items[k] is v for k, v in value.items()) else items
    return value
