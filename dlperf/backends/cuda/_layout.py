"""Memory order: what the kernels need, and how to get there."""

from __future__ import annotations

import torch
from torch import Tensor

_LAST = torch.channels_last


def dense(x: Tensor | None) -> Tensor | None:
    return x if x is None or x.is_contiguous() else x.contiguous()


def dense_like(x: Tensor | None, pattern: Tensor) -> Tensor | None:
    """x with pattern's strides (same shape), x itself where it has them."""
    if x is None or x.stride() == pattern.stride():
        return x
    return torch.empty_strided(pattern.shape, pattern.stride(), dtype=x.dtype, device=x.device).copy_(x)


def nhwc(x: Tensor | None) -> Tensor | None:
    if x is None or x.dim() != 4:
        return dense(x)
    return x if x.is_contiguous(memory_format=_LAST) else x.contiguous(memory_format=_LAST)


def nhwc_target(out: Tensor) -> Tensor:
    """Where the kernels write NHWC: out itself, or a tensor to be copied into it."""
    return out if out.is_contiguous(memory_format=_LAST) else torch.empty_like(out, memory_format=_LAST)


def into(out: Tensor, target: Tensor) -> Tensor:
    return out if target is out else out.copy_(target)
