from __future__ import annotations

from functools import lru_cache
from math import prod

from torch import Tensor

from ...ops.softmax import softmax_empty
from ._library import FLOATS, C


@lru_cache(maxsize=1024)
def _shape(sizes: tuple[int, ...], dim: int):
    if not sizes:
        return C.SoftmaxShape(1, 1, 1)
    return C.SoftmaxShape(prod(sizes[:dim]), sizes[dim], prod(sizes[dim + 1 :]))


def softmax(x: Tensor, dim: int, logarithm: bool) -> Tensor:
    y = softmax_empty(x)
    x = x.contiguous()
    C.softmax_forward(FLOATS[x.dtype], _shape(tuple(x.shape), dim), logarithm, x.data_ptr(), y.data_ptr())
    return y


def softmax_bwd(gy: Tensor, y: Tensor, dim: int, logarithm: bool) -> Tensor:
    gx = softmax_empty(y)
    gy, y = gy.contiguous(), y.contiguous()
    shape = _shape(tuple(y.shape), dim)
    C.softmax_backward(FLOATS[y.dtype], shape, logarithm, gy.data_ptr(), y.data_ptr(), gx.data_ptr())
    return gx
