"""Activations, in place or not, and their gradients: one pass over memory. Formulas: docs/math/activation.md."""

from __future__ import annotations

import triton.language as tl
from torch import Tensor

from dlperf.ops.activation import activation_empty

from ._activation_math import act, act_gradient
from ._launch import cdiv, kernel
from ._layout import dense_like, is_dense

BLOCK = 2048


@kernel()
def forward_kernel(x, y, n, param, KIND: tl.constexpr, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    inside = at < tl.minimum(n - start, BLOCK).to(tl.int32)
    value = tl.load(x + start + at, mask=inside).to(tl.float32)
    tl.store(y + start + at, act(value, param, KIND).to(y.dtype.element_ty), mask=inside)


@kernel()
def backward_kernel(gy, x, gx, n, param, KIND: tl.constexpr, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    inside = at < tl.minimum(n - start, BLOCK).to(tl.int32)
    g = tl.load(gy + start + at, mask=inside).to(tl.float32)
    value = tl.load(x + start + at, mask=inside).to(tl.float32)
    tl.store(gx + start + at, act_gradient(g, value, param, KIND).to(gx.dtype.element_ty), mask=inside)


def activation(x: Tensor, kind: str, param: float) -> Tensor:
    y = activation_empty(x)
    n = x.numel()
    forward_kernel((cdiv(n, BLOCK),), dense_like(x, y), y, n, param, KIND=kind, BLOCK=BLOCK)
    return y


def activation_(x: Tensor, kind: str, param: float) -> None:
    n = x.numel()
    if is_dense(x):
        forward_kernel((cdiv(n, BLOCK),), x, x, n, param, KIND=kind, BLOCK=BLOCK)
    else:
        x.copy_(activation(x, kind, param))


def activation_bwd(gy: Tensor, x: Tensor, kind: str, param: float) -> Tensor:
    gx = activation_empty(x)
    n = x.numel()
    gy, x = dense_like(gy, gx), dense_like(x, gx)
    backward_kernel((cdiv(n, BLOCK),), gy, x, gx, n, param, KIND=kind, BLOCK=BLOCK)
    return gx
