"""Convolutions with an epilogue and their gradients, 1-d ones as 2-d of height 1. Formulas: docs/math/conv2d.md."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import backends
from ..memory import new_empty
from ._conv_geometry import conv_geometry, conv_transpose_geometry
from ._epilogue import (
    cast_for_autocast,
    check_activation,
    check_floating_operands,
    check_residual,
    fuses,
    gradient_before,
)
from ._frame import Operator
from .activation import FROM_OUTPUT, activation, activation_bwd
from .batch_norm import batch_norm
from .channel_sum import channel_sum


def keeps_channels_last(x: Tensor) -> bool:
    """Whether a result computed from x is laid out channels last: torch's rule, by the order of x's strides.

    Of one channel or one pixel, where both formats are contiguous, the strides still tell which one was meant.
    """
    _, c, h, w = x.shape
    sn, sc, sh, sw = x.stride()
    return sc > 0 and c * sc <= sw and w * sw <= sh and sc != h * sh <= sn


def _result_last(x: Tensor, weight: Tensor) -> bool:
    """torch's rule: channels last where the input or the weight is."""
    return keeps_channels_last(x) or keeps_channels_last(weight)


def _empty(x: Tensor, size, channels_last: bool) -> Tensor:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return new_empty(x, size, memory_format)


def conv2d_empty(x: Tensor, weight: Tensor, bias, residual, stride, padding, dilation, *_) -> Tensor:
    """[N, K, P, Q], channels last where x or the weight is."""
    n, _, h, w = x.shape
    k, _, r, s = weight.shape
    p = (h + 2 * padding[0] - dilation[0] * (r - 1) - 1) // stride[0] + 1
    q = (w + 2 * padding[1] - dilation[1] * (s - 1) - 1) // stride[1] + 1
    return _empty(x, (n, k, p, q), _result_last(x, weight))


def conv2d_moments_empty(x: Tensor, weight: Tensor, stride, padding, dilation, groups) -> tuple[Tensor, Tensor, Tensor]:
    """conv2d's result, and its channels' means and (biased) variances."""
    y = conv2d_empty(x, weight, None, None, stride, padding, dilation)
    stats = torch.float64 if x.dtype is torch.float64 else torch.float32
    return y, x.new_empty(y.shape[1], dtype=stats), x.new_empty(y.shape[1], dtype=stats)


def conv2d_bwd_input_empty(gy, weight, input_size, stride, padding, dilation, groups, channels_last) -> Tensor:
    return _empty(gy, input_size, channels_last)


def conv2d_bwd_weight_empty(gy, x, weight_size, stride, padding, dilation, groups, channels_last) -> Tensor:
    return _empty(x, weight_size, channels_last)


def conv_transpose2d_empty(x, weight, bias, stride, padding, output_padding, dilation, groups, *_) -> Tensor:
    """[N, K, H, W], channels last where x or the weight is."""
    n, _, p, q = x.shape
    _, k, r, s = weight.shape
    h = (p - 1) * stride[0] - 2 * padding[0] + dilation[0] * (r - 1) + output_padding[0] + 1
    w = (q - 1) * stride[1] - 2 * padding[1] + dilation[1] * (s - 1) + output_padding[1] + 1
    return _empty(x, (n, k * groups, h, w), _result_last(x, weight))


def _conv2d_setup(ctx, args, output):
    x, weight, bias, residual, stride, padding, dilation, groups, kind = args
    needs = ctx.needs_input_grad
    ctx.kind, ctx.geometry = kind, (stride, padding, dilation, groups)
    ctx.input_size, ctx.weight_size = x.shape, weight.shape
    ctx.input_last = needs[0] and keeps_channels_last(x)
    ctx.weight_last = needs[1] and keeps_channels_last(weight)
    if kind in FROM_OUTPUT:
        ctx.save_for_backward(x if needs[1] else None, weight if needs[0] else None, None if kind == "none" else output)
    else:
        ctx.save_for_backward(x, weight, bias, residual)


