"""Slices of a tensor along a dimension, and their gradients back in the tensor's own memory order."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..memory import new_empty_strided
from ._frame import lies_as_in_eager, plain


@lru_cache(maxsize=1024)
def dense_strides(size: tuple, strides: tuple) -> tuple[int, ...]:
    """Strides without gaps that keep the dimensions' order in memory; expanded dimensions come last."""
    found, step = [0] * len(size), 1
    for d in sorted(range(len(size)), key=lambda d: (strides[d] or float("inf"), -d)):
        found[d] = step
        step *= max(size[d], 1)
    return tuple(found)


class _Unbind(torch.autograd.Function):
    """torch's own backward stacks the gradients contiguously, which a permuted input has copied once more."""

    @staticmethod
    def forward(ctx, x: Tensor, dim: int):
        ctx.dim, ctx.size, ctx.strides = dim, x.shape, dense_strides(x.shape, x.stride())
        ctx.set_materialize_grads(False)
        return x.unbind(dim)

    @staticmethod
    def backward(ctx, *grads):
        dim = ctx.dim
        some = next((g for g in grads if g is not None), None)
        if some is None:
            return None, None
        given = [g for g in grads if g is not None]
        gx = None
        if not torch.is_grad_enabled() and lies_as_in_eager(*given):
            gx = _as_one(grads, dim)
        if gx is None and (torch.is_grad_enabled() or not plain(*given)):
            return torch.stack([torch.zeros_like(some) if g is None else g for g in grads], dim), None
        if gx is None:
            gx = new_empty_strided(some, ctx.size, ctx.strides)
            for to, g in zip(gx.unbind(dim), grads, strict=True):
                to.zero_() if g is None else to.copy_(g)
        return gx, None


def evenly_apart(slices: tuple) -> int:
    """Elements from each of these tensors to the next, where all are alike and lie in one memory; else 0."""
    first, second = slices[0], slices[1]
    start, storage = first.storage_offset(), first.untyped_storage().data_ptr()
    step = second.storage_offset() - start
    for i, s in enumerate(slices):
        alike = s.shape == first.shape and s.stride() == first.stride() and s.dtype is first.dtype
        if not alike or s.untyped_storage().data_ptr() != storage or s.storage_offset() != start + i * step:
            return 0
    return max(step, 0)


def _as_one(slices: tuple, dim: int) -> Tensor | None:
    """The tensor whose slices these are, without a copy; None where they don't lie evenly in one memory."""
    if len(slices) < 2 or any(s is None for s in slices):
        return None
    step, first = evenly_apart(slices), slices[0]
    if not step:
        return None
    size, strides = list(first.shape), list(first.stride())
    size.insert(dim, len(slices))
    strides.insert(dim, step)
    return first.as_strided(size, strides)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """torch.unbind: every slice of the input along a dimension, as a view.

    The slices' gradients become one tensor in the input's memory order. Those that lie so already, as attention's do
    where query, key and value are slices of one tensor, are not copied.
    """
    if not (isinstance(input, Tensor) and input.requires_grad and torch.is_grad_enabled() and lies_as_in_eager(input)):
        return torch.unbind(input, dim)
    if not (isinstance(dim, int) and -input.dim() <= dim < input.dim()) or input.shape[dim] == 0:
        return torch.unbind(input, dim)
    return _Unbind.apply(input, dim % input.dim())


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """torch.chunk: the input in that many parts along a dimension, as views; gradients as :func:`unbind`'s."""
    whole = isinstance(input, Tensor) and isinstance(chunks, int) and isinstance(dim, int) and chunks > 1
    if not whole or not -input.dim() <= dim < input.dim() or input.shape[dim] == 0 or input.shape[dim] % chunks:
        return torch.chunk(input, chunks, dim)
    dim %= input.dim()
    return unbind(input.unflatten(dim, (chunks, input.shape[dim] // chunks)), dim)
