"""Memory order: what the kernels need a tensor to look like, and how to get there."""

from __future__ import annotations

import torch
from torch import Tensor

from ...memory import new_empty, new_empty_strided
from ._library import C


def dense_like(x: Tensor, pattern: Tensor) -> Tensor:
    """x with pattern's strides (same shape), x itself where it has them."""
    if x.stride() == pattern.stride():
        return x
    out = new_empty_strided(x, pattern.shape, pattern.stride())
    return out.copy_(x)


def dense_in(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """x with memory of that format (contiguous, channels_last, channels_last_3d), x itself where it has it."""
    if x.is_contiguous(memory_format=memory_format):
        return x
    other = torch.channels_last if memory_format is torch.contiguous_format else torch.contiguous_format
    if x.dim() != 4 or x.itemsize not in (2, 4) or not x.is_contiguous(memory_format=other):
        return x.contiguous(memory_format=memory_format)
    out = new_empty(x, x.shape, memory_format)
    n, c, h, w = x.shape
    rows, cols = (h * w, c) if other is torch.channels_last else (c, h * w)
    C.transpose(x.data_ptr(), out.data_ptr(), n, rows, cols, x.itemsize)
    return out


def is_dense(x: Tensor) -> bool:
    """Whether x's elements fill one block of memory, each once, in whatever order of dimensions."""
    if x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)):
        return True
    return torch.empty_like(x).stride() == x.stride()
