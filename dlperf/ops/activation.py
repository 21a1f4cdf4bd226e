"""Activations: y = act(x), elementwise. Formulas and sources: docs/math/activation.md."""

from __future__ import annotations

import torch
from torch import Tensor

from ..memory import empty_like
from ._checks import check_floating
from ._frame import Operator, backward_through_reference, plain, save_inputs

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

# Kinds whose derivative is the same function of the output as of the input: the output is kept, the input may go.
_SAME_FROM_OUTPUT = frozenset({"none", "relu", "relu6"})


def activation_empty(x: Tensor, *_) -> Tensor:
    """Dense, in x's own order of dimensions, as torch's elementwise operators give."""
    return empty_like(x)


def _setup(ctx, args, output):
    x, ctx.kind, ctx.param = args
    ctx.save_for_backward(output if ctx.kind in _SAME_FROM_OUTPUT else x)


def _backward(ctx, gy):
    (saved,) = ctx.saved_tensors
    return (activation_bwd(gy, saved, ctx.kind, ctx.param),)


activation = Operator(
    "activation(Tensor x, str kind, float param) -> Tensor",
    fake=activation_empty,
    setup=_setup,
    backward=_backward,
)

# x becomes act(x); without a gradient
activation_ = Operator("activation_(Tensor(a!) x, str kind, float param) -> ()", fake=lambda x, kind, param: None)

# gx = gy * act'(x), laid out as x
activation_bwd = Operator(
    "activation_bwd(Tensor gy, Tensor x, str kind, float param) -> Tensor",
    fake=lambda gy, x, kind, param: empty_like(x),
    setup=save_inputs,
    backward=backward_through_reference("activation_bwd"),
)


class _InPlace(torch.autograd.Function):
    """act_ of a kind whose derivative follows from what it leaves behind."""

    @staticmethod
    def forward(ctx, x, kind, param):
        activation_.run(x, kind, param)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        ctx.kind, ctx.param = kind, param
        return x

    @staticmethod
    def backward(ctx, gy):
        (y,) = ctx.saved_tensors
        return activation_bwd(gy, y, ctx.kind, ctx.param), None, None


def _activate(name: str, input: Tensor, kind: str, param: float = 0.0, inplace: bool = False) -> Tensor:
    check_floating(name, input=input)
    if not inplace:
        return activation(input, kind, param)
    if not plain(input):
        return input.copy_(activation(input, kind, param))
    if not (input.requires_grad and torch.is_grad_enabled()):
        activation_.run(input, kind, param)
        return input
    if kind in _SAME_FROM_OUTPUT:
        return _InPlace.apply(input, kind, param)
    return input.copy_(activation(input.clone(), kind, param))


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(input, 0), elementwise; any shape, any real dtype. NaN stays NaN."""
    if isinstance(input, Tensor) and not input.is_floating_point() and not input.is_complex():
        return torch.nn.functional.relu(input, inplace)  # integers: torch's own
    return _activate("relu", input, "relu", inplace=inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(input, 0), 6)."""
    return _activate("relu6", input, "relu6", inplace=inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """input where positive, else negative_slope * input."""
    return _activate("leaky_relu", input, "leaky_relu", float(negative_slope), inplace)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """input where positive, else alpha * (exp(input) - 1) (Clevert et al. 2015)."""
    return _activate("elu", input, "elu", float(alpha), inplace)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """input * Phi(input) (Hendrycks & Gimpel 2016); ``approximate="tanh"`` for the tanh form."""
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"gelu(): argument 'approximate' must be 'none' or 'tanh', got {approximate!r}")
    return _activate("gelu", input, "gelu" if approximate == "none" else "gelu_tanh")


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """input * sigmoid(input) (Hendrycks & Gimpel 2016); any shape, any floating dtype."""
    return _activate("silu", input, "silu", inplace=inplace)


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-input))."""
    return _activate("sigmoid", input, "sigmoid")


def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return _activate("tanh", input, "tanh")


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """relu6(input + 3) / 6 (Howard et al. 2019)."""
    return _activate("hardsigmoid", input, "hardsigmoid", inplace=inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """input * relu6(input + 3) / 6 (Howard et al. 2019)."""
    return _activate("hardswish", input, "hardswish", inplace=inplace)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * input)) / beta, and input itself where beta * input is over the threshold.

    Thresholds other than torch's default of 20 are served by torch's own operator.
    """
    check_floating("softplus", input=input)
    if threshold != 20.0:
        return torch.nn.functional.softplus(input, beta, threshold)
    return activation(input, "softplus", float(beta))


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """input * tanh(softplus(input)) (Misra 2019)."""
    return _activate("mish", input, "mish", inplace=inplace)
