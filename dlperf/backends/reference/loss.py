from __future__ import annotations

import torch
import torch.nn.functional as F

_REDUCTIONS = ("none", "mean", "sum")


def _wide(x):
    return x.to(torch.promote_types(x.dtype, torch.float32))


def pair_loss(x, target, kind, param, reduction):
    a, b = _wide(x), _wide(target)
    if kind == "mse":
        loss = F.mse_loss(a, b, reduction="none")
    elif kind == "l1":
        loss = F.l1_loss(a, b, reduction="none")
    elif kind == "smooth_l1":
        loss = F.smooth_l1_loss(a, b, beta=param, reduction="none")
    elif kind == "huber":
        loss = F.huber_loss(a, b, delta=param, reduction="none")
    elif kind == "bce_logits":
        loss = F.binary_cross_entropy_with_logits(a, b, reduction="none")
    else:
        loss = F.kl_div(a, b, log_target=kind == "kl_div_log", reduction="none")
    how = _REDUCTIONS[reduction]
    return (loss if how == "none" else loss.mean() if how == "mean" else loss.sum()).to(x.dtype)


def _derivatives(x, t, kind, param):
    d = x - t
    if kind == "mse":
        by_x = 2 * d
    elif kind == "l1":
        by_x = torch.sign(d)
    elif kind == "smooth_l1":
        by_x = torch.where(d.abs() < param, d / param, torch.sign(d))
    elif kind == "huber":
        by_x = torch.where(d.abs() < param, d, param * torch.sign(d))
    elif kind == "bce_logits":
        return torch.sigmoid(x) - t, -x
    elif kind == "kl_div":
        return -t, torch.where(t == 0, torch.zeros_like(t), torch.log(t) + 1) - x
    else:
        return -torch.exp(t), torch.exp(t) * (t - x + 1)
    return by_x, -by_x


def pair_loss_bwd(gy, x, target, kind, param, reduction, wanted):
    g = _wide(gy)
    if _REDUCTIONS[reduction] == "mean":
        g = g / x.numel() if x.numel() else g
    by_x, by_target = _derivatives(_wide(x), _wide(target), kind, param)
    return (
        (g * by_x).to(x.dtype) if wanted[0] else x.new_empty(0),
        (g * by_target).to(x.dtype) if wanted[1] else x.new_empty(0),
    )


def _weights(target, weight, ignore_index, dtype):
    kept = target != ignore_index
    safe = torch.where(kept, target, 0)
    return safe, (kept.to(dtype) if weight is None else _wide(weight)[safe] * kept)


def nll_loss(x, target, weight, ignore_index, reduction):
    wide = _wide(x)
    outside = (target != ignore_index) & ((target < 0) | (target >= x.shape[1]))
    if not torch.compiler.is_compiling() and bool(outside.any()):
        raise IndexError(f"nll_loss(): expected the classes of 'target' to lie in [0, {x.shape[1]})")
    safe, weights = _weights(target, weight, ignore_index, wide.dtype)
    picked = wide.gather(1, safe.unsqueeze(1)).squeeze(1) if x.shape[1] else wide.new_zeros(target.shape)
    losses = torch.where(weights == 0, torch.zeros_like(picked), -weights * picked)
    total = weights.sum().double()
    if reduction:
        losses = losses.sum() / (total.to(wide.dtype) if _REDUCTIONS[reduction] == "mean" else 1)
    return losses.to(x.dtype), total


def nll_loss_bwd(gy, target, weight, total_weight, x_size, ignore_index, reduction):
    g = _wide(gy)
    safe, weights = _weights(target, weight, ignore_index, g.dtype)
    if _REDUCTIONS[reduction] == "mean":
        g = g / total_weight.to(g.dtype)
    values = torch.where(weights == 0, torch.zeros_like(weights), -(g * weights))
    return g.new_zeros(x_size).scatter(1, safe.unsqueeze(1), values.unsqueeze(1)).to(gy.dtype)
