"""Gated linear units: y = a * act(b) of the halves a, b of x. Formulas and sources: docs/math/glu.md."""

from __future__ import annotations

import torch
from torch import Tensor

from ..memory import empty_like, new_empty
from ._checks import check_floating, describe
from ._frame import Operator, backward_through_reference, save_inputs
from .batch_norm import memory_format


def _format(x: Tensor, dim: int) -> torch.memory_format:
    """channels_last is kept where channels are what is halved."""
    return memory_format(x) if dim == 1 else torch.contiguous_format


def glu_empty(x: Tensor, dim: int, kind: str) -> Tensor:
    shape = list(x.shape)
    shape[dim] = shape[dim] // 2
    return new_empty(x, shape, _format(x, dim))


def glu_bwd_empty(gy: Tensor, x: Tensor, dim: int, kind: str) -> Tensor:
    return empty_like(x, memory_format=_format(x, dim))


def _backward(ctx, gy):
    (x,) = ctx.saved_tensors
    _, *rest = ctx.rest
    return (glu_bwd(gy, x, *rest),)


# kind: the activation of the second half: sigmoid, relu, gelu, gelu_tanh or silu.
glu_op = Operator("glu(Tensor x, int dim, str kind) -> Tensor", fake=glu_empty, setup=save_inputs, backward=_backward)

glu_bwd = Operator(
    "glu_bwd(Tensor gy, Tensor x, int dim, str kind) -> Tensor",
    fake=glu_bwd_empty,
    setup=save_inputs,
    backward=backward_through_reference("glu_bwd"),
)


def _gated(op: str, input: Tensor, dim: int, kind: str) -> Tensor:
    check_floating(op, input=input)
    if input.ndim == 0:
        raise RuntimeError(f"{op}(): expected 'input' to have at least 1 dimension, got {describe(input)}")
    if not -input.ndim <= dim < input.ndim:
        raise IndexError(f"{op}(): expected 'dim' to be in [{-input.ndim}, {input.ndim - 1}], got {dim}")
    dim = dim % input.ndim
    if input.shape[dim] % 2 != 0:
        raise RuntimeError(f"{op}(): expected dimension {dim} of 'input' to be even, got {describe(input)}")
    return glu_op(input, dim, kind)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a * sigmoid(b), a and b the halves of input along dim (Dauphin et al. 2017)."""
    return _gated("glu", input, dim, "sigmoid")


def geglu(input: Tensor, dim: int = -1, approximate: str = "none") -> Tensor:
    """a * gelu(b), a and b the halves of input along dim (Shazeer 2020)."""
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"geglu(): expected 'approximate' to be none or tanh, got {approximate!r}")
    return _gated("geglu", input, dim, "gelu" if approximate == "none" else "gelu_tanh")


def swiglu(input: Tensor, dim: int = -1) -> Tensor:
    """a * silu(b), a and b the halves of input along dim (Shazeer 2020)."""
    return _gated("swiglu", input, dim, "silu")


def reglu(input: Tensor, dim: int = -1) -> Tensor:
    """a * relu(b), a and b the halves of input along dim (Shazeer 2020)."""
    return _gated("reglu", input, dim, "relu")
