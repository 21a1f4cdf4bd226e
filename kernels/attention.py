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
from ._attention_math import exp, kept, probabilities, put, put_scores, put_statistics, scores, turned, upright
from ._attention_plan import configurations, few_keys, tile_constants
from ._launch import INTERPRETED, cdiv, kernel, multiprocessors, power_of_two
from ._products import NARROW, precision
from ._tune import choose

_LOG2_E = 1.4426950408889634
_MASKS = {torch.bool: "bool"}


@triton.jit
def _forward_blocks(
    acc, top, total, q, k, v, mask, rng, first_row, start, stop, k_row, v_row, m_row, m_col, queries, keys, e, ev,
    scale, row_start, threshold, keep_scale, CAUSAL: tl.constexpr, EDGES: tl.constexpr, MASK: tl.constexpr,
    DROPOUT: tl.constexpr, BY_4: tl.constexpr, PRECISION: tl.constexpr, E: tl.constexpr, EV: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    width = tl.arange(0, EV)
    BASE_2: tl.constexpr = MASK == "none"
    for first in range(start, stop, BLOCK_N):
        kt = turned(k, first, keys, k_row, e, BLOCK_N, E, EDGES)
        s = scores(
            q, kt, mask, first_row, first, m_row, m_col, queries, keys, scale, CAUSAL, EDGES, MASK, PRECISION, BLOCK_M,
            BLOCK_N,
        )  # fmt: skip
        higher = tl.maximum(top, tl.max(s, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        p = exp(s - base[:, None], BASE_2)
        shrink = exp(top - base, BASE_2)
        total = total * shrink + tl.sum(p, 1)
        if DROPOUT:
            p *= kept(rng, row_start, first_row, first, keys, threshold, keep_scale, BY_4, BLOCK_M, BLOCK_N)
        at = tl.arange(0, BLOCK_N)
        inside = (width < ev)[None, :]
        if EDGES:
            inside = inside & (first + at < keys)[:, None]
        v_at = v + tl.cast(first, tl.int64) * v_row + (at[:, None] * v_row + width[None, :])
        values = tl.load(v_at, mask=inside, other=0.0)
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
    first_row = block * BLOCK_M
    k += batch * k_b + (head // group) * k_h
    v += batch * v_b + (head // group) * v_h
    if MASK != "none":
        mask += batch * m_b + head * m_h
    q_tile = upright(q + batch * q_b + head * q_h, first_row, queries, q_row, e, BLOCK_M, E)
    acc = tl.zeros([BLOCK_M, EV], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    whole = keys // BLOCK_N * BLOCK_N
    stop = keys
    if CAUSAL:
        whole = tl.minimum(whole, first_row // BLOCK_N * BLOCK_N)
        stop = tl.minimum(keys, first_row + BLOCK_M)
    row_start = pair * queries
    acc, top, total = _forward_blocks(
        acc, top, total, q_tile, k, v, mask, rng, first_row, 0, whole, k_row, v_row, m_row, m_col, queries, keys, e,
        ev, scale, row_start, threshold, keep_scale, CAUSAL, False, MASK, DROPOUT, BY_4, PRECISION, E, EV, BLOCK_M,
        BLOCK_N,
    )  # fmt: skip
    acc, top, total = _forward_blocks(
        acc, top, total, q_tile, k, v, mask, rng, first_row, whole, stop, k_row, v_row, m_row, m_col, queries, keys, e,
        ev, scale, row_start, threshold, keep_scale, CAUSAL, True, MASK, DROPOUT, BY_4, PRECISION, E, EV, BLOCK_M,
        BLOCK_N,
    )  # fmt: skip
    value = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    put(out + batch * o_b + head * o_h, value, first_row, queries, o_row, ev, BLOCK_M, EV)
    put_statistics(stats, top, total, row_start, first_row, queries, MASK, BLOCK_M)


@kernel()
def delta_kernel(
    go, out, delta, queries, heads, ev, g_b, g_h, g_row, o_b, o_h, o_row, EV: tl.constexpr, BLOCK_M: tl.constexpr
):
    """Row sums of go times out, float32 [B, H, Sq]."""
    blocks = tl.cdiv(queries, BLOCK_M)
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    batch, head = pair // heads, pair % heads
    first_row = (tl.program_id(0) % blocks) * BLOCK_M
    g = upright(go + batch * g_b + head * g_h, first_row, queries, g_row, ev, BLOCK_M, EV).to(tl.float32)
    o = upright(out + batch * o_b + head * o_h, first_row, queries, o_row, ev, BLOCK_M, EV).to(tl.float32)
    rows = first_row + tl.arange(0, BLOCK_M)
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
    kt = turned(k + batch * k_b + kv_head * k_h, first, keys, k_row, e, BLOCK_N, E, True)
    vt = turned(v + batch * v_b + kv_head * v_h, first, keys, v_row, ev, BLOCK_N, EV, True)
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
        for first_row in range(start, queries, BLOCK_M):
            rows = first_row + tl.arange(0, BLOCK_M)
            q_tile = upright(q_at, first_row, queries, q_row, e, BLOCK_M, E)
            g = upright(g_at, first_row, queries, g_row, ev, BLOCK_M, EV)
            s = scores(
                q_tile, kt, m_at, first_row, first, m_row, m_col, queries, keys, scale, CAUSAL, True, MASK, PRECISION,
                BLOCK_M, BLOCK_N,
            )  # fmt: skip
            p = probabilities(s, stats, row_start, first_row, queries, MASK == "none", BLOCK_M)
            gp = tl.dot(g, vt, input_precision=PRECISION)
            dropped = p
            if DROPOUT:
                factor = kept(rng, row_start, first_row, first, keys, threshold, keep_scale, BY_4, BLOCK_M, BLOCK_N)
                dropped = p * factor
                gp *= factor
            gv_acc = tl.dot(tl.trans(dropped).to(g.dtype), g, gv_acc, input_precision=PRECISION)
            d = tl.load(delta + row_start + rows, mask=rows < queries, other=0.0)
            gs = p * (gp - d[:, None])
            gk_acc = tl.dot(tl.trans(gs).to(q_tile.dtype), q_tile, gk_acc, input_precision=PRECISION)
    put(gk + batch * gk_b + kv_head * gk_h, gk_acc * out_scale, first, keys, gk_row, e, BLOCK_N, E)
    put(gv + batch * gv_b + kv_head * gv_h, gv_acc, first, keys, gv_row, ev, BLOCK_N, EV)


@kernel(products=True)
def queries_kernel(
    go, q, k, v, mask, rng, stats, delta, gq, gs_out, queries, keys, heads, group, e, ev, g_b, g_h, g_row, q_b, q_h,
    q_row, k_b, k_h, k_row, v_b, v_h, v_row, m_b, m_h, m_row, m_col, gq_b, gq_h, gq_row, scale, out_scale, threshold,
    keep_scale, CAUSAL: tl.constexpr, MASK: tl.constexpr, DROPOUT: tl.constexpr, BY_4: tl.constexpr,
    PRECISION: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """gq of a block of queries; gs_out: the scores' gradient, float32 [B, H, Sq, Sk] zeros, or None."""
    blocks = tl.cdiv(queries, BLOCK_M)
    first_row = (blocks - 1 - tl.program_id(0) % blocks) * BLOCK_M
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    batch, head = pair // heads, pair % heads
    rows = first_row + tl.arange(0, BLOCK_M)
    q_tile = upright(q + batch * q_b + head * q_h, first_row, queries, q_row, e, BLOCK_M, E)
    g = upright(go + batch * g_b + head * g_h, first_row, queries, g_row, ev, BLOCK_M, EV)
    row_start = pair * queries
    d = tl.load(delta + row_start + rows, mask=rows < queries, other=0.0)
    k += batch * k_b + (head // group) * k_h
    v += batch * v_b + (head // group) * v_h
    if MASK != "none":
        mask += batch * m_b + head * m_h
    acc = tl.zeros([BLOCK_M, E], tl.float32)
    stop = keys
    if CAUSAL:
        stop = tl.minimum(keys, first_row + BLOCK_M)
    for first in range(0, stop, BLOCK_N):
        kt = turned(k, first, keys, k_row, e, BLOCK_N, E, True)
        vt = turned(v, first, keys, v_row, ev, BLOCK_N, EV, True)
        s = scores(
            q_tile, kt, mask, first_row, first, m_row, m_col, queries, keys, scale, CAUSAL, True, MASK, PRECISION,
            BLOCK_M, BLOCK_N,
        )  # fmt: skip
        p = probabilities(s, stats, row_start, first_row, queries, MASK == "none", BLOCK_M)
        gp = tl.dot(g, vt, input_precision=PRECISION)
        if DROPOUT:
            gp *= kept(rng, row_start, first_row, first, keys, threshold, keep_scale, BY_4, BLOCK_M, BLOCK_N)
        gs = p * (gp - d[:, None])
        if gs_out is not None:
            put_scores(gs_out, gs, row_start, first_row, first, queries, keys, BLOCK_M, BLOCK_N)
        acc = tl.dot(gs.to(kt.dtype), tl.trans(kt), acc, input_precision=PRECISION)
    put(gq + batch * gq_b + head * gq_h, acc * out_scale, first_row, queries, gq_row, e, BLOCK_M, E)


def _near(x: Tensor) -> Tensor:
    """x with its last dimension contiguous and rows no farther apart than 32-bit offsets of a tile reach."""
    return x if (x.stride(3) == 1 or x.shape[3] <= 1) and x.stride(2) <= NARROW else x.contiguous()


def _near_mask(mask: Tensor | None) -> Tensor | None:
    return mask if mask is None or max(mask.stride()[2:]) <= NARROW else mask.contiguous()


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
    q, k, v = _near(q), _near(k), _near(v)
    mask = _near_mask(mask)
    sizes, m, inner_scale, keep, constants = _common(q, k, v, mask, causal, scale, dropout_p)
    strides = (*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *m, *out.stride()[:3])
    few = few_keys("forward", q, k, constants)

    def run(configuration: tuple) -> None:
        if configuration in few:
            block_m, warps = configuration
            pairs, blocks = q.shape[0] * q.shape[1], cdiv(q.shape[2], block_m)
            _short_attention.forward_kernel(
                (pairs, min(blocks, cdiv(2 * multiprocessors(q.device), pairs))),
                *(q, k, v, mask, rng, out, stats, *sizes, *strides, inner_scale, *keep),
                **constants,
                BLOCK_M=block_m,
                **tile_constants(k.shape[2]),
                num_warps=warps,
            )
            return
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

    candidates = (*few, *configurations("forward", q, constants))
    problem = _problem(q, sizes, constants)
    run(choose(q.device, ("attention forward", *problem), candidates[0], candidates, run))
    return out, stats


def _problem(q: Tensor, sizes: tuple, constants: dict) -> tuple:
    return q.dtype, q.shape[0] * q.shape[1], *sizes, constants["CAUSAL"], constants["MASK"], constants["DROPOUT"]


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
    joined: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grads = attention_bwd_empty(go, q, k, v, mask, rng, out, stats, causal, scale, dropout_p, mask_grad, joined)
    gq, gk, gv, gm = grads
    if q.numel() == 0 or k.numel() == 0 or v.numel() == 0:
        return tuple(g.zero_() for g in grads)
    go, q, k, v, out = (_near(t) for t in (go, q, k, v, out))
    stats, mask = stats.contiguous(), _near_mask(mask)
    sizes, m, inner_scale, keep, constants = _common(q, k, v, mask, causal, scale, dropout_p)
    pairs, queries, keys = q.shape[0] * q.shape[1], q.shape[2], k.shape[2]
    kv_pairs = k.shape[0] * k.shape[1]
    few = few_keys("backward", q, k, constants)
    if not INTERPRETED and kv_pairs < multiprocessors(q.device):
        few = ()  # its one program a head of keys would leave the card idle
    scales = (inner_scale, scale, *keep)
    problem = _problem(q, sizes, constants)
    candidates = configurations("backward", q, constants)

    def score_gradient(make) -> Tensor | None:
        """A matrix of scores anyway, unless the mask is broadcast."""
        return make((*q.shape[:3], keys), dtype=torch.float32, device=q.device) if mask_grad else None

    def run_few(configuration: tuple) -> Tensor | None:
        d_scores = score_gradient(torch.empty)
        strides = [t.stride()[:3] for t in (go, q, k, v)], [t.stride()[:3] for t in (out, gq, gk, gv)]
        strides = (*chain(*strides[0]), *m, *chain(*strides[1]))
        _short_attention.backward_kernel(
            (kv_pairs,),
            *(go, q, k, v, mask, rng, out, stats, gq, gk, gv, d_scores, *sizes, *strides, *scales),
            **constants,
            BLOCK_M=configuration[0],
            **tile_constants(keys),
            num_warps=configuration[1],
        )
        return d_scores

    def run_many(searches: int) -> Tensor | None:
        """searches: of the call, or 0 to launch the defaults."""
        d_scores = score_gradient(torch.zeros)
        delta = q.new_empty((pairs, queries), dtype=torch.float32)
        strides = (*go.stride()[:3], *out.stride()[:3])
        grid = (cdiv(queries, 32) * pairs,)
        delta_kernel(grid, go, out, delta, queries, q.shape[1], v.shape[3], *strides, EV=constants["EV"], BLOCK_M=32)
        tensors = (go, q, k, v, mask, rng, stats, delta)
        strides = (*go.stride()[:3], *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *m)

        def run_keys(configuration: tuple) -> None:
            block_m, block_n, warps, stages = configuration
            keys_kernel(
                (cdiv(keys, block_n) * kv_pairs,),
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

        for name, run in (("keys", run_keys), ("queries", run_queries)):
            best = candidates[0]
            if searches:
                best = choose(q.device, (f"attention {name}", *problem), best, candidates, run, searches)
            run(best)
        return d_scores

    chosen = ()
    if few:  # against the general kernels, () here
        choices = (*few, ())
        name = ("attention backward", *problem)
        chosen = choose(q.device, name, few[0], choices, lambda c: run_few(c) if c else run_many(0), 3)
    d_scores = run_few(chosen) if chosen else run_many(3 if few else 2)
    if mask_grad:
        gm.copy_(d_scores.sum_to_size(mask.shape))
    return grads
