"""Steps that write where they are told: kernels called directly, all but the addresses worked out beforehand.

``prepare`` gives one for an operator call that was seen, or None: then the plan calls the operator's function, which
allocates its result. Here are torch's operators; `cpu_kernels` has dlperf's, `prepared` what both are made of.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from .. import backends
from ..backends import cpu
from ..backends.cpu._library import FLOATS
from ..backends.cpu.add import broadcast_rows
from .cpu_kernels import PREPARE, image_format, same_order
from .prepared import Address, Prepared, Weights

aten = torch.ops.aten


def prepare(target, served_by: str, args: tuple, kwargs: dict, result, weights: Weights) -> Prepared | None:
    """For a call of ``target`` that gave ``result``: how to do it into given memory, or None."""
    outs = [r for r in (result if isinstance(result, (tuple, list)) else [result]) if r is not None]
    if not outs[0].numel() or not all(r.is_cpu for r in outs):
        return None
    if target.namespace == "dlperf":
        found = PREPARE.get(target._schema.name.partition("::")[2])
        return found(args, result, weights) if found is not None and served_by == "cpu" and not kwargs else None
    native = _NATIVE.get(target) if cpu.C is not None and backends.named() in (None, "cpu") else None
    if native is not None:
        prepared = native(args, kwargs, result)
        if prepared is not None:
            return prepared
    if target in _COPIES:
        return Prepared(Tensor.copy_, (result, args[0]), any_address=False) if args[0].shape == result.shape else None
    function = _OUT_VARIANTS.get(target)
    if function is None:
        return None
    return Prepared(_Into(function, tuple(kwargs.items())), (result, *args), any_address=False)


def restrided(x: Tensor, size, stride, dtype) -> Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device=x.device).copy_(x)


class _Into:
    """function(*args, out=out, **kwargs), called as (out, *args)."""

    __slots__ = ("function", "kwargs")

    def __init__(self, function, kwargs):
        self.function, self.kwargs = function, dict(kwargs)

    def __call__(self, out, *args):
        self.function(*args, out=out, **self.kwargs)


_COPIES = (aten.contiguous.default, aten.clone.default, aten._to_copy.default, aten.to.dtype)
_OUT_VARIANTS = {
    aten.add.Tensor: torch.add,
    aten.sub.Tensor: torch.sub,
    aten.mul.Tensor: torch.mul,
    aten.div.Tensor: torch.div,
    aten.cat.default: torch.cat,
}

# Python's binding of an operator, where it is quicker to call than the dispatcher's own.
_FAST = {
    aten.view.default: Tensor.view,
    aten.reshape.default: Tensor.reshape,
    aten.transpose.int: Tensor.transpose,
    aten.permute.default: Tensor.permute,
    aten.unsqueeze.default: Tensor.unsqueeze,
    aten.add.Tensor: torch.add,
    aten.sub.Tensor: torch.sub,
    aten.mul.Tensor: torch.mul,
    aten.div.Tensor: torch.div,
    aten.sigmoid.default: torch.sigmoid,
    aten.cat.default: torch.cat,
    aten._foreach_add_.Scalar: torch._foreach_add_,
}


def fast_call(function):
    return _FAST.get(function, function) if isinstance(function, torch._ops.OpOverload) else function


def _elementwise(kernel):
    """For torch's operators on two tensors that lie in one order."""

    def prepare(args, kwargs, y):
        a, b = args[:2]
        if not isinstance(b, Tensor) or not a.dtype is b.dtype is y.dtype or y.dtype not in FLOATS:
            return None
        if not a.shape == b.shape == y.shape or not same_order(a, y) or not same_order(b, y):
            return None
        head = (FLOATS[y.dtype], y.numel(), Address(a), Address(b))
        return Prepared(*kernel(head, Address(y), kwargs))

    return prepare


def _add(args, kwargs, y):
    """y = a + alpha b; one of them may be broadcast."""
    alpha = kwargs.get("alpha", 1)
    prepared = _elementwise(lambda head, y, kwargs: (cpu.C.add, (*head, alpha, False, y)))(args, kwargs, y)
    rows = _in_rows(args, y, commutes=alpha == 1) if prepared is None else None
    return prepared if rows is None else Prepared(cpu.C.add_rows, (*rows, alpha, False, Address(y)))


def _multiply(args, kwargs, y):
    """y = a b; one of them may be broadcast."""
    prepared = _elementwise(lambda head, y, kwargs: (cpu.C.multiply, (*head, y)))(args, kwargs, y)
    rows = _in_rows(args, y, commutes=True) if prepared is None else None
    return prepared if rows is None else Prepared(cpu.C.multiply_rows, (*rows, Address(y)))