def _conv2d_backward(ctx, gy):
    kind, geometry, needs = ctx.kind, ctx.geometry, ctx.needs_input_grad
    if kind in FROM_OUTPUT:
        x, weight, y = ctx.saved_tensors
        gz = gradient_before(kind, gy, y)
    else:
        x, weight, bias, residual = ctx.saved_tensors
        gz = activation_bwd(gy, _conv2d(x, weight, bias, residual, *geometry, "none"), kind, 0.0)
    return (
        _conv2d_bwd_input(gz, weight, ctx.input_size, *geometry, ctx.input_last) if needs[0] else None,
        _conv2d_bwd_weight(gz, x, ctx.weight_size, *geometry, ctx.weight_last) if needs[1] else None,
        channel_sum(gz) if needs[2] else None,
        gz if needs[3] else None,
    )


# act(x * weight + bias + residual)
_conv2d = Operator(
    "conv2d(Tensor x, Tensor weight, Tensor? bias, Tensor? residual, SymInt[] stride, SymInt[] padding, "
    "SymInt[] dilation, SymInt groups, str activation) -> Tensor",
    fake=conv2d_empty,
    setup=_conv2d_setup,
    backward=_conv2d_backward,
)


def _moments_setup(ctx, args, output):
    _conv2d_setup(ctx, (*args[:2], None, None, *args[2:], "none"), output[0])
    ctx.mark_non_differentiable(*output[1:])


def _moments_backward(ctx, gy, *_):
    x, weight, _ = ctx.saved_tensors
    needs, geometry = ctx.needs_input_grad, ctx.geometry
    return (
        _conv2d_bwd_input(gy, weight, ctx.input_size, *geometry, ctx.input_last) if needs[0] else None,
        _conv2d_bwd_weight(gy, x, ctx.weight_size, *geometry, ctx.weight_last) if needs[1] else None,
    )


# The moments are for batch_norm_given, whose gradient goes through them too.
_conv2d_moments = Operator(
    "conv2d_moments(Tensor x, Tensor weight, SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups)"
    " -> (Tensor, Tensor, Tensor)",
    fake=conv2d_moments_empty,
    setup=_moments_setup,
    backward=_moments_backward,
)


def _gradient_setup(ctx, args, output):
    first, second, _, *geometry, _ = args
    ctx.geometry = tuple(geometry)
    ctx.second_size, ctx.second_last = second.shape, keeps_channels_last(second)
    ctx.save_for_backward(first, second)


def _conv2d_bwd_input_backward(ctx, ggx):
    gy, weight = ctx.saved_tensors
    needs = ctx.needs_input_grad
    return (
        _conv2d(ggx, weight, None, None, *ctx.geometry, "none") if needs[0] else None,
        _conv2d_bwd_weight(gy, ggx, ctx.second_size, *ctx.geometry, ctx.second_last) if needs[1] else None,
    )


def _conv2d_bwd_weight_backward(ctx, ggw):
    gy, x = ctx.saved_tensors
    needs = ctx.needs_input_grad
    return (
        _conv2d(x, ggw, None, None, *ctx.geometry, "none") if needs[0] else None,
        _conv2d_bwd_input(gy, ggw, ctx.second_size, *ctx.geometry, ctx.second_last) if needs[1] else None,
    )


# channels_last: of the result
_conv2d_bwd_input = Operator(
    "conv2d_bwd_input(Tensor gy, Tensor weight, SymInt[] input_size, SymInt[] stride, SymInt[] padding, "
    "SymInt[] dilation, SymInt groups, bool channels_last) -> Tensor",
    fake=conv2d_bwd_input_empty,
    setup=_gradient_setup,
    backward=_conv2d_bwd_input_backward,
)

_conv2d_bwd_weight = Operator(
    "conv2d_bwd_weight(Tensor gy, Tensor x, SymInt[] weight_size, SymInt[] stride, SymInt[] padding, "
    "SymInt[] dilation, SymInt groups, bool channels_last) -> Tensor",
    fake=conv2d_bwd_weight_empty,
    setup=_gradient_setup,
    backward=_conv2d_bwd_weight_backward,
)


def _conv_transpose2d_setup(ctx, args, output):
    x, weight, bias, stride, padding, output_padding, dilation, groups, kind = args
    needs = ctx.needs_input_grad
    ctx.kind, ctx.output_padding, ctx.geometry = kind, output_padding, (stride, padding, dilation, groups)
    ctx.weight_size, ctx.weight_last = weight.shape, needs[1] and keeps_channels_last(weight)
    if kind in FROM_OUTPUT:
        ctx.save_for_backward(x if needs[1] else None, weight if needs[0] else None, None if kind == "none" else output)
    else:
        ctx.save_for_backward(x, weight, bias)


