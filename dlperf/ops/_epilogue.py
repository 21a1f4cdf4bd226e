"""What matrix-like operators share: the activation that ends them, autocast's dtype, operands that fit together."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter

from ..memory import SMALLEST, empty_like
from ._checks import describe
from ._frame import autocast_dtype, plain
from .activation import FROM_OUTPUT, KINDS, activation_bwd

# The kinds that an epilogue can end in: those without a parameter.
EPILOGUES = tuple(kind for kind in KINDS if kind not in ("leaky_relu", "elu", "softplus"))


def check_activation(op: str, activation: str | None) -> str:
    """The kind's name, "none" for None."""
    if activation is None:
        return "none"
    if activation not in EPILOGUES:
        raise ValueError(
            f"{op}(): expected 'activation' to be None or one of {', '.join(EPILOGUES)}, got {activation!r}"
        )
    return activation


def fuses(kind: str, *tensors: Tensor | None) -> bool:
    """Whether the epilogue should apply the kind: a gradient wants what the activation got, unless its output tells."""
    if kind in FROM_OUTPUT or not torch.is_grad_enabled():
        return True
    return not any(t is not None and t.requires_grad for t in tensors)


def gradient_before(kind: str, gy: Tensor, y: Tensor) -> Tensor:
    """gz, where y = act(z) and y alone gives the derivative."""
    return gy if kind == "none" else activation_bwd(gy, y, kind, 0.0)


class _Cast(torch.autograd.Function):
    """A large weight in another dtype, and its gradient back, through memory that is used again at the next step."""

    @staticmethod
    def forward(ctx, weight: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = weight.dtype
        return empty_like(weight, dtype=dtype).copy_(weight)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return empty_like(grad, dtype=ctx.dtype).copy_(grad), None


def _cast(t: Tensor, dtype: torch.dtype) -> Tensor:
    if (
        type(t) is Parameter
        and t.is_cpu
        and t.dtype is not dtype
        and t.numel() * dtype.itemsize >= SMALLEST
        and plain()
    ):
        return _Cast.apply(t, dtype)
    return t.to(dtype)


def cast_for_autocast(first: Tensor, *rest: Tensor | None) -> list[Tensor | None]:
    """All in the dtype that torch.autocast wants, float64 and integers as they are."""
    dtype = autocast_dtype(first)
    if dtype is None:
        return [first, *rest]
    return [
        _cast(t, dtype) if isinstance(t, Tensor) and t.is_floating_point() and t.dtype is not torch.float64 else t
        for t in (first, *rest)
    ]


def check_operands(op: str, names: tuple[str, ...], first: Tensor, *rest: Tensor | None) -> None:
    """All of one dtype and on one device; None is skipped. The names are those of first and rest."""
    dtype, is_cpu = first.dtype, first.is_cpu
    for i, t in enumerate(rest, 1):
        if t is None:
            continue
        if t.dtype is not dtype:
            raise RuntimeError(
                f"{op}(): expected '{names[i]}' to have the dtype of '{names[0]}' "
                f"({str(dtype).removeprefix('torch.')}), got {describe(t)}"
            )
        if not (is_cpu and t.is_cpu) and t.device != first.device:
            raise RuntimeError(
                f"{op}(): expected all tensors on one device, but '{names[0]}' is on {first.device} "
                f"and '{names[i]}' is on {t.device}"
            )


def check_residual(op: str, residual: Tensor, size: tuple) -> None:
    if not isinstance(residual, Tensor):
        raise TypeError(f"{op}(): argument 'residual' must be Tensor, not {type(residual).__name__}")
    if residual.shape != size:
        raise RuntimeError(f"{op}(): expected 'residual' to have the output's shape {size}, got {describe(residual)}")


def check_floating_operands(
    op: str, channels: int, input: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None
) -> None:
    """A convolution's operands: floating, of one dtype and device; bias with one value a channel."""
    if not input.is_floating_point():
        raise RuntimeError(f"{op}(): expected 'input' to have a floating dtype, got {describe(input)}")
    if bias is not None:
        if not isinstance(bias, Tensor):
            raise TypeError(f"{op}(): argument 'bias' must be Tensor, not {type(bias).__name__}")
        if bias.dim() != 1 or bias.shape[0] != channels:
            raise RuntimeError(f"{op}(): expected 'bias' to have the shape ({channels},), got {describe(bias)}")
    check_operands(op, ("input", "weight", "bias", "residual"), input, weight, bias, residual)
