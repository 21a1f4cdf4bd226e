from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ...ops.pool import avg_pool_bwd_empty, avg_pool_empty, max_pool_bwd_empty, max_pool_empty
from ...ops.pool import channels_last as lies_channels_last
from ._layout import dense_in
from ._library import FLOATS, C

_MAX, _AVERAGE = 0, 1


@lru_cache(maxsize=1024)
def _shape(kind, size, output_size, window, dtype, channels_last, count_include_pad, divisor):
    n, c, *spatial = size
    adaptive = not window
    kernel, stride, padding, dilation = zip(*[iter(window or (1, 1, 1, 1, 0, 0, 1, 1))] * 2, strict=True)
    h, w = zip(spatial, output_size, kernel, stride, padding, dilation, strict=True)
    return C.PoolShape(n, c, h, w, kind, FLOATS[dtype], channels_last, adaptive, count_include_pad, divisor)


def _format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def max_pool(x, window, output_size, want_indices):
    y, indices = max_pool_empty(x, window, output_size, want_indices)
    if y.numel() > 0:
        last = lies_channels_last(x)
        x = dense_in(x, _format(last))
        shape = _shape(_MAX, x.shape, tuple(output_size), tuple(window), x.dtype, last, True, 0)
        C.pool(shape, x.data_ptr(), y.data_ptr(), indices.data_ptr() if want_indices else 0)
    return y, indices


def avg_pool(x, window, output_size, count_include_pad, divisor):
    y = avg_pool_empty(x, window, output_size)
    if y.numel() > 0:
        last = lies_channels_last(x)
        x = dense_in(x, _format(last))
        shape = _shape(_AVERAGE, x.shape, tuple(output_size), tuple(window), x.dtype, last, count_include_pad, divisor)
        C.pool(shape, x.data_ptr(), y.data_ptr(), 0)
    return y


def _backward(shape, gy: Tensor, indices: Tensor | None, gx: Tensor, last: bool) -> Tensor:
    gy = dense_in(gy, _format(last))
    indices = None if indices is None else dense_in(indices, _format(last))
    workspace = C.scratch(C.pool_backward_workspace(shape))
    won = 0 if indices is None else indices.data_ptr()
    C.pool_backward(shape, gy.data_ptr(), won, gx.data_ptr(), workspace)
    return gx


def max_pool_bwd(gy, indices, input_size, window, channels_last):
    gx = max_pool_bwd_empty(gy, indices, input_size, window, channels_last)
    if gy.numel() == 0:
        return gx.zero_()
    shape = _shape(_MAX, gx.shape, gy.shape[2:], tuple(window), gy.dtype, channels_last, True, 0)
    return _backward(shape, gy, indices, gx, channels_last)


def avg_pool_bwd(gy, input_size, window, count_include_pad, divisor, channels_last):
    gx = avg_pool_bwd_empty(gy, input_size, window, count_include_pad, divisor, channels_last)
    if gy.numel() == 0:
        return gx.zero_()
    shape = _shape(_AVERAGE, gx.shape, gy.shape[2:], tuple(window), gy.dtype, channels_last, count_include_pad, divisor)
    return _backward(shape, gy, None, gx, channels_last)


def _why_not(x: Tensor) -> str | None:
    if x.dtype not in FLOATS:
        return f"the kernels have no {str(x.dtype).removeprefix('torch.')}"
    return None if x.is_cpu else f"a tensor is on {x.device}"


def _why_not_max(x: Tensor, *_) -> str | None:
    if x.shape[2] * x.shape[3] > 2**31 - 1:
        return "a plane has more positions than an int32 index can name"
    return _why_not(x)


def _why_not_max_bwd(gy: Tensor, indices: Tensor, *_) -> str | None:
    if indices.dtype is not torch.int32:
        return "the indices are not int32"
    return _why_not(gy)


POOL_RULES = {
    "max_pool": _why_not_max,
    "max_pool_bwd": _why_not_max_bwd,
    "avg_pool": lambda x, *_: _why_not(x),
    "avg_pool_bwd": lambda gy, *_: _why_not(gy),
}
