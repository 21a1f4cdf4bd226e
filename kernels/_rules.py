"""What the kernels can't serve, beside what ``dlperf.backends.triton`` checks for all: ``RULES[op](*args)`` is the
reason."""

from __future__ import annotations

import torch
from torch import Tensor

from ._products import NARROW

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


def _nll(values, target, weight, *_) -> str | None:
    if weight is not None and weight.dtype is not values.dtype:
        return "the dtypes of weight and input differ"
    return _dtype(values)


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


_MASKS = (torch.bool, *FLOATS)
_MOST_HEAD_DIM = 256
_MOST_POSITIONS = 2**31 - 2**16  # what int32 pixel numbers and the last tile's overhang leave


def _attention(q, k, v, mask, *floating) -> str | None:
    for t in (k, v, *floating):
        if t.dtype is not q.dtype:
            return "the tensors' dtypes differ"
    if mask is not None and mask.dtype not in _MASKS:
        return f"the kernels take no {str(mask.dtype).removeprefix('torch.')} mask"
    if mask is not None and k.shape[2] > NARROW:
        return f"a mask's rows are longer than {NARROW}"
    if q.shape[3] > _MOST_HEAD_DIM or v.shape[3] > _MOST_HEAD_DIM:
        return f"head dimensions are above {_MOST_HEAD_DIM}"
    return _dtype(q)


def _conv(*args) -> str | None:
    tensors = [a for a in args if isinstance(a, Tensor)]
    if any(t.dtype is not tensors[0].dtype for t in tensors):
        return "the tensors' dtypes differ"
    for t in tensors:
        if t.dim() == 4 and t.shape[0] * t.shape[2] * t.shape[3] > _MOST_POSITIONS:
            return "an image batch has more pixels than an int32 can number"
    return _dtype(tensors[0])


def _product(*args) -> str | None:
    tensors = [a for a in args if isinstance(a, Tensor)]
    if any(t.dtype is not tensors[0].dtype for t in tensors):
        return "the tensors' dtypes differ"
    if any(size > _MOST_POSITIONS for t in tensors for size in (t.numel() // max(1, t.shape[-1]), *t.shape[-1:])):
        return "an operand has more rows or columns than an int32 can number"
    return _dtype(tensors[0])


def _diffusion_step(x, model, uncond, noise, history, *_) -> str | None:
    if x.dtype is not torch.float32 and model.dtype is not x.dtype:
        return "the model's dtype differs from a 16-bit sample's"
    if uncond is not None and uncond.dtype is not model.dtype:
        return "the two predictions' dtypes differ"
    if any(t is not None and t.dtype is not x.dtype for t in (noise, history)):
        return "the dtypes of noise or history and sample differ"
    return _dtype(x) or _dtype(model)


RULES: dict = {
    "diffusion_step": _diffusion_step,
    "add_noise": lambda x, noise, *_: _dtype(x) if noise.dtype is x.dtype else "the dtypes of noise and sample differ",
    "max_pool": lambda x, *_: _dtype(x),
    "max_pool_bwd": lambda gy, *_: _dtype(gy),
    "avg_pool": lambda x, *_: _dtype(x),
    "avg_pool_bwd": lambda gy, *_: _dtype(gy),
    "embedding": lambda indices, weight, *_: _dtype(weight),
    "embedding_bwd": lambda gy, *_: _dtype(gy),
    "attention": lambda q, k, v, mask, *_: _attention(q, k, v, mask),
    "attention_bwd": lambda go, q, k, v, mask, rng, out, *_: _attention(q, k, v, mask, go, out),
    "conv2d": _conv,
    "conv2d_moments": _conv,
    "conv2d_bwd_input": _conv,
    "conv2d_bwd_weight": _conv,
    "conv_transpose2d": _conv,
    "linear": _product,
    "bmm": _product,
    "dropout": lambda x, *_: _dtype(x),
    "cross_entropy": _cross_entropy,
    "cross_entropy_bwd": lambda gloss, *args: _cross_entropy(*args),
    "nll_loss": _nll,
    "nll_loss_bwd": _nll,
    "layer_norm": lambda x, weight, bias, *_: _norm(x, (), (weight, bias)),
    "rms_norm": lambda x, weight, *_: _norm(x, (), (weight,)),
    "layer_norm_bwd": lambda gy, x, weight, bias, *_: _norm(x, (gy,), (weight, bias)),
    "rms_norm_bwd": lambda gy, x, weight, *_: _norm(x, (gy,), (weight,)),
    "batch_norm_train": lambda x, weight, bias, residual, *_: _norm(x, (residual,), (weight, bias)),
    "batch_norm_given": lambda x, mean, var, weight, bias, residual, *_: _norm(
        x, (residual,), (weight, bias, mean, var)
    ),
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

# Operators whose batch_sizes lie on the CPU: the arguments without them.
ON_DEVICE: dict = {
    "recurrent": lambda args: (*args[:7], *args[8:]),
    "recurrent_bwd": lambda args: (*args[:10], *args[11:]),
}
