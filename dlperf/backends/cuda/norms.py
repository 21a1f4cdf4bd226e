"""Layer, RMS, batch and group norm (csrc/cuda/norm.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from dlperf.ops.batch_norm import batch_norm_bwd_empty, batch_norm_eval_empty, batch_norm_train_empty
from dlperf.ops.group_norm import group_norm_bwd_empty, group_norm_empty
from dlperf.ops.layer_norm import layer_norm_bwd_empty, layer_norm_empty, rms_norm_bwd_empty, rms_norm_empty

from ._layout import dense, nhwc
from ._library import ACTIVATIONS, STORAGE, C, address, floats, processors, run

__all__ = [
    "batch_norm_bwd",
    "batch_norm_eval",
    "batch_norm_given",
    "batch_norm_train",
    "group_norm",
    "group_norm_bwd",
    "layer_norm",
    "layer_norm_bwd",
    "rms_norm",
    "rms_norm_bwd",
]


def _in_float32(*parameters: Tensor | None) -> bool:
    return any(t is not None and t.dtype is torch.float32 for t in parameters)


def _rows(x, weight, bias, stats, dims, eps, rms):
    columns = x.shape[x.dim() - dims :].numel()
    numbers = (x.numel() // columns, columns, rms, _in_float32(weight, bias), STORAGE[x.dtype], eps)
    return C.RowNorm(*numbers, address(x), address(weight), address(bias), address(stats))


def _row_forward(x, weight, bias, y, stats, dims, eps, rms) -> None:
    if x.numel():
        x, weight, bias = dense(x), dense(weight), dense(bias)
        run(C.row_norm_forward, x, _rows(x, weight, bias, stats, dims, eps, rms), address(y))


def _row_backward(gy, x, weight, bias, stats, gx, gweight, gbias, dims, eps, rms) -> None:
    if x.numel() == 0:
        for g in (gx, gweight, gbias):
            if g is not None:
                g.zero_()
        return
    gy, x, weight, bias, stats = dense(gy), dense(x), dense(weight), dense(bias), dense(stats)
    call = _rows(x, weight, bias, stats, dims, eps, rms)
    columns = x.shape[x.dim() - dims :].numel()
    parts = C.row_norm_parts(x.numel() // columns, columns, processors(x))
    sums = [None if g is None else floats(x, parts, columns) for g in (gweight, gbias)]
    run(C.row_norm_backward, x, call, address(gy), address(gx), *map(address, sums), parts)
    for s, g in zip(sums, (gweight, gbias), strict=True):
        if g is not None:
            run(C.total, x, address(s), address(g), parts, columns, STORAGE[g.dtype])


def layer_norm(x, weight, bias, dims, eps):
    y, stats = layer_norm_empty(x, weight, bias, dims, eps)
    _row_forward(x, weight, bias, y, stats, dims, eps, False)
    return y, stats


def rms_norm(x, weight, dims, eps):
    y, stats = rms_norm_empty(x, weight, dims, eps)
    _row_forward(x, weight, None, y, stats, dims, eps, True)
    return y, stats


def layer_norm_bwd(gy, x, weight, bias, stats, dims, eps, wanted):
    grads = layer_norm_bwd_empty(gy, x, weight, bias, stats, dims, eps, wanted)
    asked = (g if w else None for g, w in zip(grads, wanted, strict=True))
    _row_backward(gy, x, weight, bias, stats, *asked, dims, eps, False)
    return grads


def rms_norm_bwd(gy, x, weight, stats, dims, eps, wanted):
    grads = rms_norm_bwd_empty(gy, x, weight, stats, dims, eps, wanted)
    asked = (g if w else None for g, w in zip(grads, wanted, strict=True))
    _row_backward(gy, x, weight, None, stats, *asked, None, dims, eps, True)
    return grads


class _Channels:
    """A call's sizes, and its tensors as they are needed. groups 0: batch norm, one image of all positions."""

    def __init__(self, x, weight, bias, groups, eps, activation):
        self.x, self.weight, self.bias = nhwc(x), dense(weight), dense(bias)
        n, self.channels, positions = x.shape[0], x.shape[1], x.shape[2:].numel()
        self.images, self.positions = (1, n * positions) if groups == 0 else (n, positions)
        self.groups, self.eps, self.activation = groups, eps, ACTIVATIONS[activation]

    def parts(self, reduces: bool) -> int:
        return C.channel_parts(self.images, self.positions, self.channels, processors(self.x), reduces)

    def call(self, parts, mean=None, second=None, residual=None, parameter: Tensor | None = None):
        """parameter: one whose dtype the gradients have, where there is no weight."""
        numbers = (self.images, self.positions, self.channels, parts, self.groups)
        in_float32 = _in_float32(self.weight, self.bias, parameter)
        tensors = (self.x, residual, self.weight, self.bias, mean, second)
        return C.ChannelNorm(
            *numbers, in_float32, STORAGE[self.x.dtype], self.eps, self.activation, *map(address, tensors)
        )

    def partial(self, parts: int) -> Tensor:
        return floats(self.x, 2, parts, self.images, self.channels)

    def statistics(self, mean: Tensor, second: Tensor, join) -> None:
        parts = self.parts(True)
        sums = self.partial(parts)
        call = self.call(parts)
        run(C.channel_moments, self.x, call, address(sums[0]), address(sums[1]))
        run(join, self.x, call, address(sums[0]), address(sums[1]), address(mean), address(second))

    def normalize(self, y: Tensor, mean: Tensor, second: Tensor, residual: Tensor | None = None) -> None:
        run(C.channel_normalize, self.x, self.call(self.parts(False), mean, second, residual), address(y))


