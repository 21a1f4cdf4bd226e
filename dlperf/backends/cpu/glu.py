from __future__ import annotations

from ...ops.activation import KINDS
from ...ops.glu import glu_bwd_empty, glu_empty
from ._layout import dense_like
from ._library import FLOATS, C


def _outer_and_half(x, dim: int) -> tuple[int, int]:
    """x's memory as [outer, 2, half]."""
    if not x.is_contiguous():  # channels_last, halved along the channels
        return x.numel() // x.shape[1], x.shape[1] // 2
    outer = x.shape[:dim].numel()
    return outer, x.numel() // (2 * outer)


def glu(x, dim, kind):
    y = glu_empty(x, dim, kind)
    if y.numel() == 0:
        return y
    x = dense_like(x, glu_bwd_empty(y, x, dim, kind))
    C.glu_forward(*_outer_and_half(x, dim), FLOATS[x.dtype], KINDS.index(kind), x.data_ptr(), y.data_ptr())
    return y


def glu_bwd(gy, x, dim, kind):
    gx = glu_bwd_empty(gy, x, dim, kind)
    if gx.numel() == 0:
        return gx
    x, gy = dense_like(x, gx), dense_like(gy, glu_empty(gx, dim, kind))
    code = KINDS.index(kind)
    C.glu_backward(*_outer_and_half(gx, dim), FLOATS[x.dtype], code, gy.data_ptr(), x.data_ptr(), gx.data_ptr())
    return gx
