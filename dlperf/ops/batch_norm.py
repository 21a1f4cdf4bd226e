"""Batch norm with residual and activation in the same pass. Formulas and sources: docs/math/batch_norm.md."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from ..memory import empty_like
from . import activation as _activation
from ._checks import check_floating, check_tensor, describe
from ._epilogue import check_activation, check_residual, fuses
from ._frame import Operator, backward_through_reference, save_inputs


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last (or channels_last_3d) where x lies so, else contiguous: torch's rule for batch norm's result."""
    if x.dim() < 4 or x.is_contiguous():
        return torch.contiguous_format
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return suggest_memory_format(x)


def _stats_empty(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[1], dtype=torch.float64 if x.dtype is torch.float64 else torch.float32)


def batch_norm_train_empty(x: Tensor, *_) -> tuple[Tensor, Tensor, Tensor]:
    """y, in x's memory format, and the batch's mean and (biased) variance."""
    return empty_like(x, memory_format=memory_format(x)), _stats_empty(x), _stats_empty(x)


def batch_norm_eval_empty(x: Tensor, *_) -> Tensor:
    return empty_like(x, memory_format=memory_format(x))


def batch_norm_bwd_empty(gy, x, y, mean, var, weight, bias, eps, training, wanted) -> tuple[Tensor, ...]:
    """gx, gweight, gbias, gresidual; those that are not wanted have no elements."""
    format = memory_format(x)
    channels = x.shape[1]
    return (
        empty_like(x, memory_format=format) if wanted[0] else x.new_empty(0),
        (x if weight is None else weight).new_empty(channels if wanted[1] else 0),
        (x if bias is None else bias).new_empty(channels if wanted[2] else 0),
        empty_like(x, memory_format=format) if wanted[3] else x.new_empty(0),
    )


def _gradients(ctx, gy, x, y, mean, var, weight, bias, residual_slot: int, training: bool):
    """gx, gweight, gbias, gresidual: without an activation the residual's is gy itself."""
    needs = ctx.needs_input_grad
    affine = residual_slot - 2
    wanted = [needs[0], needs[affine], needs[affine + 1], y is not None and needs[residual_slot]]
    if any(wanted):
        grads = batch_norm_bwd(gy, x, y, mean, var, weight, bias, ctx.eps, training, wanted)
        found = [g if w else None for g, w in zip(grads, wanted, strict=True)]
    else:
        found = [None] * 4
    if y is None and needs[residual_slot]:
        found[3] = gy
    return found


def _train_setup(ctx, args, output):
    x, weight, bias, _, ctx.eps, kind = args
    y, mean, var = output
    ctx.save_for_backward(x, y if kind == "relu" else None, mean, var, weight, bias)
    ctx.mark_non_differentiable(mean, var)


def _train_backward(ctx, gy, *_):
    return tuple(_gradients(ctx, gy, *ctx.saved_tensors, 3, True))


# activation: none or relu where a gradient may be wanted, else any that has no parameter
batch_norm_train = Operator(
    "batch_norm_train(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, float eps, str activation)"
    " -> (Tensor, Tensor, Tensor)",
    fake=batch_norm_train_empty,
    setup=_train_setup,
    backward=_train_backward,
)


def _eval_setup(ctx, args, output):
    x, mean, var, weight, bias, _, ctx.eps, kind = args
    ctx.save_for_backward(x, output if kind == "relu" else None, mean, var, weight, bias)


def _eval_backward(ctx, gy, training=False):
    gx, gweight, gbias, gresidual = _gradients(ctx, gy, *ctx.saved_tensors, 5, training)
    return gx, None, None, gweight, gbias, gresidual


batch_norm_eval = Operator(
    "batch_norm_eval(Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, Tensor? residual, float eps, "
    "str activation) -> Tensor",
    fake=batch_norm_eval_empty,
    setup=_eval_setup,
    backward=_eval_backward,
)


# batch_norm_train where x's own mean and (biased) variance are known already
batch_norm_given = Operator(
    "batch_norm_given(Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, Tensor? residual, float eps, "
    "str activation) -> Tensor",
    fake=batch_norm_eval_empty,
    setup=_eval_setup,
    backward=partial(_eval_backward, training=True),
)

# y: given where the activation was relu. training: mean and var are x's own, so gx flows through them too.
batch_norm_bwd = Operator(
    "batch_norm_bwd(Tensor gy, Tensor x, Tensor? y, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, float eps, "
    "bool training, bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor)",
    fake=batch_norm_bwd_empty,
    setup=save_inputs,
    backward=backward_through_reference("batch_norm_bwd"),
)

# count: values a channel, for the unbiased variance
batch_norm_update = Operator(
    "batch_norm_update(Tensor(a!) running_mean, Tensor(b!) running_var, Tensor mean, Tensor var, float momentum, "
    "SymInt count) -> ()",
    fake=lambda *_: None,
)


_NUMBERS = (int, float, torch.SymFloat)


def _check_types(**named) -> None:
    for name, (value, types, wanted) in named.items():
        if not isinstance(value, types):
            raise TypeError(f"batch_norm(): argument '{name}' must be {wanted}, not {type(value).__name__}")


def _plainly_fit(input: Tensor, *parameters: Tensor | None) -> bool:
    """The common case of _check_parameters: vectors of the input's dtype, all on the CPU."""
    if not input.is_cpu:
        return False
    channels, dtype = input.shape[1], input.dtype
    for t in parameters:
        if t is not None and not (
            isinstance(t, Tensor) and t.dtype is dtype and t.dim() == 1 and t.shape[0] == channels and t.is_cpu
        ):
            return False
    return True


