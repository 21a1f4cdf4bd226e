"""What the kernels can't serve, beside what ``dlperf.backends.triton`` checks for all: ``RULES[op](*args)`` is the reason."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def _dtype(x: Tensor) -> str | None:
    return None if x.dtype in FLOATS else f"the kernels have no {str(x.dtype).removeprefix('torch.')}"


def _norm(x: Tensor, tensors: tuple, parameters: tuple) -> str | None:
    """Tensors of x's dtype; parameters of x's dtype or float32."""
    dtype = x.dtype
    if dtype not in FLOATS:
        return _dtype(x)
    for t in tensors:
        if t is not None and t.dtype is not dtype:
            return "the dtypes of input, residual or gradient differ"
    for t in parameters:
        if t is not None and t.dtype is not dtype and t.dtype is not torch.float32:
            return "the parameters have neither the input's dtype nor float32"
    return None


def _cross_entropy(x, target, weight, *_) -> str | None:
    if target.is_floating_point() and target.dtype is not x.dtype:
        return "the dtypes of logits and probabilities differ"
    return _dtype(x)


def _update(running_mean, running_var, mean, var, *_) -> str | None:
    if running_var.dtype is not running_mean.dtype:
        return "the running statistics' dtypes differ"
    if mean.dtype is not torch.float32:
        return _dtype(mean) or "the batch's statistics are not float32"
    if not (running_mean.is_contiguous() and running_var.is_contiguous()):
        return "the running statistics are strided views"
    return _dtype(running_mean)


def _group_norm(x, weight, bias, activation, *tensors) -> str | None:
    if activation not in ("none", "relu", "silu"):
        return f"the kernels fuse relu and silu, not {activation}"
    return _norm(x, tensors, (weight, bias))


RULES: dict = {
    "dropout": lambda x, *_: _dtype(x),
    "cross_entropy": _cross_entropy,
    "cross_entropy_bwd": lambda gloss, *args: _cross_entropy(*args),
    "layer_norm": lambda x, weight, bias, *_: _norm(x, (), (weight, bias)),
    "rms_norm": lambda x, weight, *_: _norm(x, (), (weight,)),
    "layer_norm_bwd": lambda gy, x, weight, bias, *_: _norm(x, (gy,), (weight, bias)),
    "rms_norm_bwd": lambda gy, x, weight, *_: _norm(x, (gy,), (weight,)),
    "batch_norm_train": lambda x, weight, bias, residual, *_: _norm(x, (residual,), (weight, bias)),
    "batch_norm_eval": lambda x, mean, var, weight, bias, residual, *_: _norm(
        x, (residual,), (weight, bias, mean, var)
    ),
    "batch_norm_bwd": lambda gy, x, y, mean, var, weight, bias, *_: _norm(x, (gy, y), (weight, bias, mean, var)),
    "batch_norm_update": _update,
    "group_norm": lambda x, weight, bias, groups, eps, activation: _group_norm(x, weight, bias, activation),
    "group_norm_bwd": lambda gy, x, weight, bias, stats, groups, eps, activation, wanted: _group_norm(
        x, weight, bias, activation, gy
    ),
}
