from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from ...ops._resampling import index_and_weight
from ...ops.upsample import upsample_bwd_empty, upsample_empty
from ._library import FLOATS, C


@lru_cache(maxsize=256)
def _axis(n_in: int, n_out: int, mode: str, align_corners: bool, scale: float):
    """The axis and the arrays that it points into."""
    index, weight = index_and_weight(n_in, n_out, mode, align_corners, scale)
    inputs = np.arange(n_in, dtype=np.int64)
    first = np.searchsorted(index, inputs - (weight is not None), "left").astype(np.int64)
    last = np.searchsorted(index, inputs, "right").astype(np.int64)
    arrays = (index, weight, first, last)
    return C.UpsampleAxis(n_in, n_out, *(0 if a is None else a.ctypes.data for a in arrays)), arrays


@lru_cache(maxsize=256)
def shape_of(n: int, c: int, small, large, dtype, channels_last: bool, mode, align_corners, scale_h, scale_w):
    """The kernel's shape, and what holds the arrays that it points into."""
    rows = _axis(small[0], large[0], mode, align_corners, scale_h)
    cols = _axis(small[1], large[1], mode, align_corners, scale_w)
    return C.UpsampleShape(n, c, FLOATS[dtype], channels_last, rows[0], cols[0]), (rows, cols)


def _call(function, source, target, small, large, rest):
    if target.numel() == 0:
        return target
    n, c = target.shape[:2]
    shape, _ = shape_of(n, c, small, large, target.dtype, not target.is_contiguous(), *rest)
    workspace = C.scratch(shape.workspace())
    function(shape, source.data_ptr(), target.data_ptr(), workspace)
    return target


def _in_format_of(x, target):
    """x as dense as target: both contiguous, or both channels_last."""
    return x.contiguous(memory_format=torch.contiguous_format if target.is_contiguous() else torch.channels_last)


def upsample(x, size, mode, align_corners, scale_h, scale_w):
    y = upsample_empty(x, size, mode, align_corners, scale_h, scale_w)
    rest = (mode, align_corners, scale_h, scale_w)
    return _call(C.upsample_forward, _in_format_of(x, y), y, x.shape[2:], y.shape[2:], rest)


def upsample_bwd(gy, x_size, mode, align_corners, scale_h, scale_w):
    gx = upsample_bwd_empty(gy, x_size, mode, align_corners, scale_h, scale_w)
    rest = (mode, align_corners, scale_h, scale_w)
    return _call(C.upsample_backward, _in_format_of(gy, gx), gx, gx.shape[2:], gy.shape[2:], rest)