def _in_rows(args, y, commutes: bool) -> tuple | None:
    """The first arguments of ``add_rows``, up to the steps of the operand that is broadcast."""
    if not all(isinstance(t, Tensor) for t in args[:2]):
        return None
    a, b = args[:2] if args[0].shape == y.shape or not commutes else args[1::-1]
    if not a.dtype is b.dtype is y.dtype or y.dtype not in FLOATS or a.stride() != y.stride() or a.shape != y.shape:
        return None
    rows = broadcast_rows(y.shape, y.stride(), b.expand(y.shape).stride())
    if rows is None:
        return None
    outer, mid, inner, *steps = rows
    return FLOATS[y.dtype], outer, mid, inner, Address(a), Address(b), *steps


def _same_bytes(x: Tensor, y: Tensor, layout) -> bool:
    """Whether elements of x are copied to y as they lie in memory."""
    return (
        x.dtype is y.dtype
        and not (x.is_conj() or x.is_neg())
        and all(t.is_contiguous(memory_format=layout) for t in (x, y))
    )


def _concatenate(args, kwargs, y):
    """Up to four tensors that lie in y's order: rows of bytes, one for each index before the dimension in memory."""
    tensors, dim = args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0)
    tensors, dim = [t for t in tensors if t.numel()], dim % y.dim()
    layout = image_format(y)
    if len(tensors) > 4 or not all(t.dim() == y.dim() and _same_bytes(t, y, layout) for t in tensors):
        return None
    order = [0, 2, 3, 1] if layout is torch.channels_last else list(range(y.dim()))
    place = order.index(dim)
    rows = prod(y.shape[d] for d in order[:place])
    sources = [v for t in tensors for v in (Address(t), t.numel() // rows * t.itemsize)]
    return Prepared(cpu.C.concatenate, (Address(y), rows, *sources, *(0,) * (8 - len(sources))))


def _pad(y, x, pad, value=None):
    """Zeros around the last two dimensions of tensors in y's order; in channels_last, around pixels."""
    layout = image_format(y)
    if value or len(pad) > 4 or min(pad) < 0:
        return None
    if not _same_bytes(x, y, layout):
        return None
    left, right, top, bottom = (*pad, 0, 0, 0, 0)[:4]
    if layout is torch.channels_last:
        n, pixel, h, w = x.shape
    elif x.dim() < 2:
        return None
    elif left == right == 0:  # whole rows are the pixels
        *lead, w, pixel = x.shape
        n, h, top, bottom, left, right = prod(lead), 1, 0, 0, top, bottom
    else:
        *lead, h, w = x.shape
        n, pixel = prod(lead), 1
    return Prepared(cpu.C.pad, (Address(x), Address(y), n, h, w, pixel * y.itemsize, top, bottom, left, right))


def _pad_in_mode(y, x, pad, mode="constant", value=None):
    return _pad(y, x, pad, value) if mode == "constant" else None


def _copy(args, kwargs, y):
    """Into another dtype, into channels_last, or out of a slice of each row."""
    x = args[0]
    if x.shape != y.shape or x.is_conj() or x.is_neg() or not x.is_cpu or not is_dense(y):
        return None
    if x.dtype is not y.dtype:
        if x.dtype not in FLOATS or y.dtype not in FLOATS or not same_order(x, y):
            return None
        return Prepared(cpu.C.cast, (FLOATS[x.dtype], FLOATS[y.dtype], y.numel(), Address(x), Address(y)))
    rows = _rows_of_slice(x, y)
    if rows is not None:
        count, step, inner = rows
        return Prepared(cpu.C.copy_rows, (Address(x), step * x.itemsize, Address(y), count, inner * x.itemsize))
    last = torch.channels_last
    if x.dim() == 4 and x.is_contiguous() and y.is_contiguous(memory_format=last) and y.dtype in FLOATS:
        n, c, h, w = x.shape
        return Prepared(cpu.C.transpose, (Address(x), Address(y), n, c, h * w, x.itemsize))
    return None


def _rows_of_slice(x: Tensor, y: Tensor) -> tuple[int, int, int] | None:
    """(rows, elements from each to the next in x, elements of one), where x is y but for gaps between rows."""
    order = sorted((d for d in range(y.dim()) if y.shape[d] > 1), key=lambda d: -y.stride(d))
    inner = 1
    while order and x.stride(order[-1]) == inner:
        inner *= y.shape[order.pop()]
    if not order:
        return 1, inner, inner
    rows, step = 1, x.stride(order[-1])
    while order and x.stride(order[-1]) == step * rows:
        rows *= y.shape[order.pop()]
    return (rows, step, inner) if not order and inner >= _LEAST_SLICE and step > inner else None


# Elements of a row worth copying by itself.
_LEAST_SLICE = 8


def is_dense(x: Tensor) -> bool:
    return torch.ops.aten.is_non_overlapping_and_dense(x)


_NATIVE = {
    aten.add.Tensor: _add,
    aten.mul.Tensor: _multiply,
    **dict.fromkeys(_COPIES, _copy),
    aten.cat.default: _concatenate,
    aten.constant_pad_nd.default: lambda args, kwargs, y: _pad(y, *args, **kwargs),
    aten.pad.default: lambda args, kwargs, y: _pad_in_mode(y, *args, **kwargs),
}
