"""What the kernels can't serve, beside what ``why_not`` checks for all: ``RULES[op](*args)`` is the reason."""

from __future__ import annotations

import torch
from torch import Tensor

from dlperf.ops.group_norm import memory_format

from ._library import ACTIVATIONS, HALVES, STORAGE, VECTOR

LONGEST_ROW = 8192  # csrc/cuda/norm.h
DEPTHWISE_TAPS = 192  # csrc/cuda/depthwise.h
HEAD_DIMS = (64, 128)
_LAST = torch.channels_last


def _name(dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _halves(*tensors: Tensor | None) -> str | None:
    """One 16-bit dtype."""
    first = tensors[0].dtype
    if first not in HALVES:
        return f"the kernels multiply bfloat16 and float16, not {_name(first)}"
    if any(t is not None and t.dtype is not first for t in tensors):
        return "the tensors' dtypes differ"
    return None


def _activation(kind: str) -> str | None:
    return None if kind in ACTIVATIONS else f"the kernels end in {', '.join(ACTIVATIONS)}, not {kind}"


def _multiple(**sizes: int) -> str | None:
    for name, size in sizes.items():
        if size % VECTOR:
            return f"{name} is {size}, and the kernels read {VECTOR} values at once"
    return None


def _linear(x, weight, bias, residual, activation) -> str | None:
    reason = _halves(x, weight, bias, residual) or _activation(activation) or _multiple(out_features=weight.shape[0])
    if reason is None and not _across(x, weight):
        reason = _multiple(in_features=weight.shape[1])
    return reason


def is_across(x: Tensor) -> bool:
    """A matrix whose columns, not rows, lie in one piece, in whole vectors."""
    return x.dim() == 2 and x.stride(0) == 1 and x.stride(1) % VECTOR == 0 and x.shape[0] % VECTOR == 0 < x.shape[1]


def _across(x: Tensor, weight: Tensor) -> bool:
    """Both lie across the reduction, which may then have any length."""
    return is_across(x) and is_across(weight)


def _bmm(a, b, bias, input, beta, alpha, activation) -> str | None:
    sizes = _multiple(the_last_dimension_of_a=a.shape[-1], the_last_dimension_of_b=b.shape[-1])
    return _halves(a, b, bias, input) or _activation(activation) or sizes


def _conv(tensors, channels: tuple[int, int], taps: int, groups: int, activation: str) -> str | None:
    """One group, or a channel each."""
    if groups != 1 and channels != (groups, groups):
        return f"the kernels have one group, or one for each channel in and out, not {groups} groups for {channels}"
    if groups != 1 and taps > DEPTHWISE_TAPS:
        return f"a depthwise filter has {taps} taps, and the kernels keep at most {DEPTHWISE_TAPS}"
    reason = _halves(*tensors) or _activation(activation)
    return reason or _multiple(input_channels=channels[0], output_channels=channels[1])


def _conv2d(x, weight, bias, residual, stride, padding, dilation, groups, activation) -> str | None:
    channels = (x.shape[1], weight.shape[0])
    return _conv((x, weight, bias, residual), channels, weight.shape[2:].numel(), groups, activation)


def _conv2d_moments(x, weight, stride=None, padding=None, dilation=None, groups=1) -> str | None:
    """Asked before the geometry is known too."""
    return _conv2d(x, weight, None, None, stride, padding, dilation, groups, "none")


def _norm(x: Tensor, tensors: tuple, parameters: tuple) -> str | None:
    """Tensors of x's dtype; parameters all of x's dtype or all float32."""
    if x.dtype not in STORAGE:
        return f"the kernels have no {_name(x.dtype)}"
    if any(t is not None and t.dtype is not x.dtype for t in tensors):
        return "the dtypes of input, residual or gradient differ"
    kinds = {t.dtype for t in parameters if t is not None}
    if len(kinds) > 1 or not kinds <= {x.dtype, torch.float32}:
        return "the parameters have not all the input's dtype, or all float32"
    return None


def _rows(x: Tensor, dims, tensors: tuple, parameters: tuple) -> str | None:
    columns = x.shape[x.dim() - dims :].numel()
    if columns > LONGEST_ROW:
        return f"a row has {columns} values, and the kernels keep at most {LONGEST_ROW}"
    return _norm(x, tensors, parameters) or _multiple(the_row=columns)


def _rms_norm_bwd(gy, x, weight, stats, dims, eps, wanted) -> str | None:
    return _rows(x, dims, (gy,), (weight,))


def _channels(x: Tensor, tensors: tuple, parameters: tuple, activation: str) -> str | None:
    last = x.dim() == 4 and (memory_format(x) is _LAST or x.is_contiguous(memory_format=_LAST))
    if x.dim() != 2 and not last:
        return "the input is not channels last"
    return _norm(x, tensors, parameters) or _activation(activation) or _multiple(channels=x.shape[1])


def _batch_norm_eval(x, mean, var, weight, bias, residual, eps, activation) -> str | None:
    return _channels(x, (residual,), (weight, bias), activation)


def _group(x, tensors, weight, bias, activation) -> str | None:
    if activation not in ("none", "relu", "silu"):
        return f"the kernels fuse relu and silu, not {activation}"
    return _channels(x, tensors, (weight, bias), activation)


def _attention(q, k, v, mask, rng, causal, scale, dropout_p, *more) -> str | None:
    if mask is not None or dropout_p:
        return "the kernels have no mask and no dropout"
    if q.shape[3] not in HEAD_DIMS or v.shape[3] != q.shape[3]:
        return f"the kernels have head dimensions {HEAD_DIMS}, got {q.shape[3]} and {v.shape[3]}"
    if not scale > 0:
        return "the scale is not positive"
    return _halves(q, k, v, *more)


def _diffusion_step(x, model, uncond, noise, history, *_) -> str | None:
    if x.dtype not in STORAGE or model.dtype not in STORAGE:
        return f"the kernels have no {_name(x.dtype if x.dtype not in STORAGE else model.dtype)}"
    if x.dtype is not torch.float32 and model.dtype is not x.dtype:
        return "the model's dtype differs from a 16-bit sample's"
    if uncond is not None and uncond.dtype is not model.dtype:
        return "the two predictions' dtypes differ"
    if any(t is not None and t.dtype is not x.dtype for t in (noise, history)):
        return "the dtypes of noise or history and sample differ"
    return _multiple(a_sample=x.numel() // max(1, x.shape[0] if x.dim() else 1))


def _add_noise(x, noise, *_) -> str | None:
    if x.dtype not in STORAGE or noise.dtype is not x.dtype:
        return "the dtypes of noise and sample differ, or the kernels have none such"
    return _multiple(a_sample=x.numel() // max(1, x.shape[0] if x.dim() else 1))


def _elementwise(x: Tensor, kind: str, *tensors: Tensor) -> str | None:
    if x.dtype not in STORAGE or any(t.dtype is not x.dtype for t in tensors):
        return f"the kernels have no {_name(x.dtype)}, or the dtypes differ"
    if kind == "gelu" and x.dtype is torch.float32:
        return "the kernels' erf is made for 16-bit results"
    return _activation(kind)


def _channel_sum(x: Tensor) -> str | None:
    if x.dim() not in (2, 4):
        return "the input has neither two dimensions nor four"
    return _norm(x, (), ()) or _multiple(channels=x.shape[1])


def _update(running_mean, running_var, mean, var, *_) -> str | None:
    if running_mean.dtype not in STORAGE or running_var.dtype is not running_mean.dtype:
        return "the running statistics' dtypes differ, or the kernels have none such"
    if mean.dtype is not torch.float32 or var.dtype is not torch.float32:
        return "the batch's statistics are not float32"
    if not (running_mean.is_contiguous() and running_var.is_contiguous()):
        return "the running statistics are strided views"
    return None


RULES = {
    "activation": lambda x, kind, param: _elementwise(x, kind),
    "activation_": lambda x, kind, param: _elementwise(x, kind),
    "activation_bwd": lambda gy, x, kind, param: _elementwise(x, kind, gy),
    "channel_sum": _channel_sum,
    "batch_norm_update": _update,
    "linear": _linear,
    "bmm": _bmm,
    "conv2d": _conv2d,
    "conv2d_moments": _conv2d_moments,
    "conv2d_bwd_input": lambda gy, weight, size, stride, padding, dilation, groups, last: _conv(
        (gy, weight), (weight.shape[1] * groups, weight.shape[0]), weight.shape[2:].numel(), groups, "none"
    ),
    "conv2d_bwd_weight": lambda gy, x, size, stride, padding, dilation, groups, last: _conv(
        (gy, x), (x.shape[1], gy.shape[1]), size[2] * size[3], groups, "none"
    ),
    "conv_transpose2d": lambda x, weight, bias, stride, padding, output_padding, dilation, groups, activation: _conv(
        (x, weight, bias), (weight.shape[1] * groups, weight.shape[0]), weight.shape[2:].numel(), groups, activation
    ),
    "layer_norm": lambda x, weight, bias, dims, eps: _rows(x, dims, (), (weight, bias)),
    "rms_norm": lambda x, weight, dims, eps: _rows(x, dims, (), (weight,)),
    "layer_norm_bwd": lambda gy, x, weight, bias, stats, dims, eps, wanted: _rows(x, dims, (gy,), (weight, bias)),
    "rms_norm_bwd": _rms_norm_bwd,
    "batch_norm_train": lambda x, weight, bias, residual, eps, activation: _channels(
        x, (residual,), (weight, bias), activation
    ),
    "batch_norm_eval": _batch_norm_eval,
    "batch_norm_given": _batch_norm_eval,
    "batch_norm_bwd": lambda gy, x, y, mean, var, weight, bias, *_: _channels(x, (gy, y), (weight, bias), "none"),
    "group_norm": lambda x, weight, bias, groups, eps, activation: _group(x, (), weight, bias, activation),
    "group_norm_bwd": lambda gy, x, weight, bias, stats, groups, eps, activation, wanted: _group(
        x, (gy,), weight, bias, activation
    ),
    "attention": _attention,
    "attention_bwd": lambda go, q, k, v, mask, rng, out, stats, causal, scale, dropout_p, mask_grad, joined=False: (
        _attention(q, k, v, mask, rng, causal, scale, dropout_p, go, out)
    ),
    "dropout": lambda x, *_: None if x.dtype in STORAGE else f"the kernels have no {_name(x.dtype)}",
    "diffusion_step": _diffusion_step,
    "add_noise": _add_noise,
}
