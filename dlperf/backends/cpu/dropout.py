from __future__ import annotations

from torch import Tensor

from ...ops.dropout import dropout_empty
from ._layout import dense_like
from ._library import FLOATS, C, why_not_dtype


def why_not_dropout(x, seed_offset, *_) -> str | None:
    if not (x.is_cpu and seed_offset.is_cpu):
        return f"a tensor is on {x.device if not x.is_cpu else seed_offset.device}"
    return why_not_dtype(x.dtype)


def dropout(x: Tensor, seed_offset: Tensor, p: float) -> Tensor:
    y = dropout_empty(x)
    x = dense_like(x, y)
    C.dropout(FLOATS[x.dtype], x.numel(), p, seed_offset.data_ptr(), x.data_ptr(), y.data_ptr())
    return y
