"""Memory order: what the kernels need a tensor to look like, and how to get there."""

from __future__ import annotations

import torch
from torch import Tensor


def dense_like(x: Tensor, pattern: Tensor) -> Tensor:
    """x with pattern's strides (same shape), x itself where it has them."""
    if x.stride() == pattern.stride():
        return x
    out = torch.empty_strided(pattern.shape, pattern.stride(), dtype=x.dtype, device=x.device)
    return out.copy_(x)


def dense(x: Tensor | None) -> Tensor | None:
    return x if x is None or x.is_contiguous() else x.contiguous()


def is_dense(x: Tensor) -> bool:
    """Whether x's elements fill one block of memory, each once, in whatever order of dimensions."""
    return x.is_contiguous() or torch.empty_like(x).stride() == x.stride()
