"""Arguments and results as flat lists of tensors, and how to build them again.

A template is nested tuples ``(kind, ...)``; tensors are leaves, everything else is constant.
"""

from __future__ import annotations

import enum
import types

import torch
from torch import Tensor
from torch.nn import Parameter

_CONSTANTS = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.dtype,
    torch.device,
    torch.Size,
    torch.layout,
    torch.memory_format,
    slice,
)


class Unsupported(Exception):
    """The call can't be captured; the message says why."""


def signature(value, tensors: list[Tensor]):
    """A hashable key of one argument; its tensors are appended to ``tensors``."""
    kind = type(value)
    if kind is Tensor or kind is Parameter:
        if value.layout is not torch.strided or value.is_neg() or value.is_conj():
            raise Unsupported("an input is no plain dense tensor")
        tensors.append(value)
        return (value.dtype, value.device, value.shape, value.stride())
    if kind is tuple or kind is list:
        return (kind, *[signature(v, tensors) for v in value])
    if kind is dict:
        return (kind, *[(k, signature(v, tensors)) for k, v in value.items()])
    if kind in _CONSTANTS:
        return (kind, repr(value) if kind in (float, complex, slice) else value)
    if isinstance(value, enum.Enum):
        return (kind, value)
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return (kind, *[signature(v, tensors) for v in value])
    raise Unsupported(f"an input is a {kind.__name__}")


def describe_key(key) -> str:
    """A signature for people: dtypes and shapes of the tensors."""
    if isinstance(key, tuple):
        if len(key) == 4 and isinstance(key[0], torch.dtype):
            return f"{str(key[0]).removeprefix('torch.')}{list(key[2])}"
        if len(key) == 2 and isinstance(key[0], type) and not isinstance(key[1], tuple):
            return str(key[1])
        return ", ".join(filter(None, (describe_key(k) for k in key)))
    return "" if isinstance(key, type) else str(key)


def without_numbers(key):
    """The key with sizes and Python numbers masked: calls that differ in nothing else share it."""
    if isinstance(key, torch.Size):
        return len(key)
    if isinstance(key, tuple):
        if len(key) == 2 and key[0] in (int, float):
            return key[0]
        if len(key) == 4 and isinstance(key[0], torch.dtype):
            return (key[0], key[1], len(key[2]))
        return tuple(without_numbers(k) for k in key)
    return key


def rebuild_arguments(value, leaves):
    """``value`` with its tensors replaced by the iterator's; containers are fresh: what a model writes there shows."""
    kind = type(value)
    if kind is Tensor or kind is Parameter:
        return next(leaves)
    if kind is list or kind is tuple:
        return kind([rebuild_arguments(v, leaves) for v in value])
    if kind is dict:
        return {k: rebuild_arguments(v, leaves) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return kind(*[rebuild_arguments(v, leaves) for v in value])
    return value


def same_containers(a, b) -> bool:
    """Whether two argument structures have the same shape: what a model that writes into its containers breaks."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor)
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same_containers(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same_containers(a[k], b[k]) for k in a)
    return True


def flatten_result(value, leaves: list, path: tuple = ()):
    """The template of what a model returned; tensors (and symbolic sizes) are appended to ``leaves``, each once.

    Raises:
        Unsupported: something that can't be built again from its tensors.
    """
    if isinstance(value, (Tensor, torch.SymInt)):
        for index, leaf in enumerate(leaves):
            if leaf is value:
                return ("leaf", index)
        leaves.append(value)
        return ("leaf", len(leaves) - 1)
    kind = type(value)
    if kind in _CONSTANTS or isinstance(value, (enum.Enum, type, types.FunctionType, types.BuiltinFunctionType)):
        return ("constant", value)
    if any(value is above for above in path) or len(path) > 32:
        raise Unsupported(f"the model returns a {kind.__name__} that contains itself")
    path = (*path, value)
    if kind in (tuple, list):
        return ("sequence", kind, tuple(flatten_result(v, leaves, path) for v in value))
    if kind is dict:
        return ("mapping", tuple((k, flatten_result(v, leaves, path)) for k, v in value.items()))
    return _flatten_object(value, leaves, path)


def _flatten_object(value, leaves, path):
    """Named tuples, dataclasses, dictionaries with attributes, plain objects: class, items and attributes."""
    kind = type(value)
    if isinstance(value, tuple):
        return ("tuple", kind, tuple(flatten_result(v, leaves, path) for v in value))
    slots = any(vars(c).get("__slots__") for c in kind.__mro__)
    if slots or isinstance(value, (torch.nn.Module, types.ModuleType)):
        raise Unsupported(f"the model returns a {kind.__name__}")
    if isinstance(value, dict):
        items = tuple((k, flatten_result(v, leaves, path)) for k, v in dict.items(value))
    elif isinstance(value, list):
        items = tuple(flatten_result(v, leaves, path) for v in list.__iter__(value))
    else:
        items = ()
    attributes = getattr(value, "__dict__", None)
    if attributes is None:
        raise Unsupported(f"the model returns a {kind.__name__}")
    return (
        "object",
        kind,
        items,
        tuple((k, flatten_result(v, leaves, path)) for k, v in attributes.items()),
    )


def build_result(template, leaves):
    """The inverse of :func:`flatten_result`, on other leaves."""
    what = template[0]
    if what == "leaf":
        return leaves[template[1]]
    if what == "constant":
        return template[1]
    if what == "sequence":
        return template[1]([build_result(t, leaves) for t in template[2]])
    if what == "mapping":
        return {k: build_result(t, leaves) for k, t in template[1]}
    if what == "tuple":
        items = [build_result(t, leaves) for t in template[2]]
        return template[1](*items) if hasattr(template[1], "_fields") else template[1](items)
    _, kind, items, attributes = template
    result = kind.__new__(kind)
    if isinstance(result, dict):
        base = next(c for c in kind.__mro__ if c.__module__ in ("builtins", "collections"))
        for k, t in items:
            base.__setitem__(result, k, build_result(t, leaves))
    elif isinstance(result, list):
        list.extend(result, [build_result(t, leaves) for t in items])
    for k, t in attributes:
        result.__dict__[k] = build_result(t, leaves)
    return result


def objects_in(value, found: list | None = None) -> list:
    """Every object of a result that is neither a tensor, a constant nor a builtin container."""
    found = [] if found is None else found
    if isinstance(value, Tensor) or type(value) in _CONSTANTS or any(value is f for f in found):
        return found
    if type(value) in (tuple, list):
        for v in value:
            objects_in(v, found)
    elif type(value) is dict:
        for v in value.values():
            objects_in(v, found)
    else:
        found.append(value)
        for v in getattr(value, "__dict__", {}).values():
            objects_in(v, found)
    return found
