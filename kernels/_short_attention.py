"""Attention over so few keys that all their scores of a block of queries stay in registers: ViT's 197, 257 and 577
tokens, Swin's windows of 49 and 64.

Keys are covered by up to three tiles of decreasing powers of two, 197 by 128 + 64 + 16, so that little is computed
for keys that do not exist, and the softmax needs no running maximum. Forward: a program keeps its head's keys and
values and goes over blocks of queries. Backward: one program makes all gradients of one head of keys, five products
for a block of queries, so that nothing is computed twice and nothing is added atomically.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations_with_replacement

import triton
import triton.language as tl

from ._attention_math import exp, kept, probabilities, scores
from ._launch import kernel

_LN_2 = tl.constexpr(0.6931471805599453)
_TILES = (16, 32, 64, 128, 256, 512)


@lru_cache(maxsize=1024)
def tiles(keys: int) -> tuple[int, int, int]:
    """Widths of the tiles that cover the keys, 0 for none: as few columns as may be, a tile counted as eight."""
    found = [c for count in (1, 2, 3) for c in combinations_with_replacement(_TILES, count) if sum(c) >= keys]
    best = min(found, key=lambda c: sum(c) + 8 * len(c))
    return (*sorted(best, reverse=True), 0, 0)[:3]


@triton.jit
def _turned(x, first, keys, row, e, E: tl.constexpr, N: tl.constexpr):
    """A tile of keys or values, [E, N]."""
    depth, column = tl.arange(0, E), first + tl.arange(0, N)
    inside = (depth < e)[:, None] & (column < keys)[None, :]
    return tl.load(x + column[None, :] * row + depth[:, None], mask=inside, other=0.0)


@triton.jit
def _upright(x, first, keys, row, e, E: tl.constexpr, N: tl.constexpr):
    """The same as [N, E]."""
    depth, column = tl.arange(0, E), first + tl.arange(0, N)
    inside = (column < keys)[:, None] & (depth < e)[None, :]
    return tl.load(x + column[:, None] * row + depth[None, :], mask=inside, other=0.0)


@triton.jit
def _weigh(
    s, base, values, acc, total, rng, row_start, rows, first, keys, threshold, keep_scale, MASK: tl.constexpr,
    DROPOUT: tl.constexpr, BY_4: tl.constexpr, PRECISION: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    p = exp(s - base[:, None], MASK == "none")
    total += tl.sum(p, 1)
    if DROPOUT:
        p *= kept(rng, row_start, rows, first + tl.arange(0, N), keys, threshold, keep_scale, BY_4, N)
    return tl.dot(p.to(values.dtype), values, acc, input_precision=PRECISION), total


@kernel(products=True)
def forward_kernel(
    q, k, v, mask, rng, out, stats, queries, keys, heads, group, e, ev, q_b, q_h, q_row, k_b, k_h, k_row, v_b, v_h,
    v_row, m_b, m_h, m_row, m_col, o_b, o_h, o_row, scale, threshold, keep_scale, CAUSAL: tl.constexpr,
    MASK: tl.constexpr, DROPOUT: tl.constexpr, BY_4: tl.constexpr, PRECISION: tl.constexpr, E: tl.constexpr,
    EV: tl.constexpr, BLOCK_M: tl.constexpr, N0: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr,
):  # fmt: skip
    """program_id(1) of num_programs(1): a share of the blocks of queries."""
    pair = tl.program_id(0).to(tl.int64)
    batch, head = pair // heads, pair % heads
    k += batch * k_b + (head // group) * k_h
    v += batch * v_b + (head // group) * v_h
    q += batch * q_b + head * q_h
    out += batch * o_b + head * o_h
    row_start = pair * queries
    if MASK != "none":
        mask += batch * m_b + head * m_h
    depth, width = tl.arange(0, E), tl.arange(0, EV)
    k0, v0 = _turned(k, 0, keys, k_row, e, E, N0), _upright(v, 0, keys, v_row, ev, EV, N0)
    if N1 > 0:
        k1, v1 = _turned(k, N0, keys, k_row, e, E, N1), _upright(v, N0, keys, v_row, ev, EV, N1)
    if N2 > 0:
        k2, v2 = _turned(k, N0 + N1, keys, k_row, e, E, N2), _upright(v, N0 + N1, keys, v_row, ev, EV, N2)
    for block in range(tl.program_id(1), tl.cdiv(queries, BLOCK_M), tl.num_programs(1)):
        rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
        there = rows < queries
        at = q + rows[:, None].to(tl.int64) * q_row + depth[None, :]
        q_tile = tl.load(at, mask=there[:, None] & (depth < e)[None, :], other=0.0)
        s0 = scores(
            q_tile, k0, mask, rows, tl.arange(0, N0), m_row, m_col, queries, keys, scale,
            CAUSAL, True, MASK, PRECISION,
        )  # fmt: skip
        top = tl.max(s0, 1)
        if N1 > 0:
            s1 = scores(
                q_tile, k1, mask, rows, N0 + tl.arange(0, N1), m_row, m_col, queries, keys, scale,
                CAUSAL, True, MASK, PRECISION,
            )  # fmt: skip
            top = tl.maximum(top, tl.max(s1, 1))
        if N2 > 0:
            s2 = scores(
                q_tile, k2, mask, rows, N0 + N1 + tl.arange(0, N2), m_row, m_col, queries, keys, scale,
                CAUSAL, True, MASK, PRECISION,
            )  # fmt: skip
            top = tl.maximum(top, tl.max(s2, 1))
        base = tl.where(top == float("-inf"), 0.0, top)
        acc = tl.zeros([BLOCK_M, EV], tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        acc, total = _weigh(
            s0, base, v0, acc, total, rng, row_start, rows, 0, keys, threshold, keep_scale,
            MASK, DROPOUT, BY_4, PRECISION, N0,
        )  # fmt: skip
        if N1 > 0:
            acc, total = _weigh(
                s1, base, v1, acc, total, rng, row_start, rows, N0, keys, threshold, keep_scale,
                MASK, DROPOUT, BY_4, PRECISION, N1,
            )  # fmt: skip
        if N2 > 0:
            acc, total = _weigh(
                s2, base, v2, acc, total, rng, row_start, rows, N0 + N1, keys, threshold, keep_scale,
                MASK, DROPOUT, BY_4, PRECISION, N2,
            )  # fmt: skip
        empty = total == 0.0
        value = acc / tl.where(empty, 1.0, total)[:, None]
        at = out + rows[:, None].to(tl.int64) * o_row + width[None, :]
        tl.store(at, value.to(out.dtype.element_ty), mask=there[:, None] & (width < ev)[None, :])
        if MASK == "none":
            top = top * _LN_2
        at = stats + (row_start + rows) * 2
        tl.store(at, tl.where(empty, 0.0, top), mask=there)
        tl.store(at + 1, tl.where(empty, float("inf"), tl.log(total)), mask=there)


@triton.jit
def _gradients(
    q, g, kt, vt, gk, gv, gq, delta, stats, mask, rng, gs_out, row_start, rows, first, m_row, m_col, queries, keys,
    scale, threshold, keep_scale, CAUSAL: tl.constexpr, MASK: tl.constexpr, DROPOUT: tl.constexpr, BY_4: tl.constexpr,
    PRECISION: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Adds to gk, gv [N, E] of a tile of keys, and to gq of a block of queries."""
    columns = first + tl.arange(0, N)
    s = scores(q, kt, mask, rows, columns, m_row, m_col, queries, keys, scale, CAUSAL, True, MASK, PRECISION)
    p = probabilities(s, stats, row_start, rows, queries, MASK == "none")
    gp = tl.dot(g, vt, input_precision=PRECISION)
    dropped = p
    if DROPOUT:
        factor = kept(rng, row_start, rows, columns, keys, threshold, keep_scale, BY_4, N)
        dropped = p * factor
        gp *= factor
    gv = tl.dot(tl.trans(dropped).to(g.dtype), g, gv, input_precision=PRECISION)
    gs = p * (gp - delta[:, None])
    if gs_out is not None:
        at = gs_out + (row_start + rows)[:, None] * keys + columns[None, :]
        tl.store(at, gs, mask=(rows < queries)[:, None] & (columns < keys)[None, :])
    gs = gs.to(q.dtype)
    gk = tl.dot(tl.trans(gs), q, gk, input_precision=PRECISION)
    return gk, gv, tl.dot(gs, tl.trans(kt), gq, input_precision=PRECISION)