def _conv_transpose2d_backward(ctx, gy):
    kind, geometry, needs = ctx.kind, ctx.geometry, ctx.needs_input_grad
    if kind in FROM_OUTPUT:
        x, weight, y = ctx.saved_tensors
        gz = gradient_before(kind, gy, y)
    else:
        x, weight, bias = ctx.saved_tensors
        stride, padding, dilation, groups = geometry
        z = _conv_transpose2d(x, weight, bias, stride, padding, ctx.output_padding, dilation, groups, "none")
        gz = activation_bwd(gy, z, kind, 0.0)
    return (
        _conv2d(gz, weight, None, None, *geometry, "none") if needs[0] else None,
        _conv2d_bwd_weight(x, gz, ctx.weight_size, *geometry, ctx.weight_last) if needs[1] else None,
        channel_sum(gz) if needs[2] else None,
    )


# output_padding < stride
_conv_transpose2d = Operator(
    "conv_transpose2d(Tensor x, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, "
    "SymInt[] output_padding, SymInt[] dilation, SymInt groups, str activation) -> Tensor",
    fake=conv_transpose2d_empty,
    setup=_conv_transpose2d_setup,
    backward=_conv_transpose2d_backward,
)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride=1,
    padding=0,
    dilation=1,
    groups: int = 1,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """:func:`conv2d` of [N, C, L] or [C, L] with a weight [K, C / groups, S]; the result is contiguous."""
    return _conv("conv1d", 1, input, weight, bias, stride, padding, dilation, groups, residual, activation)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride=1,
    padding=0,
    dilation=1,
    groups: int = 1,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """act(input * weight + bias + residual), the cross-correlation that torch.nn.functional.conv2d computes.

    Args:
        input: [N, C, H, W] or [C, H, W]. The result is channels_last where input or weight is, as torch's.
        weight: [K, C / groups, R, S], in any layout.
        bias: [K].
        stride, dilation: a number or one per dimension.
        padding: a number, one per dimension, "valid", or "same" with stride 1.
        groups: divides C and K.
        residual: of the result's shape.
        activation: None, or a name of :data:`dlperf.ops._epilogue.EPILOGUES`.

    Raises:
        RuntimeError: shapes, dtypes or devices that don't fit. TypeError: an argument of the wrong type.
        ValueError: an unknown activation.
    """
    return _conv("conv2d", 2, input, weight, bias, stride, padding, dilation, groups, residual, activation)


