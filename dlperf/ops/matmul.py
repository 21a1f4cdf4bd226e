"""Matrix products with an epilogue: linear, matmul, mm, bmm, addmm, baddbmm. Formulas: docs/math/matmul.md."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..memory import new_empty
from ._checks import broadcast_shape, describe
from ._epilogue import (
    cast_for_autocast,
    check_activation,
    check_operands,
    check_residual,
    fuses,
    gradient_before,
)
from ._frame import Operator
from .activation import FROM_OUTPUT, activation, activation_bwd
from .channel_sum import channel_sum


def linear_empty(x: Tensor, weight: Tensor, *_) -> Tensor:
    """[*, out_features], contiguous."""
    return new_empty(x, (*x.shape[:-1], weight.shape[0]))


def bmm_empty(a: Tensor, b: Tensor, *_) -> Tensor:
    """[*, M, N], contiguous."""
    return new_empty(a, (*a.shape[:-1], b.shape[-1]))


def rows_of(x: Tensor) -> Tensor:
    """[*, N] as a matrix."""
    return x if x.dim() == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _conj(x: Tensor) -> Tensor:
    return x.conj() if x.is_complex() else x


def _linear_setup(ctx, args, output):
    x, weight, bias, residual, kind = args
    ctx.kind = kind
    if kind in FROM_OUTPUT:
        needs = ctx.needs_input_grad
        ctx.save_for_backward(x if needs[1] else None, weight if needs[0] else None, None if kind == "none" else output)
    else:
        ctx.save_for_backward(x, weight, bias, residual)


def _linear_backward(ctx, gy):
    kind, needs = ctx.kind, ctx.needs_input_grad
    if kind in FROM_OUTPUT:
        x, weight, y = ctx.saved_tensors
        gz = gradient_before(kind, gy, y)
    else:
        x, weight, bias, residual = ctx.saved_tensors
        gz = activation_bwd(gy, _linear(x, weight, bias, residual, "none"), kind, 0.0)
    gx = gw = gb = None
    if needs[0]:
        gx = _linear(gz, _conj(weight.t()), None, None, "none")
    if needs[1] or needs[2]:
        rows = rows_of(gz)
        if needs[1]:
            gw = _linear(rows.t(), _conj(rows_of(x).t()), None, None, "none")
        if needs[2]:
            gb = channel_sum(rows)
    return gx, gw, gb, gz if needs[3] else None


# act(x @ weight.T + bias + residual); operands of any strides
_linear = Operator(
    "linear(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, str activation) -> Tensor",
    fake=linear_empty,
    setup=_linear_setup,
    backward=_linear_backward,
)


def _bmm_setup(ctx, args, output):
    a, b, bias, input, ctx.beta, ctx.alpha, kind = args
    ctx.kind = kind
    if kind in FROM_OUTPUT:
        needs = ctx.needs_input_grad
        ctx.save_for_backward(a if needs[1] else None, b if needs[0] else None, None if kind == "none" else output)
    else:
        ctx.save_for_backward(a, b, bias, input)


def _bmm_backward(ctx, gy):
    kind, alpha, beta, needs = ctx.kind, ctx.alpha, ctx.beta, ctx.needs_input_grad
    if kind in FROM_OUTPUT:
        a, b, y = ctx.saved_tensors
        gz = gradient_before(kind, gy, y)
    else:
        a, b, bias, input = ctx.saved_tensors
        gz = activation_bwd(gy, _bmm(a, b, bias, input, beta, alpha, "none"), kind, 0.0)
    return (
        _bmm(gz, _conj(b.mT), None, None, 0.0, alpha, "none") if needs[0] else None,
        _bmm(_conj(a.mT), gz, None, None, 0.0, alpha, "none") if needs[1] else None,
        channel_sum(rows_of(gz)) if needs[2] else None,
        (gz if beta == 1 else gz * beta) if needs[3] else None,
    )


# act(alpha * a @ b + bias + beta * input); equal batch dimensions, operands of any strides
_bmm = Operator(
    "bmm(Tensor a, Tensor b, Tensor? bias, Tensor? input, float beta, float alpha, str activation) -> Tensor",
    fake=bmm_empty,
    setup=_bmm_setup,
    backward=_bmm_backward,
)


def _apply_linear(x, weight, bias, residual, kind):
    if kind == "none" or fuses(kind, x, weight, bias, residual):
        return _linear(x, weight, bias, residual, kind)
    return activation(_linear(x, weight, bias, residual, "none"), kind, 0.0)


def _apply_bmm(a, b, bias, input, beta, alpha, kind):
    if kind == "none" or fuses(kind, a, b, bias, input):
        return _bmm(a, b, bias, input, beta, alpha, kind)
    return activation(_bmm(a, b, bias, input, beta, alpha, "none"), kind, 0.0)


def _check_tensors(op: str, names: tuple[str, ...], *tensors) -> None:
    for name, t in zip(names, tensors, strict=True):
        if not isinstance(t, Tensor):
            raise TypeError(f"{op}(): argument '{name}' must be Tensor, not {type(t).__name__}")


def _check_bias(op: str, bias, features: int) -> None:
    if not isinstance(bias, Tensor):
        raise TypeError(f"{op}(): argument 'bias' must be Tensor, not {type(bias).__name__}")
    if bias.dim() != 1 or bias.shape[0] != features:
        raise RuntimeError(f"{op}(): expected 'bias' to have the shape ({features},), got {describe(bias)}")


def linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """act(input @ weight.T + bias + residual).

    Args:
        input: [*, in_features].
        weight: [out_features, in_features], or [in_features].
        bias: [out_features], or anything that broadcasts to the output.
        residual: of the output's shape.
        activation: None, or a name of :data:`dlperf.ops._epilogue.EPILOGUES`.

    Raises:
        RuntimeError: shapes, dtypes or devices that don't fit. ValueError: an unknown activation.
    """
    if not (isinstance(input, Tensor) and isinstance(weight, Tensor)):
        _check_tensors("linear", ("input", "weight"), input, weight)
    kind = "none" if activation is None else check_activation("linear", activation)
    shape = weight.shape
    if len(shape) != 2:
        return _linear_of_vector(input, weight, bias, residual, kind)
    if input.dim() == 0 or input.shape[-1] != shape[1]:
        raise RuntimeError(
            f"linear(): expected 'input' to have {shape[1]} features, the columns of 'weight' {tuple(shape)}, "
            f"in its last dimension, got {describe(input)}"
        )
    if bias is not None and (not isinstance(bias, Tensor) or bias.shape != shape[:1]):
        bias, residual = _broadcast_bias(input, weight, bias, residual)
    if residual is not None:
        check_residual("linear", residual, (*input.shape[:-1], shape[0]))
    input, weight, bias, residual = cast_for_autocast(input, weight, bias, residual)
    check_operands("linear", ("input", "weight", "bias", "residual"), input, weight, bias, residual)
    return _apply_linear(input, weight, bias, residual, kind)


def _broadcast_bias(input, weight, bias, residual):
    """A bias that is not [out_features] but broadcasts to the output, as torch allows."""
    if not isinstance(bias, Tensor):
        raise TypeError(f"linear(): argument 'bias' must be Tensor, not {type(bias).__name__}")
    size = (*input.shape[:-1], weight.shape[0])
    try:
        if bias.dim() < 2:
            return bias.expand(size[-1]), residual
        bias = bias.expand(size)
    except RuntimeError:
        raise RuntimeError(f"linear(): expected 'bias' to broadcast to {size}, got {describe(bias)}") from None
    return None, bias if residual is None else residual + bias


def _linear_of_vector(input, weight, bias, residual, kind):
    if weight.dim() != 1 or input.dim() == 0:
        raise RuntimeError(
            f"linear(): expected 'input' of one dimension or more and 'weight' of one or two, got {describe(input)} "
            f"and {describe(weight)}"
        )
    if bias is not None:
        raise RuntimeError(f"linear(): expected no 'bias' with 'weight' of one dimension, got {describe(bias)}")
    return matmul(input, weight, residual=residual, activation=kind)


def matmul(
    input: Tensor,
    other: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """act(input @ other + bias + residual), with torch.matmul's rules for vectors and batches.

    Args:
        input: [K] or [*, M, K].
        other: [K] or [*, K, N]; the batch dimensions broadcast. No operand is copied for being transposed or expanded.
        bias: [N]; not where other is a vector.
        residual: of the output's shape.
        activation: None, or a name of :data:`dlperf.ops._epilogue.EPILOGUES`.

    Raises:
        RuntimeError: shapes, dtypes or devices that don't fit. ValueError: an unknown activation.
    """
    _check_tensors("matmul", ("input", "other"), input, other)
    kind = "none" if activation is None else check_activation("matmul", activation)
    rank, other_rank = input.dim(), other.dim()
    if rank == 0 or other_rank == 0:
        raise RuntimeError(
            f"matmul(): expected 'input' and 'other' to have one dimension or more, got {describe(input)} "
            f"and {describe(other)}"
        )
    inner = other.shape[0] if other_rank == 1 else other.shape[-2]
    if input.shape[-1] != inner:
        raise RuntimeError(
            f"matmul(): expected the last dimension of 'input' to be as long as "
            f"the {'last' if other_rank == 1 else 'last but one'} of 'other', got {describe(input)} "
            f"and {describe(other)}"
        )
    if other_rank > 2 and rank > 1:
        size = (*_batch_size(input, other), input.shape[-2], other.shape[-1])
    elif rank == 1 and other_rank > 2:
        size = (*other.shape[:-2], other.shape[-1])
    else:
        size = (*input.shape[:-1], *other.shape[1:])
    if bias is not None:
        if other_rank == 1:
            raise RuntimeError(f"matmul(): expected no 'bias' where 'other' is a vector, got {describe(bias)}")
        _check_bias("matmul", bias, other.shape[-1])
    if residual is not None:
        check_residual("matmul", residual, size)
    input, other, bias, residual = cast_for_autocast(input, other, bias, residual)
    check_operands("matmul", ("input", "other", "bias", "residual"), input, other, bias, residual)

    if other_rank == 2:
        return _apply_linear(input, other.t(), bias, residual, kind)
    if other_rank == 1:
        column = None if residual is None else residual.unsqueeze(-1)
        return _apply_linear(input, other.unsqueeze(0), None, column, kind).squeeze(-1)
    if rank == 1:
        row = None if residual is None else residual.unsqueeze(-2)
        a = input.expand(*other.shape[:-2], 1, inner)
        return _apply_bmm(a, other, bias, row, 1.0, 1.0, kind).squeeze(-2)
    batch = size[:-2]
    a = input if input.shape[:-2] == batch else input.expand(*batch, *input.shape[-2:])
    b = other if other.shape[:-2] == batch else other.expand(*batch, *other.shape[-2:])
    return _apply_bmm(a, b, bias, residual, 1.0, 1.0, kind)


def _batch_size(input: Tensor, other: Tensor) -> torch.Size:
    mine, theirs = input.shape[:-2], other.shape[:-2]
    if mine == theirs:
        return mine
    try:
        return broadcast_shape(mine, theirs)
    except RuntimeError:
        raise RuntimeError(
            f"matmul(): expected the batch dimensions of 'input' and 'other' to broadcast, got {describe(input)} "
            f"and {describe(other)}"
        ) from None


def _check_product(op: str, names: tuple[str, str], a: Tensor, b: Tensor, rank: int) -> None:
    for name, t in zip(names, (a, b), strict=True):
        if t.dim() != rank:
            raise RuntimeError(f"{op}(): expected '{name}' to have {rank} dimensions, got {describe(t)}")
    if a.shape[-1] != b.shape[-2] or a.shape[:-2] != b.shape[:-2]:
        raise RuntimeError(
            f"{op}(): expected '{names[1]}' to have the shape {(*a.shape[:-2], a.shape[-1], b.shape[-1])} "
            f"to fit '{names[0]}' {tuple(a.shape)}, got {describe(b)}"
        )


def mm(
    input: Tensor,
    mat2: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """act(input @ mat2 + bias + residual) of matrices [M, K] and [K, N]. See :func:`matmul`."""
    _check_tensors("mm", ("input", "mat2"), input, mat2)
    _check_product("mm", ("input", "mat2"), input, mat2, 2)
    return matmul(input, mat2, bias=bias, residual=residual, activation=activation)


def bmm(
    input: Tensor,
    mat2: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """act(input @ mat2 + bias + residual) of batches [B, M, K] and [B, K, N]. See :func:`matmul`."""
    _check_tensors("bmm", ("input", "mat2"), input, mat2)
    _check_product("bmm", ("input", "mat2"), input, mat2, 3)
    return matmul(input, mat2, bias=bias, residual=residual, activation=activation)


def addmm(
    input: Tensor,
    mat1: Tensor,
    mat2: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
    activation: str | None = None,
) -> Tensor:
    """act(beta * input + alpha * mat1 @ mat2).

    Args:
        input: broadcasts to [M, N]; not read where beta is 0.
        mat1: [M, K].
        mat2: [K, N].
        activation: None, or a name of :data:`dlperf.ops._epilogue.EPILOGUES`.

    Raises:
        RuntimeError: shapes, dtypes or devices that don't fit. ValueError: an unknown activation.
    """
    return _add_product("addmm", ("mat1", "mat2", "input"), input, mat1, mat2, beta, alpha, activation, 2)


def baddbmm(
    input: Tensor,
    batch1: Tensor,
    batch2: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
    activation: str | None = None,
) -> Tensor:
    """act(beta * input + alpha * batch1 @ batch2) of batches [B, M, K] and [B, K, N]. See :func:`addmm`."""
    return _add_product("baddbmm", ("batch1", "batch2", "input"), input, batch1, batch2, beta, alpha, activation, 3)


def _add_product(op, names, input, a, b, beta, alpha, activation, rank):
    _check_tensors(op, names, a, b, input)
    kind = "none" if activation is None else check_activation(op, activation)
    _check_product(op, names[:2], a, b, rank)
    beta, alpha = _number(op, "beta", beta), _number(op, "alpha", alpha)
    size = (*a.shape[:-1], b.shape[-1])
    a, b, input = cast_for_autocast(a, b, input)
    check_operands(op, names, a, b, input)
    if rank == 2 and beta == 1 and alpha == 1:
        if input.shape == size[1:]:
            return _apply_linear(a, b.t(), input, None, kind)
        if input.shape == size:
            return _apply_linear(a, b.t(), None, input, kind)
    try:
        input = input if input.shape == size else input.expand(size)
    except RuntimeError:
        raise RuntimeError(f"{op}(): expected 'input' to broadcast to {size}, got {describe(input)}") from None
    return _apply_bmm(a, b, None, input, beta, alpha, kind)


def _number(op: str, name: str, value) -> float:
    try:
        if isinstance(value, str):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{op}(): argument '{name}' must be Number, not {type(value).__name__}") from None
