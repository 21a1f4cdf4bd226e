"""Philox4x32-10 on tiles: the words of docs/math/random.md, bit for bit."""

from __future__ import annotations

import triton
import triton.language as tl

DROPOUT_STREAM = tl.constexpr(1)
DIFFUSION_STREAM = tl.constexpr(2)
ATTENTION_STREAM = tl.constexpr(3)

_TO_UNIT = tl.constexpr(1.0 / 16777216.0)
_TO_ANGLE = tl.constexpr(6.283185307179586 / 16777216.0)


@triton.jit
def philox(seed_offset, block, sample, step, STREAM: tl.constexpr):
    """The four words of int64 ``block``; ``seed_offset`` points to the pair, ``sample`` and ``step`` are int64
    numbers."""
    seed = tl.load(seed_offset)
    high = tl.load(seed_offset + 1) + (STREAM << 32) + step
    low = (sample << 32) + block
    c0 = low.to(tl.uint32)
    c1 = (low >> 32).to(tl.uint32)
    c2 = tl.zeros_like(c0) + high.to(tl.uint32)
    c3 = tl.zeros_like(c0) + (high >> 32).to(tl.uint32)
    k0 = seed.to(tl.uint32)
    k1 = (seed >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        p0 = c0.to(tl.uint64) * 0xD2511F53
        p1 = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = p1.to(tl.uint32)
        c2 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = p0.to(tl.uint32)
        k0 = (k0.to(tl.uint64) + 0x9E3779B9).to(tl.uint32)
        k1 = (k1.to(tl.uint64) + 0xBB67AE85).to(tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def four_by_four(w0, w1, w2, w3):
    """[4 B] from four [B]: word i of block b at 4 b + i."""
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))


@triton.jit
def word_of(element, seed_offset, sample, step, STREAM: tl.constexpr):
    """Each int64 element's own word, where neighbours do not share blocks."""
    w0, w1, w2, w3 = philox(seed_offset, element >> 2, sample, step, STREAM)
    i = (element & 3).to(tl.int32)
    return tl.where(i == 0, w0, tl.where(i == 1, w1, tl.where(i == 2, w2, w3)))


@triton.jit
def normal_pair(w0, w1):
    """Two standard normals from two words (Box & Muller 1958)."""
    radius = tl.sqrt(-2.0 * tl.log(((w0 >> 8).to(tl.float32) + 1.0) * _TO_UNIT))
    angle = (w1 >> 8).to(tl.float32) * _TO_ANGLE
    return radius * tl.cos(angle), radius * tl.sin(angle)
