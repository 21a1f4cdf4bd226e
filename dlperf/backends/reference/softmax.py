from __future__ import annotations

import torch
from torch import Tensor


def softmax(x: Tensor, dim: int, logarithm: bool) -> Tensor:
    return torch.log_softmax(x, dim) if logarithm else torch.softmax(x, dim)


def softmax_bwd(gy: Tensor, y: Tensor, dim: int, logarithm: bool) -> Tensor:
    wide = torch.promote_types(y.dtype, torch.float32)
    gy, y_wide = gy.to(wide), y.to(wide)
    if logarithm:
        gx = gy - y_wide.exp() * gy.sum(dim, keepdim=True)
    else:
        gx = y_wide * (gy - (gy * y_wide).sum(dim, keepdim=True))
    return gx.to(y.dtype)
