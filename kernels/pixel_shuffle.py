"""pixel_shuffle and its inverse: one gather. docs/math/resampling.md."""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from dlperf.ops.pixel_shuffle import pixel_shuffle_empty, pixel_unshuffle_empty

from ._launch import cdiv, kernel
from .pool import _offset, _place

BLOCK = 1024


@kernel()
def shuffle_kernel(small, large, total, c, h, w, r, FORWARD: tl.constexpr, LAST: tl.constexpr, BLOCK: tl.constexpr):
    """Between small [n, c r^2, h, w] and large [n, c, h r, w r], in the target's memory order."""
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = element < total
    if FORWARD:
        n, channel, row, col = _place(element, c, h * r, w * r, LAST)
        deep = (channel * r + row % r) * r + col % r
        value = tl.load(small + _offset(n, deep, row // r, col // r, c * r * r, h, w, LAST), mask=there)
        tl.store(large + element, value, mask=there)
    else:
        n, deep, row, col = _place(element, c * r * r, h, w, LAST)
        high = row * r + (deep // r) % r
        wide = col * r + deep % r
        value = tl.load(large + _offset(n, deep // (r * r), high, wide, c, h * r, w * r, LAST), mask=there)
        tl.store(small + element, value, mask=there)


def _run(source: Tensor, target: Tensor, large: Tensor, small: Tensor, r: int, forward: bool) -> Tensor:
    if target.numel() == 0:
        return target
    last = not target.is_contiguous()
    source = source.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    pair = (source, target) if forward else (target, source)
    numbers = (target.numel(), large.shape[1], *small.shape[2:], r)
    shuffle_kernel((cdiv(target.numel(), BLOCK),), *pair, *numbers, FORWARD=forward, LAST=last, BLOCK=BLOCK)
    return target


def pixel_shuffle(x, r):
    y = pixel_shuffle_empty(x, r)
    return _run(x, y, y, x, r, True)


def pixel_unshuffle(y, r):
    x = pixel_unshuffle_empty(y, r)
    return _run(y, x, y, x, r, False)
