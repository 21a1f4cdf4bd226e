from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ...ops.layer_norm import layer_norm_bwd_empty, layer_norm_empty, rms_norm_bwd_empty, rms_norm_empty
from ._library import FLOATS, C


@lru_cache(maxsize=512)
def _shape(x_shape: torch.Size, dims: int, dtype: torch.dtype, affine_dtype: torch.dtype, rms: bool, eps: float):
    rows = x_shape[: len(x_shape) - dims].numel() if len(x_shape) > dims else 1
    cols = x_shape[len(x_shape) - dims :].numel()
    return C.RowNormShape(rows, cols, FLOATS[dtype], FLOATS[affine_dtype], rms, eps)


def _address(x: Tensor | None) -> int:
    return 0 if x is None or x.numel() == 0 else x.data_ptr()


def _dense(x: Tensor | None) -> Tensor | None:
    return x if x is None or x.is_contiguous() else x.contiguous()


def layer_norm(x, weight, bias, dims, eps):
    y, stats = layer_norm_empty(x, weight, bias, dims, eps)
    affine = weight if weight is not None else bias
    shape = _shape(x.shape, dims, x.dtype, x.dtype if affine is None else affine.dtype, False, eps)
    x, weight, bias = _dense(x), _dense(weight), _dense(bias)
    C.row_norm_forward(shape, _address(x), _address(weight), _address(bias), _address(y), _address(stats))
    return y, stats


def rms_norm(x, weight, dims, eps):
    y, stats = rms_norm_empty(x, weight, dims, eps)
    shape = _shape(x.shape, dims, x.dtype, x.dtype if weight is None else weight.dtype, True, eps)
    x, weight = _dense(x), _dense(weight)
    C.row_norm_forward(shape, _address(x), _address(weight), 0, _address(y), _address(stats))
    return y, stats


def _backward(shape, gy, x, weight, stats, gx, gweight, gbias):
    gy, x, weight, stats = _dense(gy), _dense(x), _dense(weight), _dense(stats)
    needs_workspace = gweight is not None or gbias is not None
    workspace = C.scratch(shape.backward_workspace()) if needs_workspace else 0
    addresses = [*(_address(t) for t in (gy, x, weight, stats, gx, gweight, gbias)), workspace]
    C.row_norm_backward(shape, *addresses)


def layer_norm_bwd(gy, x, weight, bias, stats, dims, eps, wanted):
    grads = layer_norm_bwd_empty(gy, x, weight, bias, stats, dims, eps, wanted)
    affine = weight if weight is not None else bias
    shape = _shape(x.shape, dims, x.dtype, x.dtype if affine is None else affine.dtype, False, eps)
    _backward(shape, gy, x, weight, stats, *(g if w else None for g, w in zip(grads, wanted, strict=True)))
    return grads


def rms_norm_bwd(gy, x, weight, stats, dims, eps, wanted):
    grads = rms_norm_bwd_empty(gy, x, weight, stats, dims, eps, wanted)
    shape = _shape(x.shape, dims, x.dtype, x.dtype if weight is None else weight.dtype, True, eps)
    _backward(shape, gy, x, weight, stats, *(g if w else None for g, w in zip(grads, wanted, strict=True)), None)
    return grads


def why_not_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *others: Tensor) -> str | None:
    """The rule of the norms: affine parameters of x's dtype or of float32, the rest of x's."""
    if x.dtype not in FLOATS:
        return f"the kernels have no {str(x.dtype).removeprefix('torch.')}"
    for t in (x, weight, bias, *others):
        if t is not None and not t.is_cpu:
            return f"a tensor is on {t.device}"
    if any(t.dtype is not x.dtype for t in others):
        return "the dtypes of gradient and input differ"
    affine = weight.dtype if weight is not None else bias.dtype if bias is not None else x.dtype
    if bias is not None and bias.dtype is not affine:
        return "the dtypes of weight and bias differ"
    if affine is not x.dtype and affine is not torch.float32:
        return "the affine parameters have neither the input's dtype nor float32"
    return None


LAYER_NORM_RULES = {
    "layer_norm": lambda x, weight, bias, *_: why_not_norm(x, weight, bias),
    "layer_norm_bwd": lambda gy, x, weight, bias, *_: why_not_norm(x, weight, bias, gy),
    "rms_norm": lambda x, weight, *_: why_not_norm(x, weight, None),
    "rms_norm_bwd": lambda gy, x, weight, *_: why_not_norm(x, weight, None, gy),
}
