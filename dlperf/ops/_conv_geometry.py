"""The numbers of a convolution: checked, normalised to two dimensions, with the result's shape."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import lru_cache

import torch


def conv_geometry(op, rank, x_size, weight_size, stride, padding, dilation, groups):
    """Checks a convolution's shapes and numbers.

    Args:
        rank: spatial dimensions, 1 or 2.

    Returns:
        ``(stride, padding, dilation, groups)`` of two dimensions, the explicit padding that F.pad has to add for an
        uneven "same" or None, and the result's shape.
    """
    return _call(_conv_cached, _conv, op, rank, x_size, weight_size, stride, padding, dilation, groups)


def conv_transpose_geometry(op, rank, x_size, weight_size, stride, padding, output_padding, dilation, groups):
    """The same for a transposed convolution: ``(stride, padding, output_padding, dilation, groups)``, what F.pad has to
    add where output_padding reaches stride, and the result's shape."""
    return _call(
        _transposed_cached,
        _transposed,
        *(op, rank, x_size, weight_size, stride, padding, output_padding, dilation, groups),
    )


def _call(cached, plain, *args):
    if not torch.compiler.is_compiling():
        try:
            return cached(*args)
        except TypeError:  # a list, or symbolic sizes; a refusal is raised again below
            pass
    return plain(*args)


