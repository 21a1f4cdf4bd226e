"""Matrix products with an epilogue: linear and bmm. Formulas: docs/math/matmul.md.

Three kernels. ``matmul_kernel`` takes operands of any strides through pointers. Where M x N has too few tiles for the
card, K is split over programs, which write float32 parts that ``join_kernel`` adds in order before the epilogue. On
compute capability 9.0 and above, large 16-bit products with aligned rows go to ``persistent_kernel``: one program per
multiprocessor loops over tiles, loads come through TMA descriptors, and producer and consumer warps are specialized.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from dlperf.ops.matmul import bmm_empty, linear_empty

from ._launch import INTERPRETED, TRITON, capability, cdiv, kernel, multiprocessors, power_of_two
from ._moments import Moments, store_moments
from ._products import NARROW, finish, precision, tile_of, within
from ._tune import choose

_GROUP_M = 8
MOST_SPLIT = 32


@kernel(products=True)
def matmul_kernel(
    a,
    b,
    bias,
    residual,
    c,
    means,
    squares,
    m,
    n,
    k,
    inner,
    a_outer,
    a_inner,
    a_m,
    a_k,
    b_outer,
    b_inner,
    b_k,
    b_n,
    r_outer,
    r_inner,
    r_m,
    r_n,
    alpha,
    beta,
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
    EVEN_K: tl.constexpr,
    WIDE: tl.constexpr,
    SPLIT_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """c [outer, inner, m, n] contiguous; with SPLIT_K, float32 parts [SPLIT_K, outer, inner, m, n] without the
    epilogue."""
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(n, BLOCK_N)
    batch = tl.program_id(0) // (tiles_m * tiles_n)
    tile_m, tile_n = tile_of(tl.program_id(0) % (tiles_m * tiles_n), tiles_m, tiles_n, GROUP_M)
    at_outer = (batch // inner).to(tl.int64)
    at_inner = (batch % inner).to(tl.int64)
    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    first = (tl.program_id(1) * BLOCK_K).to(tl.int64)
    a += at_outer * a_outer + at_inner * a_inner + (tile_m * BLOCK_M).to(tl.int64) * a_m + first * a_k
    b += at_outer * b_outer + at_inner * b_inner + (tile_n * BLOCK_N).to(tl.int64) * b_n + first * b_k
    # A tile's own offsets in 32 bits where they fit: a 64-bit address for each element would fill the registers.
    a_at = within(BLOCK_M, a_m, WIDE)[:, None] + within(BLOCK_K, a_k, WIDE)[None, :]
    b_at = within(BLOCK_K, b_k, WIDE)[:, None] + within(BLOCK_N, b_n, WIDE)[None, :]
    a_step = tl.cast(a_k, tl.int64) * (BLOCK_K * SPLIT_K)
    b_step = tl.cast(b_k, tl.int64) * (BLOCK_K * SPLIT_K)
    row_there = (rows < m)[:, None]
    column_there = (columns < n)[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for at in range(tl.program_id(1) * BLOCK_K, k, BLOCK_K * SPLIT_K):
        if EVEN_K:
            x = tl.load(a + a_at, mask=row_there, other=0.0)
            y = tl.load(b + b_at, mask=column_there, other=0.0)
        else:
            left = tl.arange(0, BLOCK_K) < k - at
            x = tl.load(a + a_at, mask=row_there & left[None, :], other=0.0)
            y = tl.load(b + b_at, mask=column_there & left[:, None], other=0.0)
        acc = tl.dot(x, y, acc, input_precision=PRECISION)
        a += a_step
        b += b_step
    inside = row_there & column_there
    corner = (tile_m * BLOCK_M).to(tl.int64)
    c += (batch.to(tl.int64) * m + corner) * n + tile_n * BLOCK_N
    at_c = within(BLOCK_M, n, WIDE)[:, None] + tl.arange(0, BLOCK_N)[None, :]
    if SPLIT_K > 1:
        c += tl.program_id(1).to(tl.int64) * (tl.num_programs(0) // (tiles_m * tiles_n)) * m * n
        tl.store(c + at_c, acc, mask=inside)
    else:
        if residual is not None:
            residual += at_outer * r_outer + at_inner * r_inner + corner * r_m + (tile_n * BLOCK_N).to(tl.int64) * r_n
        at_r = within(BLOCK_M, r_m, WIDE)[:, None] + within(BLOCK_N, r_n, WIDE)[None, :]
        value = finish(acc * alpha, bias, residual, columns % n, at_r, inside, beta, KIND).to(c.dtype.element_ty)
        tl.store(c + at_c, value, mask=inside)
        if means is not None:
            store_moments(means, squares, value.to(tl.float32), row_there, columns, n, tile_m, m, BLOCK_M)


@kernel()
def join_kernel(
    parts,
    bias,
    residual,
    c,
    all_rows,
    m,
    n,
    inner,
    r_outer,
    r_inner,
    r_m,
    r_n,
    split,
    alpha,
    beta,
    KIND: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLS + tl.arange(0, COLS)
    inside = (rows < all_rows)[:, None] & (columns < n)[None, :]
    at = rows[:, None] * n + columns[None, :]
    value = tl.zeros([ROWS, COLS], tl.float32)
    for _ in range(split):
        value += tl.load(parts + at, mask=inside, other=0.0)
        parts += tl.cast(all_rows, tl.int64) * n
    batch = rows // m
    at_r = ((batch // inner) * r_outer + (batch % inner) * r_inner + (rows % m) * r_m)[:, None] + columns[None, :] * r_n
    value = finish(value * alpha, bias, residual, columns % n, at_r, inside, beta, KIND)
    tl.store(c + at, value.to(c.dtype.element_ty), mask=inside)


@kernel(products=True)
def persistent_kernel(
    a,
    b,
    bias,
    residual,
    c,
    means,
    squares,
    m,
    n,
    k,
    a_row,
    b_row,
    r_m,
    r_n,
    alpha,
    beta,
    KIND: tl.constexpr,
    A_BY_K: tl.constexpr,
    B_BY_K: tl.constexpr,
    WIDE: tl.constexpr,
    WARP_SPECIALIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """a lies as [m, k] with rows a_row apart, or [k, m] where A_BY_K; b as [n, k], or [k, n] where B_BY_K."""
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(n, BLOCK_N)
    if A_BY_K:
        a_tiles = tl.make_tensor_descriptor(a, [k, m], [a_row, 1], [BLOCK_K, BLOCK_M])
    else:
        a_tiles = tl.make_tensor_descriptor(a, [m, k], [a_row, 1], [BLOCK_M, BLOCK_K])
    if B_BY_K:
        b_tiles = tl.make_tensor_descriptor(b, [k, n], [b_row, 1], [BLOCK_K, BLOCK_N])
    else:
        b_tiles = tl.make_tensor_descriptor(b, [n, k], [b_row, 1], [BLOCK_N, BLOCK_K])
    for number in tl.range(
        tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), warp_specialize=WARP_SPECIALIZE, flatten=False
    ):
        tile_m, tile_n = tile_of(number, tiles_m, tiles_n, GROUP_M)
        at_m = tile_m * BLOCK_M
        at_n = tile_n * BLOCK_N
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for step in range(tl.cdiv(k, BLOCK_K)):
            if A_BY_K:
                x = a_tiles.load([step * BLOCK_K, at_m]).T
            else:
                x = a_tiles.load([at_m, step * BLOCK_K])
            if B_BY_K:
                y = b_tiles.load([step * BLOCK_K, at_n])
            else:
                y = b_tiles.load([at_n, step * BLOCK_K]).T
            acc = tl.dot(x, y, acc)
        rows = at_m + tl.arange(0, BLOCK_M)
        columns = at_n + tl.arange(0, BLOCK_N)
        inside = (rows < m)[:, None] & (columns < n)[None, :]
        r_at = None
        if residual is not None:
            r_at = residual + at_m.to(tl.int64) * r_m + at_n.to(tl.int64) * r_n
        at_r = within(BLOCK_M, r_m, WIDE)[:, None] + within(BLOCK_N, r_n, WIDE)[None, :]
        value = finish(acc * alpha, bias, r_at, columns % n, at_r, inside, beta, KIND).to(c.dtype.element_ty)
        at_c = within(BLOCK_M, n, WIDE)[:, None] + tl.arange(0, BLOCK_N)[None, :]
        tl.store(c + at_m.to(tl.int64) * n + at_n + at_c, value, mask=inside)
        if means is not None:
            there = (rows < m)[:, None]
            store_moments(means, squares, value.to(tl.float32), there, columns, n, tile_m, m, BLOCK_M)


@dataclass(frozen=True)
class Operand:
    """Sizes and strides of [outer, inner, rows, columns]."""

    size: tuple[int, int, int, int]
    stride: tuple[int, int, int, int]


# (BLOCK_M, BLOCK_N, BLOCK_K, warps, stages) by (capability, bytes of an element), best first where there are
# tiles enough. Chosen by the ahead-of-time table; not yet measured on a GPU.
CONFIGURATIONS = {
    (100, 2): ((128, 128, 64, 8, 4), (64, 128, 64, 4, 4), (64, 64, 64, 4, 4)),
    (90, 2): ((128, 128, 64, 8, 4), (64, 128, 64, 4, 4), (64, 64, 64, 4, 4)),
    (80, 2): ((128, 128, 32, 8, 4), (64, 128, 32, 4, 4), (64, 64, 32, 4, 4)),
    (80, 4): ((128, 64, 32, 8, 3), (64, 64, 32, 4, 3)),
}
FEW_ROWS = {2: (16, 128, 64, 4, 4), 4: (16, 64, 32, 4, 3)}
# The same and whether warps are specialized, which triton does at four warps alone.
PERSISTENT = ((128, 128, 64, 4, 3, True), (128, 128, 64, 8, 4, False))
# By capability, the first triton that was seen to specialize: 3.6 fails to compile it for 10.0.
_SPECIALIZES = {90: (3, 6), 100: (3, 8)}


def _candidates(chip: int, itemsize: int) -> tuple[tuple, ...]:
    return CONFIGURATIONS.get((min(chip // 10 * 10, 100), itemsize)) or CONFIGURATIONS[80, itemsize]


def configure(chip: int, processors: int, itemsize: int, batch: int, m: int, n: int, k: int) -> tuple:
    """(BLOCK_M, BLOCK_N, BLOCK_K, warps, stages, SPLIT_K)"""
    if INTERPRETED:
        few = m <= 16
        blocks = (16, 64, 32) if few else (64, 64, 32)
        return (*blocks, 4, 3, 3 if batch == 1 and k > 200 and m * n <= 64 * 64 else 1)
    if m <= 16:
        best = FEW_ROWS[itemsize]
    else:
        candidates = _candidates(chip, itemsize)
        best = next(
            (c for c in candidates if batch * cdiv(m, c[0]) * cdiv(n, c[1]) >= processors * 3 // 4), candidates[-1]
        )
    tiles = batch * cdiv(m, best[0]) * cdiv(n, best[1])
    split = 1
    while tiles * split * 2 <= processors * 2 and k >= best[2] * 4 * split * 2 and split < MOST_SPLIT:
        split *= 2
    return (*best, split)


def other_splits(configuration: tuple, most: int) -> list[tuple]:
    """Half and twice the parts of a split reduction: how many pay depends on what joining them costs."""
    *tile, split = configuration
    return [(*tile, s) for s in (split // 2, split * 2) if split > 1 and s <= most]


def _wants_persistent(chip: int, processors: int, a: Tensor, b: Tensor, x: Operand, y: Operand) -> bool:
    """Whether TMA can read the operands and there is enough of them."""
    if chip < 90 or a.itemsize != 2 or x.size[0] * x.size[1] != 1:
        return False
    m, k = x.size[2:]
    n = y.size[3]
    if cdiv(m, 128) * cdiv(n, 128) < processors or k < 256:
        return False
    return _rows_for_tma(a, x) is not None and _rows_for_tma(b, y) is not None


def _rows_for_tma(t: Tensor, o: Operand) -> int | None:
    """The distance of rows where one of the last dimensions is contiguous and rows start at multiples of 16 bytes."""
    _, _, s0, s1 = o.stride
    row = s0 if s1 == 1 else s1 if s0 == 1 else 0
    return row if row > 1 and row * t.itemsize % 16 == 0 and t.data_ptr() % 16 == 0 else None


def product(
    a: Tensor,
    x: Operand,
    b: Tensor,
    y: Operand,
    bias: Tensor | None,
    residual: Tensor | None,
    r_stride: tuple[int, int, int, int],
    c: Tensor,
    alpha: float,
    beta: float,
    kind: str,
    how: str,
    moments: Moments | None = None,
) -> None:
    """c = act(alpha a b + bias + beta residual): x is [outer, inner, M, K] in a, y [outer, inner, K, N] in b.

    moments: c's by column are wanted, of one matrix.
    """
    outer, inner, m, k = x.size
    n = y.size[3]
    if m * n * outer * inner == 0:
        return
    chip, processors = capability(a.device), multiprocessors(a.device)
    if alpha == 0.0:
        k = 0
    if k and _wants_persistent(chip, processors, a, b, x, y):
        _persistent(a, x, b, y, bias, residual, r_stride, c, alpha, beta, kind, processors, moments)
        return

    def run(configuration: tuple) -> None:
        block_m, block_n, block_k, warps, stages, split = configuration
        batch = outer * inner
        blocks = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP_M": _GROUP_M}
        out = c if split == 1 else a.new_empty((split, batch * m, n), dtype=torch.float32)
        parts = (None, None) if moments is None or split > 1 else moments.parts(m, block_m)
        tensors = (a, b, bias, residual, out, *parts) if split == 1 else (a, b, None, None, out, *parts)
        matmul_kernel(
            (batch * cdiv(m, block_m) * cdiv(n, block_n), split),
            *(*tensors, m, n, k, inner, *x.stride, *y.stride, *r_stride, alpha, beta),
            KIND=kind if split == 1 else "none",
            PRECISION=how,
            EVEN_K=k % (block_k * split) == 0,
            WIDE=max(*x.stride[2:], *y.stride[2:], *r_stride[2:], n) > NARROW,
            SPLIT_K=split,
            **blocks,
            num_warps=warps,
            num_stages=stages,
        )
        if split > 1:
            cols = min(128, max(16, power_of_two(n)))
            rows = 1024 // cols
            join_kernel(
                (cdiv(batch * m, rows), cdiv(n, cols)),
                *(out, bias, residual, c, batch * m, m, n, inner, *r_stride, split, alpha, beta),
                KIND=kind,
                ROWS=rows,
                COLS=cols,
            )
        if moments is not None:
            moments.join() if split == 1 else moments.of(c, m)

    default = configure(chip, processors, a.itemsize, outer * inner, m, n, k)
    if INTERPRETED:
        run(default)
        return
    problem = "matmul", a.dtype, how, outer * inner, power_of_two(m), n, k, x.stride[3] == 1, y.stride[2] == 1
    candidates = [(*c, default[5]) for c in _candidates(chip, a.itemsize)] + other_splits(default, MOST_SPLIT)
    run(choose(a.device, problem, default, candidates, run))


def _allocate(size: int, alignment: int, stream: int | None) -> Tensor:
    return torch.empty(size, dtype=torch.int8, device="cuda")


def _persistent(a, x, b, y, bias, residual, r_stride, c, alpha, beta, kind, processors, moments) -> None:
    m, k = x.size[2:]
    n = y.size[3]
    if not INTERPRETED:
        triton.set_allocator(_allocate)  # for the descriptors that the kernel makes

    def run(configuration: tuple) -> None:
        block_m, block_n, block_k, warps, stages, specialize = configuration
        parts = (None, None) if moments is None else moments.parts(m, block_m)
        persistent_kernel(
            (min(cdiv(m, block_m) * cdiv(n, block_n), processors),),
            *(
                a,
                b,
                bias,
                residual,
                c,
                *parts,
                m,
                n,
                k,
                _rows_for_tma(a, x),
                _rows_for_tma(b, y),
                *r_stride[2:],
                alpha,
                beta,
            ),
            KIND=kind,
            A_BY_K=x.stride[3] != 1,
            B_BY_K=y.stride[2] != 1,
            WIDE=max(*r_stride[2:], n) > NARROW,
            WARP_SPECIALIZE=specialize,
            BLOCK_M=block_m,
            BLOCK_N=block_n,
            BLOCK_K=block_k,
            GROUP_M=_GROUP_M,
            num_warps=warps,
            num_stages=stages,
        )
        if moments is not None:
            moments.join()

    # A specialized kernel's few registers have no room for a longer epilogue.
    short = residual is None and kind in ("none", "relu") and moments is None
    short = short and _SPECIALIZES[90 if capability(a.device) < 100 else 100] <= TRITON
    candidates = PERSISTENT if short else PERSISTENT[1:]
    problem = "persistent", a.dtype, m, n, k, x.stride[3] == 1, y.stride[2] == 1, short
    run(choose(a.device, problem, candidates[0], candidates, run))


@lru_cache(maxsize=4096)
def _merge(
    size: tuple[int, ...], *strides: tuple[int, ...]
) -> tuple[tuple[int, int], tuple[tuple[int, int], ...]] | None:
    """Batch dimensions as two, with each operand's strides, or None where that takes a copy."""
    groups: list[tuple[int, tuple[int, ...]]] = []
    for length, step in zip(size, zip(*strides, strict=True), strict=True):
        if length == 1:
            continue
        if groups and all(before == s * length for before, s in zip(groups[-1][1], step, strict=True)):
            groups[-1] = (groups[-1][0] * length, step)
        else:
            groups.append((length, step))
    if len(groups) > 2:
        return None
    none = (1, (0,) * len(strides))
    outer, inner = [none] * (2 - len(groups)) + groups
    return (outer[0], inner[0]), tuple(zip(outer[1], inner[1], strict=True))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str) -> Tensor:
    y = linear_empty(x, weight)
    n, k = weight.shape
    bias = None if bias is None else bias.contiguous()
    lead, x_lead = x.shape[:-1], x.stride()[:-1]
    r_lead = (0,) * len(lead) if residual is None else residual.stride()[:-1]
    rows = _merge(lead, x_lead, r_lead)
    if rows is not None and rows[0][0] == 1:  # every row of x with one weight
        (_, m), ((_, x_m), (_, r_m)) = rows
        outer, steps = 1, ((0, 0), (0, 0))
    else:
        m = lead[-1]
        rows = _merge(lead[:-1], x_lead[:-1], r_lead[:-1])
        if rows is None:
            contiguous = None if residual is None else residual.contiguous()
            return linear(x.contiguous(), weight, bias, contiguous, activation)
        (outer, inner), steps = rows
        x_m, r_m = x_lead[-1], r_lead[-1]
    if outer == 1 and steps == ((0, 0), (0, 0)):
        inner = 1
    r_n = 0 if residual is None else residual.stride(-1)
    first = Operand((outer, inner, m, k), (*steps[0], x_m, x.stride(-1)))
    second = Operand((outer, inner, k, n), (0, 0, weight.stride(1), weight.stride(0)))
    r_stride = (*steps[1], r_m, r_n)
    product(x, first, weight, second, bias, residual, r_stride, y, 1.0, 1.0, activation, precision(x))
    return y


def bmm(
    a: Tensor, b: Tensor, bias: Tensor | None, input: Tensor | None, beta: float, alpha: float, activation: str
) -> Tensor:
    c = bmm_empty(a, b)
    bias = None if bias is None else bias.contiguous()
    if beta == 0:
        input = None
    r = (0,) * a.dim() if input is None else input.stride()
    merged = _merge(a.shape[:-2], a.stride()[:-2], b.stride()[:-2], r[:-2])
    if merged is None:
        contiguous = None if input is None else input.contiguous()
        return bmm(a.contiguous(), b.contiguous(), bias, contiguous, beta, alpha, activation)
    (outer, inner), (a_lead, b_lead, r_lead) = merged
    first = Operand((outer, inner, *a.shape[-2:]), (*a_lead, *a.stride()[-2:]))
    second = Operand((outer, inner, *b.shape[-2:]), (*b_lead, *b.stride()[-2:]))
    product(a, first, b, second, bias, input, (*r_lead, *r[-2:]), c, alpha, beta, activation, precision(a))
    return c
