"""Argument checks: the exception type that torch raises, naming the argument, what it is and what was expected."""

from __future__ import annotations

import torch
from torch import Tensor


def describe(x) -> str:
    """A tensor's shape, dtype and device in a few words, or what the thing is instead."""
    if isinstance(x, Tensor):
        return f"a {str(x.dtype).removeprefix('torch.')} tensor of shape {tuple(x.shape)} on {x.device}"
    return f"{type(x).__name__} {x!r}"


def check_tensor(op: str, **named) -> None:
    for name, x in named.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{op}(): argument '{name}' must be Tensor, not {type(x).__name__}")


def check_floating(op: str, **named) -> None:
    """Each is a Tensor of a floating dtype, or None.

    torch raises RuntimeError here or, where a kernel lacks the dtype, its subclass NotImplementedError.
    """
    for name, x in named.items():
        if x is None:
            continue
        if not isinstance(x, Tensor):
            raise TypeError(f"{op}(): argument '{name}' must be Tensor, not {type(x).__name__}")
        if not x.is_floating_point():
            raise NotImplementedError(f"{op}(): expected '{name}' to have a floating dtype, got {describe(x)}")


def check_same_device(op: str, **named) -> None:
    """All given tensors are on one device."""
    first = None
    for name, x in named.items():
        if x is None:
            continue
        if first is None:
            first = (name, x)
        elif x.device != first[1].device:
            raise RuntimeError(
                f"{op}(): expected all tensors on one device, but '{first[0]}' is on {first[1].device} "
                f"and '{name}' is on {x.device}"
            )


def check_same_dtype(op: str, **named) -> None:
    """All given tensors have one dtype."""
    first = None
    for name, x in named.items():
        if x is None:
            continue
        if first is None:
            first = (name, x)
        elif x.dtype is not first[1].dtype:
            raise RuntimeError(
                f"{op}(): expected '{name}' to have the dtype of '{first[0]}' "
                f"({str(first[1].dtype).removeprefix('torch.')}), got {describe(x)}"
            )


def broadcast_shape(a, b) -> torch.Size:
    """``torch.broadcast_shapes(a, b)``, which takes many times as long. Raises RuntimeError."""
    if not all(type(n) is int for n in (*a, *b)):  # symbols of a trace
        return torch.broadcast_shapes(a, b)
    if len(a) < len(b):
        a, b = b, a
    shape = list(a)
    for i, n in enumerate(b, len(a) - len(b)):
        if shape[i] == 1:
            shape[i] = n
        elif n != 1 and n != shape[i]:
            raise RuntimeError(f"shapes {tuple(a)} and {tuple(b)} do not broadcast")
    return torch.Size(shape)
