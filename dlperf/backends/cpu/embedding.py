from __future__ import annotations

from functools import lru_cache

import torch

from ...ops.embedding import embedding_bwd_empty, embedding_empty
from ._library import FLOATS, C


@lru_cache(maxsize=256)
def _shape(count: int, rows: int, cols: int, padding_idx: int, by_frequency: bool, dtype: torch.dtype):
    return C.EmbeddingShape(count, rows, cols, padding_idx, by_frequency, FLOATS[dtype])


def embedding(indices, weight, padding_idx, by_frequency):
    out = embedding_empty(indices, weight, padding_idx, by_frequency)
    indices, weight = indices.to(torch.int64).contiguous(), weight.contiguous()
    rows, cols = weight.shape
    shape = _shape(indices.numel(), rows, cols, padding_idx, by_frequency, weight.dtype)
    outside = C.embedding(shape, indices.data_ptr(), weight.data_ptr(), out.data_ptr())
    if outside >= 0:
        value = int(indices.flatten()[outside])
        raise IndexError(f"embedding(): expected the indices of 'input' to lie in [0, {rows}), got {value}")
    return out


def embedding_bwd(gy, indices, rows, padding_idx, by_frequency):
    gweight = embedding_bwd_empty(gy, indices, rows, padding_idx, by_frequency)
    if gweight.numel() == 0:
        return gweight
    gy, indices = gy.contiguous(), indices.to(torch.int64).contiguous()
    shape = _shape(indices.numel(), rows, gy.shape[-1], padding_idx, by_frequency, gy.dtype)
    workspace = C.scratch(shape.workspace())
    C.embedding_backward(shape, indices.data_ptr(), gy.data_ptr(), gweight.data_ptr(), workspace)
    return gweight


def _why_not(values, indices):
    if values.dtype not in FLOATS:
        return f"the kernels have no {str(values.dtype).removeprefix('torch.')}"
    return None if values.is_cpu and indices.is_cpu else "a tensor is not on the CPU"


EMBEDDING_RULES = {
    "embedding": lambda indices, weight, *_: _why_not(weight, indices),
    "embedding_bwd": lambda gy, indices, *_: _why_not(gy, indices),
}
