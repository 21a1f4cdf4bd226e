from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _resize(x: Tensor, size, mode: str, align_corners: bool, scale_h: float, scale_w: float) -> Tensor:
    scales = (scale_h or None, scale_w or None)
    if mode == "bilinear":
        return torch.ops.aten.upsample_bilinear2d(x, size, align_corners, *scales)
    op = torch.ops.aten.upsample_nearest2d if mode == "nearest" else torch.ops.aten._upsample_nearest_exact2d
    return op(x, size, *scales)


def upsample(x, size, mode, align_corners, scale_h, scale_w):
    if x.numel() == 0:
        return F.pad(x.sum((2, 3), keepdim=True), (0, size[1] - 1, 0, size[0] - 1))
    return _resize(x, size, mode, align_corners, scale_h, scale_w)


def upsample_bwd(gy, x_size, mode, align_corners, scale_h, scale_w):
    shape = (*gy.shape[:2], *x_size)
    if gy.numel() == 0:
        return gy.new_zeros(shape)
    sizes, scales = (list(gy.shape[2:]), list(shape)), (scale_h or None, scale_w or None)
    if mode == "bilinear":
        return torch.ops.aten.upsample_bilinear2d_backward(gy, *sizes, align_corners, *scales)
    if mode == "nearest":
        return torch.ops.aten.upsample_nearest2d_backward(gy, *sizes, *scales)
    return torch.ops.aten._upsample_nearest_exact2d_backward(gy, *sizes, *scales)