def _conv(op, rank, x_size, weight_size, stride, padding, dilation, groups):
    _check_ranks(op, rank, x_size, weight_size)
    stride = _numbers(op, "stride", stride, rank, least=1)
    dilation = _numbers(op, "dilation", dilation, rank, least=1)
    groups = _groups(op, groups)
    channels, in_channels = x_size[-rank - 1], weight_size[1] * groups
    if channels != in_channels:
        raise RuntimeError(
            f"{op}(): expected 'input' to have {in_channels} channels with 'weight' {tuple(weight_size)} and "
            f"groups={groups}, got a tensor of shape {tuple(x_size)} with {channels}"
        )
    if weight_size[0] % groups != 0:
        raise RuntimeError(
            f"{op}(): expected groups={groups} to divide the first dimension of 'weight', got {tuple(weight_size)}"
        )
    kernel = weight_size[2:]
    extra = None
    if isinstance(padding, str):
        padding, extra = _named_padding(op, padding, stride, dilation, kernel)
    else:
        padding = _numbers(op, "padding", padding, rank, least=0)
    out = []
    for i in range(rank):
        padded = x_size[i - rank] + 2 * padding[i] + (extra[2 * (rank - i) - 1] if extra else 0)
        reach = dilation[i] * (kernel[i] - 1) + 1
        if x_size[i - rank] == 0 or padded < reach:
            raise RuntimeError(
                f"{op}(): expected 'weight' {tuple(weight_size)} with dilation {dilation} to fit into the padded "
                f"'input', got a tensor of shape {tuple(x_size)} with padding {padding}"
            )
        out.append((padded - reach) // stride[i] + 1)
    size = (*x_size[: -rank - 1], weight_size[0], *out)
    return (_two(stride, 1), _two(padding, 0), _two(dilation, 1), groups), extra, size


def _transposed(op, rank, x_size, weight_size, stride, padding, output_padding, dilation, groups):
    _check_ranks(op, rank, x_size, weight_size)
    stride = _numbers(op, "stride", stride, rank, least=1)
    dilation = _numbers(op, "dilation", dilation, rank, least=1)
    groups = _groups(op, groups)
    if isinstance(padding, str):
        raise TypeError(f"{op}(): argument 'padding' must be int or tuple of ints, not str")
    padding = _numbers(op, "padding", padding, rank, least=0)
    output_padding = _numbers(op, "output_padding", output_padding, rank, least=0)
    if x_size[-rank - 1] != weight_size[0]:
        raise RuntimeError(
            f"{op}(): expected 'input' to have {weight_size[0]} channels with 'weight' {tuple(weight_size)}, "
            f"got a tensor of shape {tuple(x_size)} with {x_size[-rank - 1]}"
        )
    if weight_size[0] % groups != 0:
        raise RuntimeError(
            f"{op}(): expected groups={groups} to divide the first dimension of 'weight', got {tuple(weight_size)}"
        )
    out, extra = [], []
    for i in range(rank):
        if output_padding[i] >= max(stride[i], dilation[i]):
            raise RuntimeError(
                f"{op}(): expected 'output_padding' to be less than stride {stride} or dilation {dilation}, "
                f"got {output_padding}"
            )
        length = (
            (x_size[i - rank] - 1) * stride[i]
            - 2 * padding[i]
            + dilation[i] * (weight_size[2 + i] - 1)
            + output_padding[i]
            + 1
        )
        if x_size[i - rank] == 0 or length < 1:
            raise RuntimeError(
                f"{op}(): expected padding {padding} to leave a result, got 'input' of shape {tuple(x_size)} and "
                f"'weight' {tuple(weight_size)}"
            )
        out.append(length)
    # As many whole strides of output_padding are zeros appended to the input.
    for i in reversed(range(rank)):
        extra += [0, output_padding[i] // stride[i]]
    output_padding = tuple(p % s for p, s in zip(output_padding, stride, strict=True))
    size = (*x_size[: -rank - 1], weight_size[1] * groups, *out)
    geometry = (_two(stride, 1), _two(padding, 0), _two(output_padding, 0), _two(dilation, 1), groups)
    return geometry, extra if any(extra) else None, size


_conv_cached = lru_cache(maxsize=4096, typed=True)(_conv)
_transposed_cached = lru_cache(maxsize=4096, typed=True)(_transposed)


def _two(values: tuple, first: int) -> tuple:
    return values if len(values) == 2 else (first, *values)


def _check_ranks(op, rank, x_size, weight_size) -> None:
    if len(x_size) not in (rank + 1, rank + 2):
        raise RuntimeError(
            f"{op}(): expected 'input' to have {rank + 2} dimensions, or {rank + 1} unbatched, "
            f"got a tensor of shape {tuple(x_size)}"
        )
    if len(weight_size) != rank + 2:
        raise RuntimeError(
            f"{op}(): expected 'weight' to have {rank + 2} dimensions, got a tensor of shape {tuple(weight_size)}"
        )
    if any(length == 0 for length in weight_size):
        raise RuntimeError(f"{op}(): expected 'weight' to have no empty dimension, got shape {tuple(weight_size)}")


def _number(op: str, name: str, value) -> int:
    if type(value) is int or isinstance(value, torch.SymInt):
        return value
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"{op}(): argument '{name}' must be int or tuple of ints, not {type(value).__name__} {value!r}"
        ) from None


def _numbers(op: str, name: str, value, rank: int, least: int) -> tuple:
    """One integer per dimension."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        values = tuple(_number(op, name, v) for v in value)
        if len(values) == 1:
            values *= rank
        if len(values) != rank:
            raise RuntimeError(f"{op}(): expected '{name}' to be one integer or {rank} of them, got {tuple(value)}")
    else:
        values = (_number(op, name, value),) * rank
    if any(v < least for v in values):
        raise RuntimeError(f"{op}(): expected '{name}' to be at least {least}, got {value}")
    return values


def _groups(op: str, groups) -> int:
    groups = _number(op, "groups", groups)
    if groups < 1:
        raise RuntimeError(f"{op}(): expected 'groups' to be at least 1, got {groups}")
    return groups


def _named_padding(op: str, padding: str, stride: tuple, dilation: tuple, kernel) -> tuple:
    """Padding of both sides, and what more the far side needs, as F.pad takes it."""
    if padding == "valid":
        return (0,) * len(stride), None
    if padding != "same":
        raise RuntimeError(f"{op}(): expected 'padding' to be integers, 'valid' or 'same', got {padding!r}")
    if any(s != 1 for s in stride):
        raise RuntimeError(f"{op}(): expected stride 1 with padding='same', got {stride}")
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    extra = [amount for t in reversed(total) for amount in (0, t % 2)]
    return tuple(t // 2 for t in total), extra if any(extra) else None
