from __future__ import annotations

from torch import Tensor

from ...ops.activation import KINDS, activation_empty
from ._layout import dense_like, is_dense
from ._library import FLOATS, C

_CODE = {kind: code for code, kind in enumerate(KINDS)}


def activation(x: Tensor, kind: str, param: float) -> Tensor:
    y = activation_empty(x)
    x = dense_like(x, y)
    C.activation_forward(FLOATS[x.dtype], _CODE[kind], param, x.numel(), x.data_ptr(), y.data_ptr())
    return y


def activation_(x: Tensor, kind: str, param: float) -> None:
    if is_dense(x):
        C.activation_forward(FLOATS[x.dtype], _CODE[kind], param, x.numel(), x.data_ptr(), x.data_ptr())
    else:
        x.copy_(activation(x, kind, param))


def activation_bwd(gy: Tensor, x: Tensor, kind: str, param: float) -> Tensor:
    gx = activation_empty(x)
    gy, x = dense_like(gy, gx), dense_like(x, gx)
    C.activation_backward(FLOATS[x.dtype], _CODE[kind], param, x.numel(), gy.data_ptr(), x.data_ptr(), gx.data_ptr())
    return gx
