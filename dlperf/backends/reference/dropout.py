from __future__ import annotations

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_DROPOUT_STREAM = 1


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """The high and low 32 bits of a * b, for values below 2**32 in int64."""
    low_half = (a & 0xFFFF) * b
    high = ((a >> 16) * b + (low_half >> 16)) >> 16
    return high, (a * b) & _MASK


def philox_words(blocks: Tensor, seed: int, offset: int, sample: int, step: int, stream: int) -> Tensor:
    """Philox4x32-10 words [len(blocks), 4] of csrc/cpu/philox.h's counters, as int64 below 2**32."""
    low = (blocks + (sample << 32)).to(torch.int64)
    high = ((stream << 32) + step + offset) & 0xFFFFFFFFFFFFFFFF
    c0, c1 = low & _MASK, (low >> 32) & _MASK
    c2, c3 = torch.full_like(c0, high & _MASK), torch.full_like(c0, high >> 32)
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(10):
        high0, low0 = _multiply(0xD2511F53, c0)
        high1, low1 = _multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return torch.stack([c0, c1, c2, c3], dim=1)


def dropout(x: Tensor, seed_offset: Tensor, p: float) -> Tensor:
    seed, offset = (int(v) for v in seed_offset.tolist())
    n = x.numel()
    blocks = torch.arange((n + 3) // 4, dtype=torch.int64)
    words = philox_words(blocks, seed, offset, 0, 0, _DROPOUT_STREAM).flatten()[:n]
    keep = ((words >> 8) >= math.ceil(p * 2**24)).to(x.device)
    # Elements are numbered in the order in which a dense tensor of x's strides lies in memory.
    pattern = torch.empty_like(x)
    in_memory_order = torch.empty_strided(pattern.shape, pattern.stride(), dtype=torch.bool, device=x.device)
    in_memory_order.as_strided((n,), (1,)).copy_(keep)
    scale = 1.0 / (1.0 - p) if p < 1.0 else 0.0
    wide = torch.promote_types(x.dtype, torch.float32)
    return (x.to(wide) * (in_memory_order.to(wide) * scale)).to(x.dtype)