@triton.jit
def _store(x, value, first, keys, row, e, E: tl.constexpr, N: tl.constexpr):
    depth, column = tl.arange(0, E), first + tl.arange(0, N)
    inside = (column < keys)[:, None] & (depth < e)[None, :]
    tl.store(x + column[:, None] * row + depth[None, :], value.to(x.dtype.element_ty), mask=inside)


@kernel(products=True)
def backward_kernel(
    go, q, k, v, mask, rng, out, stats, gq, gk, gv, gs_out, queries, keys, heads, group, e, ev, g_b, g_h, g_row, q_b,
    q_h, q_row, k_b, k_h, k_row, v_b, v_h, v_row, m_b, m_h, m_row, m_col, o_b, o_h, o_row, gq_b, gq_h, gq_row, gk_b,
    gk_h, gk_row, gv_b, gv_h, gv_row, scale, out_scale, threshold, keep_scale, CAUSAL: tl.constexpr,
    MASK: tl.constexpr, DROPOUT: tl.constexpr, BY_4: tl.constexpr, PRECISION: tl.constexpr, E: tl.constexpr,
    EV: tl.constexpr, BLOCK_M: tl.constexpr, N0: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr,
):  # fmt: skip
    """One head of keys, over all queries of the heads that share it. gs_out: the scores' gradient, float32
    [B, H, Sq, Sk], or None."""
    pair = tl.program_id(0).to(tl.int64)
    kv_heads = heads // group
    batch, kv_head = pair // kv_heads, pair % kv_heads
    k += batch * k_b + kv_head * k_h
    v += batch * v_b + kv_head * v_h
    depth, width = tl.arange(0, E), tl.arange(0, EV)
    k0, v0 = _turned(k, 0, keys, k_row, e, E, N0), _turned(v, 0, keys, v_row, ev, EV, N0)
    gk0, gv0 = tl.zeros([N0, E], tl.float32), tl.zeros([N0, EV], tl.float32)
    if N1 > 0:
        k1, v1 = _turned(k, N0, keys, k_row, e, E, N1), _turned(v, N0, keys, v_row, ev, EV, N1)
        gk1, gv1 = tl.zeros([N1, E], tl.float32), tl.zeros([N1, EV], tl.float32)
    if N2 > 0:
        k2, v2 = _turned(k, N0 + N1, keys, k_row, e, E, N2), _turned(v, N0 + N1, keys, v_row, ev, EV, N2)
        gk2, gv2 = tl.zeros([N2, E], tl.float32), tl.zeros([N2, EV], tl.float32)
    blocks = tl.cdiv(queries, BLOCK_M)
    for step in range(group * blocks):
        head = kv_head * group + step // blocks
        row_start = (batch * heads + head) * queries
        rows = (step % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
        there = rows < queries
        wide = rows[:, None].to(tl.int64)
        inside = there[:, None] & (depth < e)[None, :]
        q_tile = tl.load(q + batch * q_b + head * q_h + wide * q_row + depth[None, :], mask=inside, other=0.0)
        v_inside = there[:, None] & (width < ev)[None, :]
        g = tl.load(go + batch * g_b + head * g_h + wide * g_row + width[None, :], mask=v_inside, other=0.0)
        o = tl.load(out + batch * o_b + head * o_h + wide * o_row + width[None, :], mask=v_inside, other=0.0)
        delta = tl.sum(g.to(tl.float32) * o.to(tl.float32), 1)
        m_at = mask
        if MASK != "none":
            m_at = mask + batch * m_b + head * m_h
        acc = tl.zeros([BLOCK_M, E], tl.float32)
        gk0, gv0, acc = _gradients(
            q_tile, g, k0, v0, gk0, gv0, acc, delta, stats, m_at, rng, gs_out, row_start, rows, 0,
            m_row, m_col, queries, keys, scale, threshold, keep_scale,
            CAUSAL, MASK, DROPOUT, BY_4, PRECISION, N0,
        )  # fmt: skip
        if N1 > 0:
            gk1, gv1, acc = _gradients(
                q_tile, g, k1, v1, gk1, gv1, acc, delta, stats, m_at, rng, gs_out, row_start, rows, N0,
                m_row, m_col, queries, keys, scale, threshold, keep_scale,
                CAUSAL, MASK, DROPOUT, BY_4, PRECISION, N1,
            )  # fmt: skip
        if N2 > 0:
            gk2, gv2, acc = _gradients(
                q_tile, g, k2, v2, gk2, gv2, acc, delta, stats, m_at, rng, gs_out, row_start, rows, N0 + N1,
                m_row, m_col, queries, keys, scale, threshold, keep_scale,
                CAUSAL, MASK, DROPOUT, BY_4, PRECISION, N2,
            )  # fmt: skip
        at = gq + batch * gq_b + head * gq_h + wide * gq_row + depth[None, :]
        tl.store(at, (acc * out_scale).to(gq.dtype.element_ty), mask=inside)
    gk += batch * gk_b + kv_head * gk_h
    gv += batch * gv_b + kv_head * gv_h
    _store(gk, gk0 * out_scale, 0, keys, gk_row, e, E, N0)
    _store(gv, gv0, 0, keys, gv_row, ev, EV, N0)
    if N1 > 0:
        _store(gk, gk1 * out_scale, N0, keys, gk_row, e, E, N1)
        _store(gv, gv1, N0, keys, gv_row, ev, EV, N1)
    if N2 > 0:
        _store(gk, gk2 * out_scale, N0 + N1, keys, gk_row, e, E, N2)
        _store(gv, gv2, N0 + N1, keys, gv_row, ev, EV, N2)
