from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _pairs(window) -> list[tuple]:
    """kernel, stride, padding, dilation, each (h, w)"""
    return [(window[i], window[i + 1]) for i in (0, 2, 4, 6)]


def _ceil_mode(size, window, output_size) -> bool:
    """Whether rounding down would give another output size."""
    kernel, stride, padding, dilation = _pairs(window)
    return any(
        o != (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, o, k, s, p, d in zip(size, output_size, kernel, stride, padding, dilation, strict=True)
    )


def max_pool(x, window, output_size, want_indices):
    if window:
        ceil = _ceil_mode(x.shape[2:], window, output_size)
        y, indices = F.max_pool2d(x, *_pairs(window), ceil_mode=ceil, return_indices=True)
    else:
        y, indices = F.adaptive_max_pool2d(x, output_size, return_indices=True)
    if not want_indices:
        indices = indices.new_empty(0)
    return y, indices if x.shape[2] * x.shape[3] > 2**31 - 1 else indices.int()


def max_pool_bwd(gy, indices, input_size, window, channels_last):
    n, c, h, w = input_size
    planes = torch.zeros(n, c, h * w, dtype=torch.promote_types(gy.dtype, torch.float32), device=gy.device)
    summed = planes.scatter_add(2, indices.long().flatten(2), gy.to(planes.dtype).flatten(2))
    return summed.to(gy.dtype).view(n, c, h, w)


def avg_pool(x, window, output_size, count_include_pad, divisor):
    if not window:
        return F.adaptive_avg_pool2d(x, output_size)
    kernel, stride, padding, _ = _pairs(window)
    ceil = _ceil_mode(x.shape[2:], window, output_size)
    return F.avg_pool2d(x, kernel, stride, padding, ceil, count_include_pad, divisor or None)


def avg_pool_bwd(gy: Tensor, input_size, window, count_include_pad, divisor, channels_last):
    like = gy.new_zeros(()).expand(input_size)
    if not window:
        return torch.ops.aten._adaptive_avg_pool2d_backward(gy, like)
    kernel, stride, padding, _ = _pairs(window)
    ceil = _ceil_mode(input_size[2:], window, gy.shape[2:])
    return torch.ops.aten.avg_pool2d_backward(
        gy, like, kernel, stride, padding, ceil, count_include_pad, divisor or None
    )
