from __future__ import annotations

import math

import torch
from torch import Tensor

from .philox import philox_words


def _attend(q, k, v, mask, rng, causal, scale, dropout_p):
    """The pieces that forward and backward share, in float32 or wider.

    Returns:
        q, k, v with equal heads; the softmax [B, H, Sq, Sk]; what dropout multiplies it by; the softmax's statistics.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    group = q.shape[1] // k.shape[1] if k.shape[1] else 1
    q, k, v = (t.to(wide) for t in (q, k, v))
    k, v = (t.repeat_interleave(group, 1) for t in (k, v))
    scores = (q * scale) @ k.mT
    if mask is not None:
        if mask.dtype is torch.bool:
            mask = torch.zeros(mask.shape, dtype=wide, device=mask.device).masked_fill(~mask, -math.inf)
        scores = scores + mask.to(wide)
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    if scores.shape[-1]:
        maximum = scores.detach().amax(-1, keepdim=True)
        maximum = maximum.masked_fill(maximum == -math.inf, 0)
    else:
        maximum = scores.new_zeros((*scores.shape[:-1], 1))
    exponentials = torch.exp(scores - maximum)
    total = exponentials.sum(-1, keepdim=True)
    empty = total == 0
    p = exponentials / total.masked_fill(empty, 1)
    stats = torch.cat([maximum, torch.log(total).masked_fill(empty, math.inf)], -1).detach()
    kept = _kept(rng, dropout_p, p) if dropout_p > 0 else None
    return q, k, v, p, kept, stats


def _kept(rng: Tensor, dropout_p: float, p: Tensor) -> Tensor:
    """1 / (1 - dropout_p) where an entry of [B, H, Sq, Sk] stays, 0 where it is dropped."""
    words = philox_words(rng, 1, p.numel(), 0, 0, "attention").flatten()[: p.numel()].reshape(p.shape)
    scale = 1.0 / (1.0 - dropout_p) if dropout_p < 1 else 0.0
    return ((words >> 8) >= math.ceil(dropout_p * 2**24)).to(p.dtype) * scale


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
    dtype = q.dtype
    q, k, v, p, kept, stats = _attend(q, k, v, mask, rng, causal, scale, dropout_p)
    return ((p if kept is None else p * kept) @ v).to(dtype), stats


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
    # Everything again from q, k, v: out and stats are functions of them, and derivatives must see that.
    dtype, kv_heads = q.dtype, k.shape[1]
    q, k, v, p, kept, _ = _attend(q, k, v, mask, rng, causal, scale, dropout_p)
    go = go.to(q.dtype)
    dropped = p if kept is None else p * kept
    gv = dropped.mT @ go
    gp = go @ v.mT
    if kept is not None:
        gp = gp * kept
    # rowsum(gp * p) by way of the rounded output, as torch's own kernels have it.
    delta = (go * (dropped @ v).to(dtype).to(go.dtype)).sum(-1, keepdim=True)
    gs = p * (gp - delta)
    gq, gk = scale * (gs @ k), scale * (gs.mT @ q)
    if k.shape[1] != kv_heads:
        gk, gv = (g.unflatten(1, (kv_heads, -1)).sum(2) for g in (gk, gv))
    gm = gs.sum_to_size(mask.shape).to(mask.dtype) if mask_grad else q.new_empty((0,))
    return gq.to(dtype), gk.to(dtype), gv.to(dtype), gm.to(mask.dtype if mask_grad else dtype)
