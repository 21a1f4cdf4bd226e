from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ...ops.add import add_empty
from ._layout import dense_like
from ._library import FLOATS, C

# Elements of b that must lie side by side: below that, copying it out is faster than a loop of tiny rows.
_LEAST_ROW = 8


@lru_cache(maxsize=1024)
def broadcast_rows(size: torch.Size, y_stride: tuple, b_stride: tuple) -> tuple[int, int, int, int, int] | None:
    """(outer, mid, inner, b_outer, b_mid) of C.add_rows, b expanded to y's size; None where it is no such pattern."""
    if 0 in size:
        return None
    order = sorted((d for d in range(len(size)) if size[d] > 1), key=lambda d: -y_stride[d])
    inner = mid = outer = 1
    while order and b_stride[order[-1]] == inner:
        inner *= size[order.pop()]
    while order and b_stride[order[-1]] == 0:
        mid *= size[order.pop()]
    step = b_stride[order[-1]] if order else 0
    while order and b_stride[order[-1]] == step * outer:
        outer *= size[order.pop()]
    return None if order or inner < _LEAST_ROW else (outer, mid, inner, step, 0)


def add(a: Tensor, b: Tensor, alpha: float, activation: str) -> Tensor:
    y = add_empty(a, b)
    a, relu = dense_like(a, y), activation == "relu"
    if b.shape != y.shape:
        b = b.expand(y.shape)
        rows = broadcast_rows(y.shape, y.stride(), b.stride())
        if rows is not None:
            outer, mid, inner, *steps = rows
            at = (a.data_ptr(), b.data_ptr(), *steps)
            C.add_rows(FLOATS[a.dtype], outer, mid, inner, *at, alpha, relu, y.data_ptr())
            return y
    b = dense_like(b, y)
    C.add(FLOATS[a.dtype], a.numel(), a.data_ptr(), b.data_ptr(), alpha, relu, y.data_ptr())
    return y
