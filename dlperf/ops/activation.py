"""Activations: y = act(x), elementwise. Formulas and sources: docs/math/activation.md."""

from __future__ import annotations

import torch
from torch import Tensor

from ._checks import check_floating
from ._frame import Operator, backward_through_reference, save_inputs

# The kinds, in the order of csrc/cpu/activation.h. `param` is what the comment names, else unused.
KINDS = (
    "none",
    "relu",
    "relu6",
    "leaky_relu",  # negative slope
    "elu",  # alpha
    "gelu",
    "gelu_tanh",
    "silu",
    "sigmoid",
    "tanh",
    "hardsigmoid",
    "hardswish",
    "softplus",  # beta
    "mish",
)

# Kinds whose derivative follows from the output alone: an epilogue may fuse them while a gradient is wanted.
FROM_OUTPUT = frozenset({"none", "relu"})


def activation_empty(x: Tensor, *_) -> Tensor:
    """Dense, in x's own order of dimensions, as torch's elementwise operators give."""
    return torch.empty_like(x)


def _backward(ctx, gy):
    (x,) = ctx.saved_tensors
    _, kind, param = ctx.rest
    return (activation_bwd(gy, x, kind, param),)


activation = Operator(
    "activation(Tensor x, str kind, float param) -> Tensor",
    fake=activation_empty,
    setup=save_inputs,
    backward=_backward,
)

# gx = gy * act'(x), laid out as x
activation_bwd = Operator(
    "activation_bwd(Tensor gy, Tensor x, str kind, float param) -> Tensor",
    fake=lambda gy, x, kind, param: torch.empty_like(x),
    setup=save_inputs,
    backward=backward_through_reference("activation_bwd"),
)


def relu(input: Tensor) -> Tensor:
    """max(input, 0), elementwise; any shape, any floating dtype. NaN stays NaN."""
    check_floating("relu", input=input)
    return activation(input, "relu", 0.0)


def silu(input: Tensor) -> Tensor:
    """input * sigmoid(input) (Hendrycks & Gimpel 2016); any shape, any floating dtype."""
    check_floating("silu", input=input)
    return activation(input, "silu", 0.0)
