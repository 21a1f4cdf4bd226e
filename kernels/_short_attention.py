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

from ._attention_math import exp, kept, probabilities, put, put_scores, put_statistics, scores, turned, upright
from ._launch import kernel

_TILES = (16, 32, 64, 128, 256, 512)


@lru_cache(maxsize=1024)
def tiles(keys: int) -> tuple[int, int, int]:
    """Widths of the tiles that cover the keys, 0 for none: as few columns as may be, a tile counted as eight."""
    found = [c for count in (1, 2, 3) for c in combinations_with_replacement(_TILES, count) if sum(c) >= keys]
    best = min(found, key=lambda c: sum(c) + 8 * len(c))
    return (*sorted(best, reverse=True), 0, 0)[:3]


@triton.jit
def _weigh(
    s, base, values, acc, total, rng, row_start, first_row, first, keys, threshold, keep_scale, MASK: tl.constexpr,
    DROPOUT: tl.constexpr, BY_4: tl.constexpr, PRECISION: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    p = exp(s - base[:, None], MASK == "none")
    total += tl.sum(p, 1)
    if DROPOUT:
        p *= kept(rng, row_start, first_row, first, keys, threshold, keep_scale, BY_4, M, N)
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
    k0, v0 = turned(k, 0, keys, k_row, e, N0, E, True), upright(v, 0, keys, v_row, ev, N0, EV)
    if N1 > 0:
        k1, v1 = turned(k, N0, keys, k_row, e, N1, E, True), upright(v, N0, keys, v_row, ev, N1, EV)
    if N2 > 0:
        k2, v2 = turned(k, N0 + N1, keys, k_row, e, N2, E, True), upright(v, N0 + N1, keys, v_row, ev, N2, EV)
    for block in range(tl.program_id(1), tl.cdiv(queries, BLOCK_M), tl.num_programs(1)):
        first_row = block * BLOCK_M
        q_tile = upright(q, first_row, queries, q_row, e, BLOCK_M, E)
        s0 = scores(
            q_tile, k0, mask, first_row, 0, m_row, m_col, queries, keys, scale,
            CAUSAL, True, MASK, PRECISION, BLOCK_M, N0,
        )  # fmt: skip
        top = tl.max(s0, 1)
        if N1 > 0:
            s1 = scores(
                q_tile, k1, mask, first_row, N0, m_row, m_col, queries, keys, scale,
                CAUSAL, True, MASK, PRECISION, BLOCK_M, N1,
            )  # fmt: skip
            top = tl.maximum(top, tl.max(s1, 1))
        if N2 > 0:
            s2 = scores(
                q_tile, k2, mask, first_row, N0 + N1, m_row, m_col, queries, keys, scale,
                CAUSAL, True, MASK, PRECISION, BLOCK_M, N2,
            )  # fmt: skip
            top = tl.maximum(top, tl.max(s2, 1))
        base = tl.where(top == float("-inf"), 0.0, top)
        acc = tl.zeros([BLOCK_M, EV], tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        acc, total = _weigh(
            s0, base, v0, acc, total, rng, row_start, first_row, 0, keys, threshold, keep_scale,
            MASK, DROPOUT, BY_4, PRECISION, BLOCK_M, N0,
        )  # fmt: skip
        if N1 > 0:
            acc, total = _weigh(
                s1, base, v1, acc, total, rng, row_start, first_row, N0, keys, threshold, keep_scale,
                MASK, DROPOUT, BY_4, PRECISION, BLOCK_M, N1,
            )  # fmt: skip
        if N2 > 0:
            acc, total = _weigh(
                s2, base, v2, acc, total, rng, row_start, first_row, N0 + N1, keys, threshold, keep_scale,
                MASK, DROPOUT, BY_4, PRECISION, BLOCK_M, N2,
            )  # fmt: skip
        value = acc / tl.where(total == 0.0, 1.0, total)[:, None]
        put(out, value, first_row, queries, o_row, ev, BLOCK_M, EV)
        put_statistics(stats, top, total, row_start, first_row, queries, MASK, BLOCK_M)


@triton.jit
def _gradients(
    q, g, kt, vt, gk, gv, gq, delta, stats, mask, rng, gs_out, row_start, first_row, first, m_row, m_col, queries,
    keys, scale, threshold, keep_scale, CAUSAL: tl.constexpr, MASK: tl.constexpr, DROPOUT: tl.constexpr,
    BY_4: tl.constexpr, PRECISION: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Adds to gk, gv [N, E] of a tile of keys, and to gq of a block of queries."""
    s = scores(
        q, kt, mask, first_row, first, m_row, m_col, queries, keys, scale, CAUSAL, True, MASK, PRECISION, M, N
    )  # fmt: skip
    p = probabilities(s, stats, row_start, first_row, queries, MASK == "none", M)
    gp = tl.dot(g, vt, input_precision=PRECISION)
    dropped = p
    if DROPOUT:
        factor = kept(rng, row_start, first_row, first, keys, threshold, keep_scale, BY_4, M, N)
        dropped = p * factor
        gp *= factor
    gv = tl.dot(tl.trans(dropped).to(g.dtype), g, gv, input_precision=PRECISION)
    gs = p * (gp - delta[:, None])
    if gs_out is not None:
        put_scores(gs_out, gs, row_start, first_row, first, queries, keys, M, N)
    gs = gs.to(q.dtype)
    gk = tl.dot(tl.trans(gs), q, gk, input_precision=PRECISION)
    return gk, gv, tl.dot(gs, tl.trans(kt), gq, input_precision=PRECISION)


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
    k0, v0 = turned(k, 0, keys, k_row, e, N0, E, True), turned(v, 0, keys, v_row, ev, N0, EV, True)
    gk0, gv0 = tl.zeros([N0, E], tl.float32), tl.zeros([N0, EV], tl.float32)
    if N1 > 0:
        k1, v1 = turned(k, N0, keys, k_row, e, N1, E, True), turned(v, N0, keys, v_row, ev, N1, EV, True)
        gk1, gv1 = tl.zeros([N1, E], tl.float32), tl.zeros([N1, EV], tl.float32)
    if N2 > 0:
        k2, v2 = turned(k, N0 + N1, keys, k_row, e, N2, E, True), turned(v, N0 + N1, keys, v_row, ev, N2, EV, True)
        gk2, gv2 = tl.zeros([N2, E], tl.float32), tl.zeros([N2, EV], tl.float32)
    blocks = tl.cdiv(queries, BLOCK_M)
    for step in range(group * blocks):
        head = kv_head * group + step // blocks
        row_start = (batch * heads + head) * queries
        first_row = (step % blocks) * BLOCK_M
        q_tile = upright(q + batch * q_b + head * q_h, first_row, queries, q_row, e, BLOCK_M, E)
        g = upright(go + batch * g_b + head * g_h, first_row, queries, g_row, ev, BLOCK_M, EV)
        o = upright(out + batch * o_b + head * o_h, first_row, queries, o_row, ev, BLOCK_M, EV)
        delta = tl.sum(g.to(tl.float32) * o.to(tl.float32), 1)
        m_at = mask
        if MASK != "none":
            m_at = mask + batch * m_b + head * m_h
        acc = tl.zeros([BLOCK_M, E], tl.float32)
        gk0, gv0, acc = _gradients(
            q_tile, g, k0, v0, gk0, gv0, acc, delta, stats, m_at, rng, gs_out, row_start, first_row, 0,
            m_row, m_col, queries, keys, scale, threshold, keep_scale,
            CAUSAL, MASK, DROPOUT, BY_4, PRECISION, BLOCK_M, N0,
        )  # fmt: skip
        if N1 > 0:
            gk1, gv1, acc = _gradients(
                q_tile, g, k1, v1, gk1, gv1, acc, delta, stats, m_at, rng, gs_out, row_start, first_row, N0,
                m_row, m_col, queries, keys, scale, threshold, keep_scale,
                CAUSAL, MASK, DROPOUT, BY_4, PRECISION, BLOCK_M, N1,
            )  # fmt: skip
        if N2 > 0:
            gk2, gv2, acc = _gradients(
                q_tile, g, k2, v2, gk2, gv2, acc, delta, stats, m_at, rng, gs_out, row_start, first_row, N0 + N1,
                m_row, m_col, queries, keys, scale, threshold, keep_scale,
                CAUSAL, MASK, DROPOUT, BY_4, PRECISION, BLOCK_M, N2,
            )  # fmt: skip
        put(gq + batch * gq_b + head * gq_h, acc * out_scale, first_row, queries, gq_row, e, BLOCK_M, E)
    gk += batch * gk_b + kv_head * gk_h
    gv += batch * gv_b + kv_head * gv_h
    put(gk, gk0 * out_scale, 0, keys, gk_row, e, N0, E)
    put(gv, gv0, 0, keys, gv_row, ev, N0, EV)
    if N1 > 0:
        put(gk, gk1 * out_scale, N0, keys, gk_row, e, N1, E)
        put(gv, gv1, N0, keys, gv_row, ev, N1, EV)
    if N2 > 0:
        put(gk, gk2 * out_scale, N0 + N1, keys, gk_row, e, N2, E)
        put(gv, gv2, N0 + N1, keys, gv_row, ev, N2, EV)
