"""Group norm with fused activation, and instance norm on it. Formulas and sources: docs/math/group_norm.md."""

from __future__ import annotations

import torch
from torch import Tensor

from ..memory import empty_like
from . import activation as _activation
from ._checks import check_floating, describe
from ._frame import Operator, backward_through_reference, save_inputs
from .batch_norm import memory_format
from .layer_norm import check_affine_dtypes

# What the kernels fuse; the other activations without a parameter run after the norm.
FUSED = ("none", "relu", "silu")
ALLOWED = tuple(kind for kind in _activation.KINDS if kind not in ("leaky_relu", "elu", "softplus"))


def group_norm_empty(x: Tensor, weight, bias, groups, eps, activation) -> tuple[Tensor, Tensor]:
    """y, in x's memory format, and stats: [mean; 1 / sqrt(variance + eps)] of each image's groups."""
    dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
    y = empty_like(x, memory_format=memory_format(x))
    return y, x.new_empty((2, x.shape[0] * groups), dtype=dtype)


def group_norm_bwd_empty(gy, x, weight, bias, stats, groups, eps, activation, wanted) -> tuple[Tensor, Tensor, Tensor]:
    """gx, gweight, gbias; those that are not wanted have no elements."""
    channels = (x.shape[1],)
    return (
        empty_like(x, memory_format=memory_format(x)) if wanted[0] else x.new_empty(0),
        (x if weight is None else weight).new_empty(channels if wanted[1] else 0),
        (x if bias is None else bias).new_empty(channels if wanted[2] else 0),
    )


def _setup(ctx, args, output):
    x, weight, bias, *ctx.rest = args
    ctx.save_for_backward(x, weight, bias, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, gy, _):
    x, weight, bias, stats = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:3])
    grads = group_norm_bwd(gy, x, weight, bias, stats, *ctx.rest, wanted)
    return tuple(g if w else None for g, w in zip(grads, wanted, strict=True))


group_norm_op = Operator(
    "group_norm(Tensor x, Tensor? weight, Tensor? bias, SymInt groups, float eps, str activation) -> (Tensor, Tensor)",
    fake=group_norm_empty,
    setup=_setup,
    backward=_backward,
)

# The activation's input is computed again from x and stats: nothing else is kept.
group_norm_bwd = Operator(
    "group_norm_bwd(Tensor gy, Tensor x, Tensor? weight, Tensor? bias, Tensor stats, SymInt groups, float eps, "
    "str activation, bool[] wanted) -> (Tensor, Tensor, Tensor)",
    fake=group_norm_bwd_empty,
    setup=save_inputs,
    backward=backward_through_reference("group_norm_bwd"),
)


def _check_channels(op: str, input: Tensor, **affine) -> None:
    for name, x in affine.items():
        if x is not None and (x.ndim != 1 or x.shape[0] != input.shape[1]):
            raise RuntimeError(
                f"{op}(): expected '{name}' to have one value for each of {input.shape[1]} channels, got {describe(x)}"
            )
    check_affine_dtypes(op, input, **affine)


def _norm(input: Tensor, weight, bias, groups: int, eps: float, activation: str | None) -> Tensor:
    kind = activation or "none"
    if kind in FUSED:
        return group_norm_op(input, weight, bias, groups, eps, kind)[0]
    return _activation.activation(group_norm_op(input, weight, bias, groups, eps, "none")[0], kind, 0.0)


def _check_activation(op: str, activation: str | None) -> None:
    if activation is not None and activation not in ALLOWED:
        raise ValueError(f"{op}(): expected 'activation' to be None or one of {', '.join(ALLOWED)}, got {activation!r}")


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
) -> Tensor:
    """Normalises each image's channels in groups (Wu & He 2018); input is (N, C, *), channels_last kept.

    weight and bias are (C,), of the input's dtype, or float32 beside a 16-bit input. ``activation`` ("silu", "relu",
    ...) is applied in the same pass. Raises RuntimeError where shapes or dtypes disagree, ValueError where a group
    holds one value in all.
    """
    check_floating("group_norm", input=input, weight=weight, bias=bias)
    if input.ndim < 2:
        raise RuntimeError(f"group_norm(): expected 'input' to have at least 2 dimensions, got {describe(input)}")
    if num_groups <= 0:
        raise RuntimeError(f"group_norm(): expected 'num_groups' to be greater than 0, got {num_groups}")
    shape = input.shape
    if shape[1] % num_groups != 0:
        raise RuntimeError(
            f"group_norm(): expected the channels of 'input' to be divisible by num_groups={num_groups}, "
            f"got {describe(input)}"
        )
    _check_channels("group_norm", input, weight=weight, bias=bias)
    _check_activation("group_norm", activation)
    if input.numel() == num_groups:
        raise ValueError(f"group_norm(): expected more than 1 value in a group when training, got {describe(input)}")
    return _norm(input, weight, bias, num_groups, eps, activation)


def _update_running(running: Tensor | None, fresh: Tensor, momentum: float) -> None:
    if running is not None:
        running.lerp_(fresh.to(running.dtype), momentum)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
) -> Tensor:
    """Normalises each channel of each image (Ulyanov, Vedaldi & Lempitsky 2016); input is (N, C, *).

    Group norm with a group for each channel. Running statistics, where given, take the mean over the images; with
    ``use_input_stats=False`` they are what is normalised by. Raises ValueError where an image has one position.
    """
    check_floating("instance_norm", input=input, weight=weight, bias=bias)
    _check_activation("instance_norm", activation)
    if input.ndim < 2:
        raise RuntimeError(f"instance_norm(): expected 'input' to have at least 2 dimensions, got {describe(input)}")
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise RuntimeError("instance_norm(): expected running_mean and running_var when use_input_stats is False")
        y = torch.nn.functional.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        return y if activation is None else _activation.activation(y, activation, 0.0)
    _check_channels("instance_norm", input, weight=weight, bias=bias)
    channels = input.shape[1]
    positions = 1
    for size in input.shape[2:]:
        positions = positions * size
    if positions == 1:
        raise ValueError(f"instance_norm(): expected more than 1 spatial element when training, got {describe(input)}")
    if running_mean is None and running_var is None:
        return _norm(input, weight, bias, channels, eps, activation)
    kind = activation or "none"
    y, stats = group_norm_op(input, weight, bias, channels, eps, kind if kind in FUSED else "none")
    with torch.no_grad():
        mean, rstd = stats.detach().view(2, input.shape[0], channels)
        variance = (rstd.double() ** -2 - eps).clamp_(min=0) * (positions / (positions - 1))
        _update_running(running_mean, mean.mean(0), momentum)
        _update_running(running_var, variance.mean(0), momentum)
    return y if kind in FUSED else _activation.activation(y, kind, 0.0)
