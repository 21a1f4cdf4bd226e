"""Attention, forward and backward, in blocks of queries and keys. Formulas and sources: docs/math/attention.md.

Forward keeps a running maximum and sum (Milakov & Gimelshein 2018; Dao et al. 2022). Backward computes the
probabilities again: one kernel by blocks of keys for gk and gv, one by blocks of queries for gq and the mask's
gradient, so that nothing is added atomically and results have the same bits every run. Without a mask scores are kept
in base 2; with one in base e, where the lowest finite numbers that masks hold are still finite. Few keys go to
``_short_attention.py``.
"""

from __future__ import annotations

import math
from itertools import chain

import torch
import triton
import triton.language as tl
from torch import Tensor

from dlperf.ops.attention import attention_bwd_empty, attention_empty

from . import _short_attention
from ._attention_math import exp, kept, probabilities, scores
from ._launch import INTERPRETED, capability, cdiv, kernel, multiprocessors, power_of_two
from ._products import NARROW, precision
from ._short_attention import tiles
from ._tune import choose

_LOG2_E = 1.4426950408889634
_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _forward_blocks(
    acc, top, total, q, k, v, mask, rng, rows, start, stop, k_row, v_row, m_row, m_col, queries, keys, e, ev, scale,
    row_start, threshold, keep_scale, CAUSAL: tl.constexpr, EDGES: tl.constexpr, MASK: tl.constexpr,
    DROPOUT: tl.constexpr, BY_4: tl.constexpr, PRECISION: tl.constexpr, E: tl.constexpr, EV: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    depth, width = tl.arange(0, E), tl.arange(0, EV)
    BASE_2: tl.constexpr = MASK == "none"
    for first in range(start, stop, BLOCK_N):
        columns = first + tl.arange(0, BLOCK_N)
        inside = (depth < e)[:, None]
        if EDGES:
            inside = inside & (columns < keys)[None, :]
        kt = tl.load(k + columns[None, :].to(tl.int64) * k_row + depth[:, None], mask=inside, other=0.0)
        s = scores(q, kt, mask, rows, columns, m_row, m_col, queries, keys, scale, CAUSAL, EDGES, MASK, PRECISION)
        higher = tl.maximum(top, tl.max(s, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        p = exp(s - base[:, None], BASE_2)
        shrink = exp(top - base, BASE_2)
        total = total * shrink + tl.sum(p, 1)
        if DROPOUT:
            p *= kept(rng, row_start, rows, columns, keys, threshold, keep_scale, BY_4, BLOCK_N)
        inside = (width < ev)[None, :]
        if EDGES:
            inside = inside & (columns < keys)[:, None]
        values = tl.load(v + columns[:, None].to(tl.int64) * v_row + width[None, :], mask=inside, other=0.0)
        acc = tl.dot(p.to(values.dtype), values, acc * shrink[:, None], input_precision=PRECISION)
        top = higher
    return acc, top, total


@kernel(products=True)
def forward_kernel(
    q, k, v, mask, rng, out, stats, queries, keys, heads, group, e, ev, q_b, q_h, q_row, k_b, k_h, k_row, v_b, v_h,
    v_row, m_b, m_h, m_row, m_col, o_b, o_h, o_row, scale, threshold, keep_scale, CAUSAL: tl.constexpr,
    MASK: tl.constexpr, DROPOUT: tl.constexpr, BY_4: tl.constexpr, PRECISION: tl.constexpr, E: tl.constexpr,
    EV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(queries, BLOCK_M)
    # The longest rows of a causal product first.
    block = blocks - 1 - tl.program_id(0) % blocks
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    batch, head = pair // heads, pair % heads
    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    depth, width = tl.arange(0, E), tl.arange(0, EV)
    q += batch * q_b + head * q_h
    k += batch * k_b + (head // group) * k_h
    v += batch * v_b + (head // group) * v_h
    if MASK != "none":
        mask += batch * m_b + head * m_h
    there = rows < queries
    at = q + rows[:, None].to(tl.int64) * q_row + depth[None, :]
    q_tile = tl.load(at, mask=there[:, None] & (depth < e)[None, :], other=0.0)
    acc = tl.zeros([BLOCK_M, EV], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    whole = keys // BLOCK_N * BLOCK_N
    stop = keys
    if CAUSAL:
        whole = tl.minimum(whole, block * BLOCK_M // BLOCK_N * BLOCK_N)
        stop = tl.minimum(keys, (block + 1) * BLOCK_M)
    row_start = pair * queries
    acc, top, total = _forward_blocks(
        acc, top, total, q_tile, k, v, mask, rng, rows, 0, whole, k_row, v_row, m_row, m_col, queries, keys, e, ev,
        scale, row_start, threshold, keep_scale, CAUSAL, False, MASK, DROPOUT, BY_4, PRECISION, E, EV, BLOCK_N,
    )  # fmt: skip
    acc, top, total = _forward_blocks(
        acc, top, total, q_tile, k, v, mask, rng, rows, whole, stop, k_row, v_row, m_row, m_col, queries, keys, e, ev,
        scale, row_start, threshold, keep_scale, CAUSAL, True, MASK, DROPOUT, BY_4, PRECISION, E, EV, BLOCK_N,
    )  # fmt: skip
    empty = total == 0.0
    value = acc / tl.where(empty, 1.0, total)[:, None]
    at = out + batch * o_b + head * o_h + rows[:, None].to(tl.int64) * o_row + width[None, :]
    tl.store(at, value.to(out.dtype.element_ty), mask=there[:, None] & (width < ev)[None, :])
    if MASK == "none":
        top = top * _LN_2
    at = stats + (row_start + rows) * 2
    tl.store(at, tl.where(empty, 0.0, top), mask=there)
    tl.store(at + 1, tl.where(empty, float("inf"), tl.log(total)), mask=there)


@kernel()
def delta_kernel(
    go, out, delta, queries, heads, ev, g_b, g_h, g_row, o_b, o_h, o_row, EV: tl.constexpr, BLOCK_M: tl.constexpr
):
    """Row sums of go times out, float32 [B, H, Sq]."""
    blocks = tl.cdiv(queries, BLOCK_M)
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    batch, head = pair // heads, pair % heads
    rows = (tl.program_id(0) % blocks) * BLOCK_M + tl.arange(0, BLOCK_M)
    width = tl.arange(0, EV)
    inside = (rows < queries)[:, None] & (width < ev)[None, :]
    at = rows[:, None].to(tl.int64)
    g = tl.load(go + batch * g_b + head * g_h + at * g_row + width[None, :], mask=inside, other=0.0).to(tl.float32)
    o = tl.load(out + batch * o_b + head * o_h + at * o_row + width[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(delta + pair * queries + rows, tl.sum(g * o, 1), mask=rows < queries)


@kernel(products=True)
def keys_kernel(
    go, q, k, v, mask, rng, stats, delta, gk, gv, queries, keys, heads, group, e, ev, g_b, g_h, g_row, q_b, q_h, q_row,
    k_b, k_h, k_row, v_b, v_h, v_row, m_b, m_h, m_row, m_col, gk_b, gk_h, gk_row, gv_b, gv_h, gv_row, scale, out_scale,
    threshold, keep_scale, CAUSAL: tl.constexpr, MASK: tl.constexpr, DROPOUT: tl.constexpr, BY_4: tl.constexpr,
    PRECISION: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """gk and gv of a block of keys, over all queries of the heads that share them."""
    blocks = tl.cdiv(keys, BLOCK_N)
    first = (tl.program_id(0) % blocks) * BLOCK_N
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    kv_heads = heads // group
    batch, kv_head = pair // kv_heads, pair % kv_heads
    columns = first + tl.arange(0, BLOCK_N)
    depth, width = tl.arange(0, E), tl.arange(0, EV)
    there = columns < keys
    k_inside = (depth < e)[:, None] & there[None, :]
    v_inside = (width < ev)[:, None] & there[None, :]
    at = columns[None, :].to(tl.int64)
    kt = tl.load(k + batch * k_b + kv_head * k_h + at * k_row + depth[:, None], mask=k_inside, other=0.0)
    vt = tl.load(v + batch * v_b + kv_head * v_h + at * v_row + width[:, None], mask=v_inside, other=0.0)
    gk_acc = tl.zeros([BLOCK_N, E], tl.float32)
    gv_acc = tl.zeros([BLOCK_N, EV], tl.float32)
    start = 0
    if CAUSAL:
        start = first // BLOCK_M * BLOCK_M
    for one in range(group):
        head = kv_head * group + one
        row_start = (batch * heads + head) * queries
        q_at = q + batch * q_b + head * q_h
        g_at = go + batch * g_b + head * g_h
        m_at = mask
        if MASK != "none":
            m_at = mask + batch * m_b + head * m_h
        for at_row in range(start, queries, BLOCK_M):
            rows = at_row + tl.arange(0, BLOCK_M)
            row_there = (rows < queries)[:, None]
            wide = rows[:, None].to(tl.int64)
            q_tile = tl.load(q_at + wide * q_row + depth[None, :], mask=row_there & (depth < e)[None, :], other=0.0)
            g = tl.load(g_at + wide * g_row + width[None, :], mask=row_there & (width < ev)[None, :], other=0.0)
            s = scores(
                q_tile, kt, m_at, rows, columns, m_row, m_col, queries, keys, scale, CAUSAL, True, MASK, PRECISION
            )
            p = probabilities(s, stats, row_start, rows, queries, MASK == "none")
            gp = tl.dot(g, vt, input_precision=PRECISION)
            dropped = p
            if DROPOUT:
                dropout = kept(rng, row_start, rows, columns, keys, threshold, keep_scale, BY_4, BLOCK_N)
                dropped = p * dropout
                gp *= dropout
            gv_acc = tl.dot(tl.trans(dropped).to(g.dtype), g, gv_acc, input_precision=PRECISION)
            d = tl.load(delta + row_start + rows, mask=rows < queries, other=0.0)
            gs = p * (gp - d[:, None])
            gk_acc = tl.dot(tl.trans(gs).to(q_tile.dtype), q_tile, gk_acc, input_precision=PRECISION)
    at = columns[:, None].to(tl.int64)
    at_k = gk + batch * gk_b + kv_head * gk_h + at * gk_row + depth[None, :]
    tl.store(at_k, (gk_acc * out_scale).to(gk.dtype.element_ty), mask=there[:, None] & (depth < e)[None, :])
    at_v = gv + batch * gv_b + kv_head * gv_h + at * gv_row + width[None, :]
    tl.store(at_v, gv_acc.to(gv.dtype.element_ty), mask=there[:, None] & (width < ev)[None, :])


@kernel(products=True)
def queries_kernel(
    go, q, k, v, mask, rng, stats, delta, gq, gs_out, queries, keys, heads, group, e, ev, g_b, g_h, g_row, q_b, q_h,
    q_row, k_b, k_h, k_row, v_b, v_h, v_row, m_b, m_h, m_row, m_col, gq_b, gq_h, gq_row, scale, out_scale, threshold,
    keep_scale, CAUSAL: tl.constexpr, MASK: tl.constexpr, DROPOUT: tl.constexpr, BY_4: tl.constexpr,
    PRECISION: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """gq of a block of queries; gs_out: the scores' gradient, float32 [B, H, Sq, Sk] zeros, or None."""
    blocks = tl.cdiv(queries, BLOCK_M)
    block = blocks - 1 - tl.program_id(0) % blocks
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    batch, head = pair // heads, pair % heads
    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    depth, width = tl.arange(0, E), tl.arange(0, EV)
    there = rows < queries
    wide = rows[:, None].to(tl.int64)
    q_inside = there[:, None] & (depth < e)[None, :]
    q_tile = tl.load(q + batch * q_b + head * q_h + wide * q_row + depth[None, :], mask=q_inside, other=0.0)
    g_inside = there[:, None] & (width < ev)[None, :]
    g = tl.load(go + batch * g_b + head * g_h + wide * g_row + width[None, :], mask=g_inside, other=0.0)
    row_start = pair * queries
    d = tl.load(delta + row_start + rows, mask=there, other=0.0)
    k += batch * k_b + (head // group) * k_h
    v += batch * v_b + (head // group) * v_h
    if MASK != "none":
        mask += batch * m_b + head * m_h
    acc = tl.zeros([BLOCK_M, E], tl.float32)
    stop = keys
    if CAUSAL:
        stop = tl.minimum(keys, (block + 1) * BLOCK_M)
    for first in range(0, stop, BLOCK_N):
        columns = first + tl.arange(0, BLOCK_N)
        column_there = (columns < keys)[None, :]
        at = columns[None, :].to(tl.int64)
        kt = tl.load(k + at * k_row + depth[:, None], mask=(depth < e)[:, None] & column_there, other=0.0)
        vt = tl.load(v + at * v_row + width[:, None], mask=(width < ev)[:, None] & column_there, other=0.0)
        s = scores(q_tile, kt, mask, rows, columns, m_row, m_col, queries, keys, scale, CAUSAL, True, MASK, PRECISION)
        p = probabilities(s, stats, row_start, rows, queries, MASK == "none")
        gp = tl.dot(g, vt, input_precision=PRECISION)
        if DROPOUT:
            gp *= kept(rng, row_start, rows, columns, keys, threshold, keep_scale, BY_4, BLOCK_N)
        gs = p * (gp - d[:, None])
        if gs_out is not None:
            at_gs = gs_out + (row_start + rows)[:, None] * keys + columns[None, :]
            tl.store(at_gs, gs, mask=there[:, None] & column_there)
        acc = tl.dot(gs.to(kt.dtype), tl.trans(kt), acc, input_precision=PRECISION)
    at = gq + batch * gq_b + head * gq_h + wide * gq_row + depth[None, :]
    tl.store(at, (acc * out_scale).to(gq.dtype.element_ty), mask=q_inside)


# (BLOCK_M, BLOCK_N, warps, stages) by (direction, capability, bytes of an element, padded head dimension).
# Chosen by the ahead-of-time table; not yet measured on a GPU.
CONFIGURATIONS = {
    ("forward", 90, 2, 64): ((128, 64, 4, 3), (64, 64, 4, 3)),
    ("forward", 90, 2, 128): ((128, 64, 8, 3), (64, 64, 4, 2)),
    ("forward", 80, 2, 64): ((128, 64, 8, 2),),
    ("forward", 80, 2, 128): ((128, 64, 8, 2),),
    ("forward", 80, 2, 256): ((64, 32, 8, 1),),
    ("forward", 80, 4, 64): ((64, 32, 4, 1),),
    ("forward", 80, 4, 128): ((32, 32, 8, 1),),
    ("forward", 80, 4, 256): ((32, 16, 8, 1),),
    ("backward", 90, 2, 64): ((64, 64, 4, 2), (64, 64, 8, 2)),
    ("backward", 90, 2, 128): ((64, 64, 8, 2),),
    ("backward", 80, 2, 64): ((64, 64, 8, 1),),
    ("backward", 80, 2, 128): ((32, 64, 8, 1),),
    ("backward", 80, 2, 256): ((32, 32, 8, 1),),
    ("backward", 80, 4, 64): ((32, 32, 4, 1),),
    ("backward", 80, 4, 128): ((16, 32, 8, 1),),
    ("backward", 80, 4, 256): ((16, 16, 8, 1),),
}
# A mask's addresses and dropout's words take the registers of half a tile.
WITH_MASK_OR_DROPOUT = {"forward": (64, 64, 8, 1), "backward": (64, 32, 8, 1)}
_MASKS = {torch.bool: "bool"}


def _configurations(direction: str, q: Tensor, constants: dict) -> tuple[tuple, ...]:
    if INTERPRETED:
        return ((64, 64, 4, 2),)
    width = max(constants["E"], constants["EV"])
    if q.itemsize == 2 and width <= 128 and (constants["DROPOUT"] or constants["MASK"] != "none"):
        return (WITH_MASK_OR_DROPOUT[direction],)
    key = (q.itemsize, max(64, width))
    hopper = CONFIGURATIONS.get((direction, 90, *key)) if capability(q.device) // 10 == 9 else None
    return hopper or CONFIGURATIONS[(direction, 80, *key)]


# Of _short_attention's kernels: the most keys, the widest head and (BLOCK_M, warps), fewest keys first. Chosen by the
# ahead-of-time table; not yet measured on a GPU.
SHORT = {
    "forward": ((64, 64, (64, 4)), (288, 64, (64, 8)), (640, 64, (64, 8))),
    "backward": ((64, 64, (64, 4)), (272, 64, (64, 8))),
}
SHORT_KEYS = 640  # no kernel for more


def _short(direction: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, constants: dict):
    """(BLOCK_M, warps) where the kernels for few keys take the call."""
    keys = k.shape[2]
    if keys > SHORT_KEYS or (q.itemsize == 4 and not INTERPRETED):
        return None
    offsets = [k.stride(2), v.stride(2), *(() if mask is None else (mask.stride(2), mask.stride(3)))]
    if max(offsets) > NARROW:
        return None
    width = max(constants["E"], constants["EV"])
    return next((c for most, widest, c in SHORT[direction] if keys <= most and width <= widest), None)


def _tiles(keys: int) -> dict:
    return dict(zip(("N0", "N1", "N2"), tiles(keys), strict=True))


def _unit_last(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 or x.shape[3] <= 1 else x.contiguous()


def _common(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float, dropout_p: float):
    """The numbers and constants that forward and backward share."""
    sizes = (q.shape[2], k.shape[2], q.shape[1], q.shape[1] // k.shape[1], q.shape[3], v.shape[3])
    m = (0, 0, 0, 0) if mask is None else [0 if n == 1 else s for n, s in zip(mask.shape, mask.stride(), strict=True)]
    kind = "none" if mask is None else _MASKS.get(mask.dtype, "added")
    keep = (math.ceil(dropout_p * 2**24), 1.0 / (1.0 - dropout_p) if dropout_p < 1 else 0.0)
    constants = {
        "CAUSAL": causal,
        "MASK": kind,
        "DROPOUT": dropout_p > 0,
        "BY_4": k.shape[2] % 4 == 0,
        "PRECISION": precision(q),
        "E": max(16, power_of_two(q.shape[3])),
        "EV": max(16, power_of_two(v.shape[3])),
    }
    return sizes, tuple(m), scale * _LOG2_E if mask is None else scale, keep, constants


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    rng: Tensor | None,
    causal: bool,
    scale: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    out, stats = attention_empty(q, k, v)
    if stats.numel() == 0:
        return out, stats
    q, k, v = _unit_last(q), _unit_last(k), _unit_last(v)
    sizes, m, inner_scale, keep, constants = _common(q, k, v, mask, causal, scale, dropout_p)
    strides = (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *m, *out.stride()[:3])
    short = _short("forward", q, k, v, mask, constants)
    if short is not None:
        block_m, warps = short
        pairs, blocks = q.shape[0] * q.shape[1], cdiv(q.shape[2], block_m)
        _short_attention.forward_kernel(
            (pairs, min(blocks, cdiv(2 * multiprocessors(q.device), pairs))),
            *(q, k, v, mask, rng, out, stats, *sizes, *strides, inner_scale, *keep),
            **constants,
            BLOCK_M=block_m,
            **_tiles(k.shape[2]),
            num_warps=warps,
        )
        return out, stats

    def run(configuration: tuple) -> None:
        block_m, block_n, warps, stages = configuration
        forward_kernel(
            (cdiv(q.shape[2], block_m) * q.shape[0] * q.shape[1],),
            *(q, k, v, mask, rng, out, stats, *sizes, *strides, inner_scale, *keep),
            **constants,
            BLOCK_M=block_m,
            BLOCK_N=block_n,
            num_warps=warps,
            num_stages=stages,
        )

    candidates = _configurations("forward", q, constants)
    problem = f"attention forward {q.dtype} {q.shape[0] * q.shape[1]} {sizes} {causal} {constants['MASK']}"
    run(choose(q.device, problem, candidates[0], candidates, run))
    return out, stats


def attention_bwd(
    go: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    rng: Tensor | None,
    out: Tensor,
    stats: Tensor,
    causal: bool,
    scale: float,
    dropout_p: float,
    mask_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grads = attention_bwd_empty(go, q, k, v, mask, rng, out, stats, causal, scale, dropout_p, mask_grad)
    gq, gk, gv, gm = grads
    if q.numel() == 0 or k.numel() == 0 or v.numel() == 0:
        return tuple(g.zero_() for g in grads)
    go, q, k, v, out = (_unit_last(t) for t in (go, q, k, v, out))
    stats = stats.contiguous()
    sizes, m, inner_scale, keep, constants = _common(q, k, v, mask, causal, scale, dropout_p)
    pairs, queries, keys = q.shape[0] * q.shape[1], q.shape[2], k.shape[2]
    d_scores = None
    if mask_grad:  # a matrix of scores anyway, unless the mask is broadcast
        d_scores = torch.zeros((*q.shape[:3], keys), dtype=torch.float32, device=q.device)
    short = _short("backward", q, k, v, mask, constants)
    kv_pairs = k.shape[0] * k.shape[1]
    # One program a head of keys: enough of them, or the general kernels share a head out.
    if short is not None and (INTERPRETED or kv_pairs >= multiprocessors(q.device)):
        strides = [t.stride()[:3] for t in (go, q, k, v)], [t.stride()[:3] for t in (out, gq, gk, gv)]
        strides = (*chain(*strides[0]), *m, *chain(*strides[1]))
        _short_attention.backward_kernel(
            (kv_pairs,),
            *(go, q, k, v, mask, rng, out, stats, gq, gk, gv, d_scores, *sizes, *strides, inner_scale, scale, *keep),
            **constants,
            BLOCK_M=short[0],
            **_tiles(keys),
            num_warps=short[1],
        )
        if mask_grad:
            gm.copy_(d_scores.sum_to_size(mask.shape))
        return grads
    delta = q.new_empty((pairs, queries), dtype=torch.float32)
    strides = (*go.stride()[:3], *out.stride()[:3])
    grid = (cdiv(queries, 32) * pairs,)
    delta_kernel(grid, go, out, delta, queries, q.shape[1], v.shape[3], *strides, EV=constants["EV"], BLOCK_M=32)
    tensors = (go, q, k, v, mask, rng, stats, delta)
    strides = (*go.stride()[:3], *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *m)
    scales = (inner_scale, scale, *keep)

    def run_keys(configuration: tuple) -> None:
        block_m, block_n, warps, stages = configuration
        keys_kernel(
            (cdiv(keys, block_n) * k.shape[0] * k.shape[1],),
            *(*tensors, gk, gv, *sizes, *strides, *gk.stride()[:3], *gv.stride()[:3], *scales),
            **constants,
            BLOCK_M=block_m,
            BLOCK_N=block_n,
            num_warps=warps,
            num_stages=stages,
        )

    def run_queries(configuration: tuple) -> None:
        block_m, block_n, warps, stages = configuration
        queries_kernel(
            (cdiv(queries, block_m) * pairs,),
            *(*tensors, gq, d_scores, *sizes, *strides, *gq.stride()[:3], *scales),
            **constants,
            BLOCK_M=block_m,
            BLOCK_N=block_n,
            num_warps=warps,
            num_stages=stages,
        )

    candidates = _configurations("backward", q, constants)
    problem = f"{q.dtype} {pairs} {sizes} {causal} {constants['MASK']}"
    run_keys(choose(q.device, f"attention keys {problem}", candidates[0], candidates, run_keys))
    run_queries(choose(q.device, f"attention queries {problem}", candidates[0], candidates, run_queries))
    if mask_grad:
        gm.copy_(d_scores.sum_to_size(mask.shape))
    return grads
