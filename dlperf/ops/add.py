"""Sums of two tensors with relu in the same pass: the joins of residual networks. Formulas: docs/math/add.md."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from ..memory import empty_like
from ._checks import broadcast_shape, check_same_device, check_tensor
from ._epilogue import gradient_before
from ._frame import Operator
from .channel_sum import channel_sum
from .pool import avg_pool2d


def add_empty(a: Tensor, b: Tensor, *_) -> Tensor:
    """Dense, in a's own order of dimensions."""
    return empty_like(a)


def _sum_to(g: Tensor, size: tuple) -> Tensor:
    """g summed over the dimensions along which a tensor of that size was broadcast."""
    if g.shape == size:
        return g
    kept = len(size)
    while kept and size[-kept] == 1 and g.shape[-kept] != 1:
        kept -= 1
    if g.numel() and g.dim() > kept and g.shape[g.dim() - kept :] == size[len(size) - kept :]:
        # Over leading dimensions: a learned position that every sample of a batch shares.
        return channel_sum(g.reshape(prod(g.shape[: g.dim() - kept]), -1)).view(size)
    if g.numel() and g.dim() == 4 and tuple(size) == (*g.shape[:2], 1, 1):
        return avg_pool2d(g, tuple(g.shape[2:]), divisor_override=1)
    return g.sum_to_size(size)


def _setup(ctx, args, output):
    _, b, ctx.alpha, ctx.kind = args
    ctx.b_size = b.shape
    ctx.save_for_backward(None if ctx.kind == "none" else output)


def _backward(ctx, gy):
    (y,) = ctx.saved_tensors
    g = gradient_before(ctx.kind, gy, y)
    return g, _sum_to(g if ctx.alpha == 1.0 else g * ctx.alpha, ctx.b_size)


# act(a + alpha b) of one dtype, b of a shape that broadcasts to a's; `activation` is "none" or "relu"
add_op = Operator(
    "add(Tensor a, Tensor b, float alpha, str activation) -> Tensor",
    fake=add_empty,
    setup=_setup,
    backward=_backward,
)


def add(input: Tensor, other: Tensor, *, alpha: float = 1, activation: str | None = None) -> Tensor:
    """act(input + alpha * other), as torch.add; shapes broadcast and dtypes promote.

    Args:
        activation: None or "relu".

    Raises:
        RuntimeError: shapes that don't broadcast, tensors on two devices.
        ValueError: another activation.
    """
    check_tensor("add", input=input, other=other)
    if activation not in (None, "relu"):
        raise ValueError(f"add(): expected 'activation' to be None or 'relu', got {activation!r}")
    dtype = input.dtype if input.dtype is other.dtype else torch.result_type(input, other)
    if not dtype.is_floating_point:
        total = torch.add(input, other, alpha=alpha)
        return total if activation is None else torch.relu(total)
    if input.device != other.device:
        if input.dim() and other.dim():
            check_same_device("add", input=input, other=other)
        # torch adds a number on the CPU to a tensor anywhere
        device = input.device if input.dim() else other.device
        input, other = input.to(device), other.to(device)
    if input.shape != other.shape:
        try:
            shape = broadcast_shape(input.shape, other.shape)
        except RuntimeError:
            raise RuntimeError(
                f"add(): expected shapes that broadcast, got 'input' {tuple(input.shape)} and 'other' "
                f"{tuple(other.shape)}"
            ) from None
        if other.shape == shape and alpha == 1:
            input, other = other, input
        input = input.expand(shape)
    return add_op(input.to(dtype), other.to(dtype), float(alpha), activation or "none")
