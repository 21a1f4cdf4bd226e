from __future__ import annotations

import torch
from torch import Tensor

from .activation import activation as _activation
from .activation import activation_bwd as _activation_bwd
from .layer_norm import mean_and_rstd


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _grouped(x: Tensor, groups: int) -> Tensor:
    """[n, groups, elements of a group]"""
    n, c = x.shape[:2]
    per_channel = 1
    for size in x.shape[2:]:
        per_channel = per_channel * size
    return _wide(x).reshape(n, groups, (c // groups if groups else 0) * per_channel)


def _by_channel(parameter: Tensor | None, x: Tensor, otherwise: float) -> Tensor:
    if parameter is None:
        return torch.full((1,) * x.ndim, otherwise, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    return _wide(parameter).reshape(1, -1, *(1,) * (x.ndim - 2))


def group_norm(x, weight, bias, groups, eps, activation):
    same = all(a is None or a.dtype is x.dtype for a in (weight, bias))
    y = torch.group_norm(x if same else _wide(x), groups, weight, bias, eps)
    mean, rstd = mean_and_rstd(_grouped(x.detach(), groups), eps)
    stats = torch.stack((mean.flatten(), rstd.flatten()))
    return (y if activation == "none" else _activation(y, activation, 0.0)).to(x.dtype), stats


def group_norm_bwd(gy, x, weight, bias, stats, groups, eps, activation, wanted):
    # The statistics are computed again from x, so that this can be differentiated.
    rows = _grouped(x, groups)
    mean, rstd = mean_and_rstd(rows, eps)
    xhat = ((rows - mean) * rstd).reshape(x.shape)
    scale = _by_channel(weight, x, 1.0)
    g = _wide(gy)
    if activation != "none":
        g = _activation_bwd(g, xhat * scale + _by_channel(bias, x, 0.0), activation, 0.0)
    scaled, hat = (g * scale).reshape(rows.shape), xhat.reshape(rows.shape)
    gx = rstd * (scaled - scaled.mean(2, keepdim=True) - hat * (scaled * hat).mean(2, keepdim=True))
    others = [0, *range(2, x.ndim)]
    return (
        gx.reshape(x.shape).to(x.dtype) if wanted[0] else x.new_empty(0),
        (g * xhat).sum(others).to(weight.dtype) if wanted[1] else (x if weight is None else weight).new_empty(0),
        g.sum(others).to(bias.dtype) if wanted[2] else (x if bias is None else bias).new_empty(0),
    )
