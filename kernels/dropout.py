"""Dropout on the Philox contract of docs/math/random.md: the mask is never stored."""

from __future__ import annotations

import math

import triton.language as tl
from torch import Tensor

from dlperf.ops.dropout import dropout_empty

from ._launch import cdiv, kernel
from ._layout import dense_like
from ._philox import DROPOUT_STREAM, four_by_four, philox

BLOCK = 2048


@kernel()
def dropout_kernel(x, seed_offset, y, n, threshold, scale, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    inside = at < tl.minimum(n - start, BLOCK).to(tl.int32)
    block = (start >> 2) + tl.arange(0, BLOCK // 4)
    w0, w1, w2, w3 = philox(seed_offset, block, 0, 0, DROPOUT_STREAM)
    kept = (four_by_four(w0, w1, w2, w3) >> 8) >= threshold
    value = tl.load(x + start + at, mask=inside).to(tl.float32)
    # multiplied by zero, so that NaN and infinity show through
    tl.store(y + start + at, (value * tl.where(kept, scale, 0.0)).to(y.dtype.element_ty), mask=inside)


def dropout(x: Tensor, seed_offset: Tensor, p: float) -> Tensor:
    y = dropout_empty(x)
    n = x.numel()
    scale = 1.0 / (1.0 - p) if p < 1.0 else 0.0
    arguments = (dense_like(x, y), seed_offset, y, n, math.ceil(p * 2**24), scale)
    dropout_kernel((cdiv(n, BLOCK),), *arguments, BLOCK=BLOCK)
    return y
