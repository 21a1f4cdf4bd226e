from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ...memory import new_empty_strided
from ...ops.activation import KINDS
from ...ops.matmul import bmm_empty, linear_empty
from ._library import FLOATS, C

_CODE = {kind: code for code, kind in enumerate(KINDS)}
# A batch whose strides don't merge into one is walked by calls of its own, up to so many; else operands are copied.
_MOST_CALLS = 256


def _meta(size: tuple, strides: tuple) -> Tensor:
    """A tensor of no data, to ask the operators' own shape functions once per geometry."""
    return torch.empty_strided(size, strides, device="meta")


@lru_cache(maxsize=4096)
def _linear_plan(x_size, x_strides, w_size, w_strides, r_strides, kind, dtype, isa, threads) -> tuple | None:
    y = linear_empty(_meta(x_size, x_strides), _meta(w_size, w_strides))
    if len(x_size) == 1:
        x_size, x_strides = (1, *x_size), (0, *x_strides)
        r_strides = None if r_strides is None else (0, *r_strides)
    b = w_size[::-1], w_strides[::-1]
    return _plan(y, x_size, x_strides, *b, r_strides, 1.0, 1.0, kind, dtype, threads)


@lru_cache(maxsize=4096)
def _bmm_plan(a_size, a_strides, b_size, b_strides, r_strides, beta, alpha, kind, dtype, isa, threads) -> tuple | None:
    y = bmm_empty(_meta(a_size, a_strides), _meta(b_size, b_strides))
    return _plan(y, a_size, a_strides, b_size, b_strides, r_strides, beta, alpha, kind, dtype, threads)


def _plan(y, a_size, a_strides, b_size, b_strides, r_strides, beta, alpha, kind, dtype, threads) -> tuple | None:
    """How to multiply [*, M, K] by [*, K, N]; b may have no batch dimensions: every row of a is multiplied by it.

    Returns:
        ``(size, strides, shape, workspace, offsets)``: the result's size and strides; one call's GemmShape, or None
        where the result is empty; its workspace; and bytes to add to the addresses of (a, b, residual, c) in each call,
        or None for one call. Or None where the operands have to be made contiguous first.
    """
    *batch, m, k = a_size
    n = b_size[-1]
    b_batch = b_strides[:-2] or (0,) * len(batch)
    r_batch = (0,) * (len(a_size) - 1) if r_strides is None else r_strides[:-1]
    size = (*batch, m)
    if 0 in (*size, n):
        return y.shape, y.stride(), None, 0, None
    # Rows are a dimension like the batch's, along which b stands still. Strides of (a, b, residual, c).
    steps = list(zip(a_strides[:-1], (*b_batch, 0), r_batch, _contiguous(size, n), strict=True))
    groups = _merge(size, steps)
    rows, (a_row, b_step, r_row, c_row) = groups.pop() if groups and groups[-1][1][1] == 0 else (1, (0, 0, 0, n))
    count, (a_step, b_step, r_step, c_step) = groups.pop() if groups else (1, (0, 0, 0, 0))
    offsets = None
    if groups:
        calls = 1
        for length, _ in groups:
            calls *= length
        if calls > _MOST_CALLS:
            return None
        offsets = _offsets(groups, dtype.itemsize)
    shape = C.GemmShape(
        *(count, rows, n, k if alpha != 0 else 0),
        *(a_step, a_row, a_strides[-1]),
        *(b_step, b_strides[-2], b_strides[-1]),
        *(c_step, c_row),
        *(r_step, r_row, 1 if r_strides is None else r_strides[-1]),
        *(FLOATS[dtype], _CODE[kind], 0.0, alpha, beta, False),
    )
    return y.shape, y.stride(), shape, C.gemm_workspace_bytes(shape, threads, False), offsets


def _contiguous(size: tuple, unit: int) -> list[int]:
    strides = []
    for length in reversed(size):
        strides.append(unit)
        unit *= length
    return strides[::-1]


def _merge(size: tuple, steps: list[tuple]) -> list[tuple[int, tuple]]:
    """Dimensions as few groups (length, strides): neighbours that every operand walks as one are one."""
    groups: list[tuple[int, tuple]] = []
    for length, step in zip(size, steps, strict=True):
        if length == 1:
            continue
        if groups and all(outer == inner * length for outer, inner in zip(groups[-1][1], step, strict=True)):
            groups[-1] = (groups[-1][0] * length, step)
        else:
            groups.append((length, step))
    return groups


def _offsets(groups: list[tuple[int, tuple]], itemsize: int) -> list[tuple]:
    offsets = [(0, 0, 0, 0)]
    for length, step in groups:
        offsets = [
            tuple(o + i * s * itemsize for o, s in zip(offset, step, strict=True))
            for offset in offsets
            for i in range(length)
        ]
    return offsets


def _run(plan: tuple, a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None, threads: int) -> Tensor:
    size, strides, shape, workspace, offsets = plan
    y = new_empty_strided(a, size, strides)
    if shape is None:
        return y
    bias_at = 0
    if bias is not None:
        bias = bias.contiguous()
        bias_at = bias.data_ptr()
    r = 0 if residual is None else residual.data_ptr()
    scratch_at = C.scratch(workspace)
    if offsets is None:
        C.gemm(shape, a.data_ptr(), b.data_ptr(), bias_at, r, y.data_ptr(), scratch_at, threads)
        return y
    starts = a.data_ptr(), b.data_ptr(), r, y.data_ptr()
    for offset in offsets:
        a_at, b_at, r_at, y_at = (start + o for start, o in zip(starts, offset, strict=True))
        C.gemm(shape, a_at, b_at, bias_at, r_at if r else 0, y_at, scratch_at, threads)
    return y


def _made_contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str) -> Tensor:
    threads = torch.get_num_threads()
    r_strides = None if residual is None else residual.stride()
    signature = x.shape, x.stride(), weight.shape, weight.stride(), r_strides
    plan = _linear_plan(*signature, activation, x.dtype, C.isa(), threads)
    if plan is None:
        return linear(x.contiguous(), weight, bias, _made_contiguous(residual), activation)
    return _run(plan, x, weight, bias, residual, threads)


def bmm(
    a: Tensor, b: Tensor, bias: Tensor | None, input: Tensor | None, beta: float, alpha: float, activation: str
) -> Tensor:
    threads = torch.get_num_threads()
    if beta == 0:
        input = None
    r_strides = None if input is None else input.stride()
    signature = a.shape, a.stride(), b.shape, b.stride(), r_strides
    plan = _bmm_plan(*signature, beta, alpha, activation, a.dtype, C.isa(), threads)
    if plan is None:
        return bmm(a.contiguous(), b.contiguous(), bias, _made_contiguous(input), beta, alpha, activation)
    return _run(plan, a, b, bias, input, threads)