def _check_parameters(input: Tensor, **parameters: Tensor | None) -> None:
    """One value a channel; all of the input's dtype, or all float32 beside a 16-bit input; on its device."""
    channels, dtype, first = input.shape[1], input.dtype, None
    for name, t in parameters.items():
        if t is None:
            continue
        if not isinstance(t, Tensor):
            raise TypeError(f"batch_norm(): argument '{name}' must be Tensor, not {type(t).__name__}")
        if t.numel() != channels:
            raise RuntimeError(f"batch_norm(): expected '{name}' to have {channels} elements, got {describe(t)}")
        if t.device != input.device:
            raise RuntimeError(
                f"batch_norm(): expected all tensors on one device, but 'input' is on {input.device} and "
                f"'{name}' is on {t.device}"
            )
        if first is None:
            first = t.dtype
            mixed = first is torch.float32 and dtype in (torch.bfloat16, torch.float16)
            if first is not dtype and not mixed:
                raise RuntimeError(
                    f"batch_norm(): expected '{name}' to have the dtype of 'input' "
                    f"({str(dtype).removeprefix('torch.')}), or float32 beside a 16-bit input, got {describe(t)}"
                )
        elif t.dtype is not first:
            raise RuntimeError(
                f"batch_norm(): expected '{name}' to have the dtype of the other parameters "
                f"({str(first).removeprefix('torch.')}), got {describe(t)}"
            )


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    activation: str | None = None,
    moments: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """act((input - mean) / sqrt(var + eps) * weight + bias + residual) by channel (Ioffe & Szegedy 2015).

    Args:
        input: [N, C] or [N, C, ...]; channels_last is kept.
        running_mean, running_var: [C]. With ``training`` the batch's own statistics normalise, and these, where given,
            move towards them by ``momentum`` (the variance's unbiased estimate); else these normalise.
        weight, bias: [C]; of the input's dtype, or float32 beside a 16-bit input, as the running statistics.
        residual: of the input's shape and dtype.
        activation: None, or a name of :data:`dlperf.ops._epilogue.EPILOGUES`.
        moments: the batch's own means and biased variances, float32 of [C], where a kernel has gathered them
            (:func:`conv2d_batch_norm`); they are believed. With ``training`` alone.

    Raises:
        ValueError: one value a channel in training; an eps that is not positive; an unknown activation.
        RuntimeError: shapes, dtypes or devices that don't fit. NotImplementedError: an input that is not floating.
        TypeError: an argument of the wrong type. IndexError: an input without channels.
    """
    if not isinstance(input, Tensor):
        check_tensor("batch_norm", input=input)
    if input.dim() < 2:
        raise IndexError(f"batch_norm(): expected 'input' to have at least 2 dimensions, got {describe(input)}")
    if not input.is_floating_point():
        raise NotImplementedError(f"batch_norm(): expected 'input' to have a floating dtype, got {describe(input)}")
    if type(eps) is not float or type(momentum) is not float or type(training) is not bool:
        _check_types(
            training=(training, bool, "bool"), momentum=(momentum, _NUMBERS, "float"), eps=(eps, _NUMBERS, "float")
        )
        momentum, eps = float(momentum), float(eps)
    if eps < 0 or (training and eps == 0):
        wanted = "positive during training" if training else "non-negative"
        raise ValueError(f"batch_norm(): expected 'eps' to be {wanted}, got {eps}")
    if not _plainly_fit(input, weight, bias, running_mean, running_var):
        _check_parameters(input, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
        weight, bias, running_mean, running_var = (
            t if t is None or t.dim() == 1 else t.reshape(-1) for t in (weight, bias, running_mean, running_var)
        )
    kind = "none" if activation is None else check_activation("batch_norm", activation)
    if residual is not None:
        check_residual("batch_norm", residual, input.shape)
        check_floating("batch_norm", residual=residual)
        if residual.dtype is not input.dtype or residual.device != input.device:
            raise RuntimeError(
                f"batch_norm(): expected 'residual' to have the dtype and device of 'input', got {describe(residual)}"
            )
    fused = kind if kind == "none" or fuses(kind, input, weight, bias, residual) else "none"

    if training:
        count = _values_per_channel(input)
        if (running_mean is None) != (running_var is None):
            raise ValueError("batch_norm(): expected running_mean and running_var to be both None or neither")
        if moments is None:
            y, mean, var = batch_norm_train(input, weight, bias, residual, eps, fused)
        else:
            mean, var = moments
            y = batch_norm_given(input, mean, var, weight, bias, residual, eps, fused)
        if running_mean is not None and count > 0:
            batch_norm_update(running_mean, running_var, mean, var, momentum, count)
    else:
        for name, t in (("running_mean", running_mean), ("running_var", running_var)):
            if t is None:
                raise RuntimeError(f"batch_norm(): expected '{name}' to be given in evaluation mode")
        y = batch_norm_eval(input, running_mean, running_var, weight, bias, residual, eps, fused)
    return y if fused == kind else _activation.activation(y, kind, 0.0)


def _values_per_channel(input: Tensor) -> int:
    count = input.shape[0]
    for size in input.shape[2:]:
        count = count * size
    if count == 1:
        raise ValueError(f"batch_norm(): expected more than 1 value per channel when training, got {describe(input)}")
    return count
