"""Dropout on the Philox contract of docs/math/random.md: the mask is never stored, it is drawn again in backward."""

from __future__ import annotations

from torch import Tensor

from ..memory import empty_like
from ._checks import check_floating
from ._frame import Operator
from .random import random_pair


def dropout_empty(x: Tensor, *_) -> Tensor:
    """Dense, in x's own order of dimensions: the order in which elements are numbered for the random words."""
    return empty_like(x)


def _setup(ctx, args, output):
    _, seed_offset, ctx.p = args
    ctx.strides = output.stride()
    ctx.save_for_backward(seed_offset)


def _backward(ctx, gy):
    (seed_offset,) = ctx.saved_tensors
    # The same elements in the same order, whatever gy's strides are.
    return dropout_op(_with_strides(gy, ctx.strides), seed_offset, ctx.p), None


def _with_strides(x: Tensor, strides) -> Tensor:
    if x.stride() == strides:
        return x
    order = sorted(range(x.dim()), key=lambda i: strides[i], reverse=True)
    back = sorted(range(x.dim()), key=lambda i: order[i])
    return x.permute(order).contiguous().permute(back)


dropout_op = Operator(
    "dropout(Tensor x, Tensor seed_offset, float p) -> Tensor",
    fake=dropout_empty,
    setup=_setup,
    backward=_backward,
)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """input * keep / (1 - p), each element kept with probability 1 - p (Srivastava et al. 2014).

    The draws are Philox4x32-10 words of a (seed, offset) pair taken from torch's generator of input's device.

    Raises:
        ValueError: p outside [0, 1].
    """
    check_floating("dropout", input=input)
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0.0:
        return input
    y = dropout_op(input, random_pair(input.device), float(p))
    return input.copy_(y) if inplace else y
