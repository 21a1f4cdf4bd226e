"""Attention (csrc/cuda/attention.h)."""

from __future__ import annotations

from torch import Tensor

from dlperf.ops.attention import attention_bwd_empty, attention_empty

from ._library import STORAGE, VECTOR, C, address, floats, run

__all__ = ["attention", "attention_bwd"]


def _readable(x: Tensor) -> Tensor:
    """[B, H, S, E] with whole vectors along E, and no dimension expanded."""
    steps = [s for s, n in zip(x.stride()[:3], x.shape[:3], strict=True) if n > 1]
    good = x.stride(3) == 1 and all(s > 0 and s % VECTOR == 0 for s in steps)
    return x if good else x.contiguous()


def _heads(x: Tensor):
    return C.Heads(address(x), *x.stride()[:3])


def _call(q, k, v, out, stats, causal, scale):
    sizes = (q.shape[0], q.shape[1], k.shape[1], q.shape[2], k.shape[2], q.shape[3])
    return C.Attention(
        *sizes, causal, scale, STORAGE[q.dtype], _heads(q), _heads(k), _heads(v), _heads(out), address(stats)
    )


def attention(q, k, v, mask, rng, causal, scale, dropout_p):
    out, stats = attention_empty(q, k, v)
    if stats.numel() == 0:
        return out, stats
    if k.shape[2] == 0:
        stats[..., 0], stats[..., 1] = 0.0, float("inf")
        return out.zero_(), stats
    q, k, v = _readable(q), _readable(k), _readable(v)
    run(C.attention_forward, q, _call(q, k, v, out, stats, causal, scale))
    return out, stats


def attention_bwd(go, q, k, v, mask, rng, out, stats, causal, scale, dropout_p, mask_grad, joined=False):
    grads = attention_bwd_empty(go, q, k, v, mask, rng, out, stats, causal, scale, dropout_p, mask_grad, joined)
    if q.numel() == 0 or k.numel() == 0:
        return tuple(g.zero_() for g in grads)
    go, q, k, v, out = (_readable(t) for t in (go, q, k, v, out))
    stats = stats.contiguous()
    delta = floats(q, *q.shape[:3], 2)
    gq, gk, gv, _ = grads
    call = _call(q, k, v, out, stats, causal, scale)
    run(C.attention_backward, q, call, _heads(go), _heads(gq), _heads(gk), _heads(gv), address(delta))
    return grads
