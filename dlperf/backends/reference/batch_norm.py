from __future__ import annotations

import torch
from torch import Tensor

from .activation import activation as _activation


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _by_channel(parameter: Tensor, x: Tensor) -> Tensor:
    return _wide(parameter).reshape(1, -1, *(1,) * (x.dim() - 2))


def _others(x: Tensor) -> list[int]:
    """All dimensions but the channels'."""
    return [0, *range(2, x.dim())]


def _finish(y: Tensor, residual: Tensor | None, kind: str) -> Tensor:
    if residual is not None:
        y = y + residual
    return y if kind == "none" else _activation(y, kind, 0.0)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    wide = _wide(x)
    mean = wide.mean(_others(x), keepdim=True)
    return mean.reshape(-1), (wide - mean).square().mean(_others(x))


def batch_norm_train(x, weight, bias, residual, eps, activation):
    y = torch.batch_norm(x, weight, bias, None, None, True, 0.0, eps, False)
    mean, var = _statistics(x.detach())
    return _finish(y, residual, activation), mean, var


def batch_norm_eval(x, mean, var, weight, bias, residual, eps, activation):
    return _finish(torch.batch_norm(x, weight, bias, mean, var, False, 0.0, eps, False), residual, activation)


def batch_norm_given(x, mean, var, weight, bias, residual, eps, activation):
    return batch_norm_eval(x, mean, var, weight, bias, residual, eps, activation)


def batch_norm_bwd(gy, x, y, mean, var, weight, bias, eps, training, wanted):
    if training:  # computed again from x, so that this can be differentiated
        mean, var = _statistics(x)
    g = _wide(gy)
    if y is not None:
        g = torch.where(y <= 0, torch.zeros_like(g), g)
    rstd = torch.rsqrt(_by_channel(var, x) + eps)
    xhat = (_wide(x) - _by_channel(mean, x)) * rstd
    scaled = g if weight is None else g * _by_channel(weight, x)
    others = _others(x)
    gx = scaled
    if training:
        gx = scaled - scaled.mean(others, keepdim=True) - xhat * (scaled * xhat).mean(others, keepdim=True)
    return (
        (gx * rstd).to(x.dtype) if wanted[0] else x.new_empty(0),
        (g * xhat).sum(others).to(weight.dtype) if wanted[1] else (x if weight is None else weight).new_empty(0),
        g.sum(others).to(bias.dtype) if wanted[2] else (x if bias is None else bias).new_empty(0),
        g.to(x.dtype) if wanted[3] else x.new_empty(0),
    )


def batch_norm_update(running_mean, running_var, mean, var, momentum, count):
    unbiased = var.double() * (count / (count - 1))
    for running, batch in ((running_mean, mean.double()), (running_var, unbiased)):
        running.copy_(((1 - momentum) * running.double().view(-1) + momentum * batch).view(running.shape))
