"""The random-number contract in plain torch: Philox4x32-10 words and normals, as docs/math/random.md defines them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
STREAMS = {"user": 0, "dropout": 1, "diffusion": 2, "attention": 3}


def _multiply(a: Tensor, constant: int) -> tuple[Tensor, Tensor]:
    """The high and low 32 bits of a product of 32-bit numbers, by halves that int64 holds."""
    low, high = a * (constant & 0xFFFF), a * (constant >> 16)
    carried = high + (low >> 16)
    return carried >> 16, ((carried & 0xFFFF) << 16) | (low & 0xFFFF)


def philox_words(seed_offset: Tensor, samples: int, elements: int, first_sample: int, step: int, stream: str) -> Tensor:
    """int64 [samples, blocks, 4]: the words of all blocks of four elements."""
    device = seed_offset.device
    seed, offset = seed_offset[0], seed_offset[1]
    block = torch.arange((elements + 3) // 4, device=device).expand(samples, -1)
    sample = (torch.arange(samples, device=device) + first_sample).unsqueeze(1)
    # 64-bit sums that wrap, cut into 32-bit words
    high_counter = (STREAMS[stream] << 32) + step + offset
    c0, c1 = block & _LOW, (sample + (block >> 32)).expand_as(block) & _LOW
    c2, c3 = (high_counter & _LOW).expand_as(block), ((high_counter >> 32) & _LOW).expand_as(block)
    k0, k1 = seed & _LOW, (seed >> 32) & _LOW
    for _ in range(10):
        high0, low0 = _multiply(c0, 0xD2511F53)
        high1, low1 = _multiply(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return torch.stack((c0, c1, c2, c3), -1)


def philox_normals(
    seed_offset: Tensor, samples: int, elements: int, first_sample: int, step: int, stream: str
) -> Tensor:
    """float64 [samples, elements]: Box-Muller on pairs of words."""
    a = philox_words(seed_offset, samples, elements, first_sample, step, stream) >> 8
    pairs = a.unflatten(-1, (2, 2)).double()
    radius = torch.sqrt(-2 * torch.log((pairs[..., 0] + 1) / 2**24))
    angle = pairs[..., 1] * (2 * math.pi / 2**24)
    both = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), -1)
    return both.flatten(1)[:, :elements]
