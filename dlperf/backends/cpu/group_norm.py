from __future__ import annotations

from functools import lru_cache

import torch

from ...ops.activation import KINDS
from ...ops.group_norm import FUSED, group_norm_bwd_empty, group_norm_empty
from ._layout import dense_like
from ._library import FLOATS, C
from .layer_norm import _address, _dense, why_not_norm


@lru_cache(maxsize=512)
def _shape(size: torch.Size, groups: int, dtype, affine_dtype, channels_last: bool, eps: float, activation: str):
    n, c = size[:2]
    code = KINDS.index(activation)
    return C.GroupNormShape(
        n, c, size[2:].numel(), groups, FLOATS[dtype], FLOATS[affine_dtype], channels_last, eps, code
    )


def _shape_of(x, weight, bias, groups, eps, activation):
    affine = weight if weight is not None else bias
    dtype = x.dtype
    affine_dtype = dtype if affine is None else affine.dtype
    return _shape(x.shape, groups, dtype, affine_dtype, not x.is_contiguous(), eps, activation)


def group_norm(x, weight, bias, groups, eps, activation):
    y, stats = group_norm_empty(x, weight, bias, groups, eps, activation)
    x, weight, bias = dense_like(x, y), _dense(weight), _dense(bias)
    shape = _shape_of(y, weight, bias, groups, eps, activation)
    workspace = C.scratch(shape.workspace())
    addresses = [*(_address(t) for t in (x, weight, bias, y, stats)), workspace]
    C.group_norm_forward(shape, *addresses)
    return y, stats


def group_norm_bwd(gy, x, weight, bias, stats, groups, eps, activation, wanted):
    grads = group_norm_bwd_empty(gy, x, weight, bias, stats, groups, eps, activation, wanted)
    pattern = grads[0] if wanted[0] else group_norm_empty(x, weight, bias, groups, eps, activation)[0]
    gy, x, weight, bias = dense_like(gy, pattern), dense_like(x, pattern), _dense(weight), _dense(bias)
    shape = _shape_of(pattern, weight, bias, groups, eps, activation)
    workspace = C.scratch(shape.backward_workspace())
    outputs = [g if w else None for g, w in zip(grads, wanted, strict=True)]
    C.group_norm_backward(shape, *(_address(t) for t in (gy, x, weight, bias, _dense(stats), *outputs)), workspace)
    return grads


def _why_not(x, weight, bias, activation, *others):
    if activation not in FUSED:
        return f"the kernels fuse {', '.join(FUSED[1:])}, not {activation}"
    return why_not_norm(x, weight, bias, *others)


GROUP_NORM_RULES = {
    "group_norm": lambda x, weight, bias, groups, eps, activation: _why_not(x, weight, bias, activation),
    "group_norm_bwd": lambda gy, x, weight, bias, stats, groups, eps, activation, wanted: _why_not(
        x, weight, bias, activation, gy
    ),
}