def conv2d_batch_norm(
    input: Tensor,
    weight: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    stride=1,
    padding=0,
    dilation=1,
    groups: int = 1,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """:func:`batch_norm` in training of :func:`conv2d` without bias, [N, C, H, W]; arguments and errors are theirs.

    Where a kernel can, it gathers the batch's statistics while it computes the convolution, and the result is read once
    less (Jung et al. 2018, "Restructuring batch normalization"). Otherwise the two run one after the other.
    """
    geometry = (stride, padding, dilation, groups)
    norm = (running_mean, running_var, norm_weight, norm_bias, True, momentum, eps)
    options = {"residual": residual, "activation": activation}
    if isinstance(input, Tensor) and isinstance(weight, Tensor) and input.dim() == 4:
        cast = cast_for_autocast(input, weight)
        if backends.kernel_serves("conv2d_moments", cast):
            y, *moments = _conv("conv2d_batch_norm", 2, *cast, None, *geometry, None, None, moments=True)
            return batch_norm(y, *norm, **options, moments=tuple(moments))
    return batch_norm(conv2d(input, weight, None, *geometry), *norm, **options)


def _conv(op, rank, input, weight, bias, stride, padding, dilation, groups, residual, kind, moments=False):
    if not (isinstance(input, Tensor) and isinstance(weight, Tensor)):
        _not_tensors(op, input, weight)
    geometry, extra, size = conv_geometry(op, rank, input.shape, weight.shape, stride, padding, dilation, groups)
    kind = "none" if kind is None else check_activation(op, kind)
    if residual is not None:
        check_residual(op, residual, size)
    input, weight, bias, residual = cast_for_autocast(input, weight, bias, residual)
    check_floating_operands(op, weight.shape[0], input, weight, bias, residual)
    if extra is not None:
        input = torch.nn.functional.pad(input, extra)
    batched = len(size) == rank + 2
    if rank == 1:
        input, weight = input.unsqueeze(-2), weight.unsqueeze(-2)
        residual = None if residual is None else residual.unsqueeze(-2)
    if not batched:
        input = input.unsqueeze(0)
        residual = None if residual is None else residual.unsqueeze(0)

    if moments:
        return _conv2d_moments(input, weight, *geometry)
    if kind == "none" or fuses(kind, input, weight, bias, residual):
        y = _conv2d(input, weight, bias, residual, *geometry, kind)
    else:
        y = activation(_conv2d(input, weight, bias, residual, *geometry, "none"), kind, 0.0)
    return y if rank == 2 and batched else _restore(y, rank, batched)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride=1,
    padding=0,
    output_padding=0,
    groups: int = 1,
    dilation=1,
    *,
    activation: str | None = None,
) -> Tensor:
    """:func:`conv_transpose2d` of [N, C, L] or [C, L] with a weight [C, K / groups, S]; the result is contiguous."""
    return _conv_transpose(
        "conv_transpose1d", 1, input, weight, bias, stride, padding, output_padding, groups, dilation, activation
    )


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride=1,
    padding=0,
    output_padding=0,
    groups: int = 1,
    dilation=1,
    *,
    activation: str | None = None,
) -> Tensor:
    """act(input transposed-convolved with weight + bias), as torch.nn.functional.conv_transpose2d.

    Args:
        input: [N, C, P, Q] or [C, P, Q]. The result is channels_last where input or weight is, as torch's.
        weight: [C, K / groups, R, S], in any layout.
        bias: [K].
        stride, padding, dilation: of the convolution that this is the gradient of; a number or one per dimension.
        output_padding: rows and columns added at the result's end; less than stride or dilation.
        groups: divides C and K.
        activation: None, or a name of :data:`dlperf.ops._epilogue.EPILOGUES`.

    Raises:
        RuntimeError: shapes, dtypes or devices that don't fit. TypeError: an argument of the wrong type.
        ValueError: an unknown activation.
    """
    return _conv_transpose(
        "conv_transpose2d", 2, input, weight, bias, stride, padding, output_padding, groups, dilation, activation
    )


def _conv_transpose(op, rank, input, weight, bias, stride, padding, output_padding, groups, dilation, kind):
    if not (isinstance(input, Tensor) and isinstance(weight, Tensor)):
        _not_tensors(op, input, weight)
    geometry, extra, size = conv_transpose_geometry(
        op, rank, input.shape, weight.shape, stride, padding, output_padding, dilation, groups
    )
    kind = "none" if kind is None else check_activation(op, kind)
    input, weight, bias = cast_for_autocast(input, weight, bias)
    check_floating_operands(op, size[-rank - 1], input, weight, bias, None)
    if extra is not None:
        input = torch.nn.functional.pad(input, extra)
    batched = len(size) == rank + 2
    if rank == 1:
        input, weight = input.unsqueeze(-2), weight.unsqueeze(-2)
    if not batched:
        input = input.unsqueeze(0)

    if kind == "none" or fuses(kind, input, weight, bias):
        y = _conv_transpose2d(input, weight, bias, *geometry, kind)
    else:
        y = activation(_conv_transpose2d(input, weight, bias, *geometry, "none"), kind, 0.0)
    return y if rank == 2 and batched else _restore(y, rank, batched)


def _restore(y: Tensor, rank: int, batched: bool) -> Tensor:
    """Without the dimensions that were added; what has fewer than four has no memory format to keep."""
    if rank == 1:
        y = y.squeeze(-2)
    return (y if batched else y.squeeze(0)).contiguous()


def _not_tensors(op: str, input, weight) -> None:
    for name, t in (("input", input), ("weight", weight)):
        if not isinstance(t, Tensor):
            raise TypeError(f"{op}(): argument '{name}' must be Tensor, not {type(t).__name__}")
