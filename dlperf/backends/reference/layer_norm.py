from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _as_rows(x: Tensor, dims: int) -> Tensor:
    cols = 1
    for size in x.shape[x.ndim - dims :]:
        cols = cols * size
    rows = 1
    for size in x.shape[: x.ndim - dims]:
        rows = rows * size
    return _wide(x).reshape(rows, cols)


def mean_and_rstd(rows: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Over the last dimension, which is kept with size 1."""
    mean = rows.mean(-1, keepdim=True)
    return mean, torch.rsqrt((rows - mean).square().mean(-1, keepdim=True) + eps)


def layer_norm(x, weight, bias, dims, eps):
    shape = x.shape[x.ndim - dims :]
    same = all(a is None or a.dtype is x.dtype for a in (weight, bias))
    y = F.layer_norm(x, shape, weight, bias, eps) if same else F.layer_norm(_wide(x), shape, weight, bias, eps)
    mean, rstd = mean_and_rstd(_as_rows(x.detach(), dims), eps)
    return y.to(x.dtype), torch.stack((mean.flatten(), rstd.flatten()))


def rms_norm(x, weight, dims, eps):
    rstd = torch.rsqrt(_as_rows(x, dims).square().mean(1) + eps)
    y = _wide(x) * rstd.reshape(*x.shape[: x.ndim - dims], *(1,) * dims)
    if weight is not None:
        y = y * weight
    return y.to(x.dtype), rstd.detach().unsqueeze(0)


def _gradients(gy, x, weight, rows, xhat, rstd, dims, takes_mean: bool):
    """The wide gradient of the rows, and of the scaled and shifted output by parameter element."""
    g = _as_rows(gy, dims)
    scaled = g if weight is None else g * _wide(weight).reshape(-1)
    along_x = (scaled * xhat).mean(1, keepdim=True)
    gx = scaled - xhat * along_x
    if takes_mean:
        gx = gx - scaled.mean(1, keepdim=True)
    return (gx * rstd).reshape(x.shape).to(x.dtype), (g * xhat).sum(0), g.sum(0)


def _like(gradient: Tensor, parameter: Tensor | None, x: Tensor, dims: int, wanted: bool) -> Tensor:
    if not wanted:
        return (x if parameter is None else parameter).new_empty(0)
    return gradient.reshape(x.shape[x.ndim - dims :]).to(parameter.dtype)


def layer_norm_bwd(gy, x, weight, bias, stats, dims, eps, wanted):
    # The statistics are computed again from x, so that this can be differentiated.
    rows = _as_rows(x, dims)
    mean, rstd = mean_and_rstd(rows, eps)
    gx, gweight, gbias = _gradients(gy, x, weight, rows, (rows - mean) * rstd, rstd, dims, True)
    return (
        gx if wanted[0] else x.new_empty(0),
        _like(gweight, weight, x, dims, wanted[1]),
        _like(gbias, bias, x, dims, wanted[2]),
    )


def rms_norm_bwd(gy, x, weight, stats, dims, eps, wanted):
    rows = _as_rows(x, dims)
    rstd = torch.rsqrt(rows.square().mean(1, keepdim=True) + eps)
    gx, gweight, _ = _gradients(gy, x, weight, rows, rows * rstd, rstd, dims, False)
    return gx if wanted[0] else x.new_empty(0), _like(gweight, weight, x, dims, wanted[1])
