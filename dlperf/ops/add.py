"""Sums of two tensors with relu in the same pass: the joins of residual networks. Formulas: docs/math/add.md."""

from __future__ import annotations

import torch
from torch import Tensor

from ..memory import empty_like
from ._checks import check_same_device, check_tensor
from ._epilogue import gradient_before
from ._frame import Operator


def add_empty(a: Tensor, b: Tensor, *_) -> Tensor:
    """Dense, in a's own order of dimensions."""
    return empty_like(a)


def _setup(ctx, args, output):
    _, _, ctx.alpha, ctx.kind = args
    ctx.save_for_backward(None if ctx.kind == "none" else output)


def _backward(ctx, gy):
    (y,) = ctx.saved_tensors
    g = gradient_before(ctx.kind, gy, y)
    return g, g if ctx.alpha == 1.0 else g * ctx.alpha


# act(a + alpha b) of one shape and dtype; `activation` is "none" or "relu"
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
            input, other = torch.broadcast_tensors(input, other)
        except RuntimeError:
            raise RuntimeError(
                f"add(): expected shapes that broadcast, got 'input' {tuple(input.shape)} and 'other' "
                f"{tuple(other.shape)}"
            ) from None
    return add_op(input.to(dtype), other.to(dtype), float(alpha), activation or "none")