def batch_moments(x: Tensor, mean: Tensor, var: Tensor) -> None:
    """Each channel's mean and biased variance."""
    _Channels(x, None, None, 0, 0.0, "none").statistics(mean, var, C.join_batch_moments)


def batch_norm_train(x, weight, bias, residual, eps, activation):
    y, mean, var = batch_norm_train_empty(x)
    if x.numel() == 0:
        return y, mean.zero_(), var.zero_()
    c = _Channels(x, weight, bias, 0, eps, activation)
    c.statistics(mean, var, C.join_batch_moments)
    c.normalize(y, mean, var, nhwc(residual))
    return y, mean, var


def batch_norm_eval(x, mean, var, weight, bias, residual, eps, activation):
    y = batch_norm_eval_empty(x)
    if x.numel():
        mean, var = dense(mean.float()), dense(var.float())
        _Channels(x, weight, bias, 0, eps, activation).normalize(y, mean, var, nhwc(residual))
    return y


def batch_norm_given(x, mean, var, weight, bias, residual, eps, activation):
    return batch_norm_eval(x, mean, var, weight, bias, residual, eps, activation)


def batch_norm_bwd(gy, x, y, mean, var, weight, bias, eps, training, wanted):
    grads = batch_norm_bwd_empty(gy, x, y, mean, var, weight, bias, eps, training, wanted)
    if x.numel() == 0:
        return tuple(g.zero_() for g in grads)
    gx, gweight, gbias, gresidual = (g if w else None for g, w in zip(grads, wanted, strict=True))
    c = _Channels(x, weight, bias, 0, eps, "none")
    gy, y, mean, var = nhwc(gy), nhwc(y), dense(mean.float()), dense(var.float())
    means = None
    if (training and gx is not None) or gweight is not None or gbias is not None:
        parts = c.parts(True)
        sums = c.partial(parts)
        call = c.call(parts, mean, var)
        run(C.channel_sums, x, call, address(gy), address(y), address(sums[0]), address(sums[1]))
        if training and gx is not None:
            means = floats(x, 2, c.channels)
        found = (gweight, gbias, *((None, None) if means is None else means))
        call = c.call(parts, mean, var, parameter=gweight if weight is None else None)
        numbers = (parts, float(c.positions))
        run(C.join_batch_sums, x, call, address(sums[0]), address(sums[1]), *numbers, *map(address, found))
    if gx is not None or gresidual is not None:
        call = c.call(c.parts(False), mean, var)
        given = (gy, y, *((None, None) if means is None else means), gx, gresidual)
        run(C.channel_gradient, x, call, *map(address, given))
    return grads


def group_norm(x, weight, bias, groups, eps, activation):
    y, stats = group_norm_empty(x, weight, bias, groups, eps, activation)
    if x.numel():
        c = _Channels(x, weight, bias, groups, eps, activation)
        c.statistics(stats[0], stats[1], C.join_group_moments)
        c.normalize(y, stats[0], stats[1])
    return y, stats


def group_norm_bwd(gy, x, weight, bias, stats, groups, eps, activation, wanted):
    grads = group_norm_bwd_empty(gy, x, weight, bias, stats, groups, eps, activation, wanted)
    if x.numel() == 0:
        return tuple(g.zero_() for g in grads)
    gx, gweight, gbias = (g if w else None for g, w in zip(grads, wanted, strict=True))
    c = _Channels(x, weight, bias, groups, eps, activation)
    gy, (mean, rstd) = nhwc(gy), dense(stats)
    parts = c.parts(True)
    sums, by_channel = c.partial(parts), floats(x, 2, c.images, c.channels)
    means = floats(x, 2, c.images * groups)
    call = c.call(parts, mean, rstd)
    run(C.channel_sums, x, call, address(gy), 0, address(sums[0]), address(sums[1]))
    found = (sums[0], sums[1], by_channel[0], by_channel[1], means[0], means[1])
    run(C.join_group_sums, x, call, *map(address, found))
    if gweight is not None or gbias is not None:
        found = (gweight, gbias, None, None)
        sums = (address(by_channel[0]), address(by_channel[1]))
        run(C.join_batch_sums, x, call, *sums, c.images, 1.0, *map(address, found))
    if gx is not None:
        given = (gy, None, means[0], means[1], gx, None)
        run(C.channel_gradient, x, c.call(c.parts(False), mean, rstd), *map(address, given))
    return grads
