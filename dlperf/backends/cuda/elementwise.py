"""Activations, channel sums, running statistics (csrc/cuda/elementwise.h)."""

from __future__ import annotations

from torch import Tensor

from dlperf.ops.activation import activation_empty
from dlperf.ops.channel_sum import channel_sum_empty

from ._layout import dense, dense_like, nhwc
from ._library import ACTIVATIONS, STORAGE, C, address, floats, processors, run

__all__ = ["activation", "activation_", "activation_bwd", "batch_norm_update", "channel_sum"]


def activation(x: Tensor, kind: str, param: float) -> Tensor:
    y = activation_empty(x)
    if x.numel():
        x = dense_like(x, y)
        run(C.activation, x, address(x), address(y), x.numel(), ACTIVATIONS[kind], STORAGE[x.dtype])
    return y


def activation_(x: Tensor, kind: str, param: float) -> None:
    if x.is_contiguous() and x.numel():
        run(C.activation, x, address(x), address(x), x.numel(), ACTIVATIONS[kind], STORAGE[x.dtype])
    else:
        x.copy_(activation(x, kind, param))


def activation_bwd(gy: Tensor, x: Tensor, kind: str, param: float) -> Tensor:
    gx = activation_empty(x)
    if x.numel():
        gy, x = dense_like(gy, gx), dense_like(x, gx)
        tensors = map(address, (gy, x, gx))
        run(C.activation_backward, x, *tensors, x.numel(), ACTIVATIONS[kind], STORAGE[x.dtype])
    return gx


def channel_sum(x: Tensor) -> Tensor:
    out = channel_sum_empty(x)
    if x.numel() == 0:
        return out.zero_()
    channels = x.shape[1]
    x, rows = nhwc(x), x.numel() // channels
    parts = C.channel_parts(1, rows, channels, processors(x), True)
    sums = floats(x, parts, channels)
    run(C.channel_sum, x, address(x), address(sums), rows, channels, parts, STORAGE[x.dtype])
    run(C.total, x, address(sums), address(out), parts, channels, STORAGE[out.dtype])
    return out


def batch_norm_update(running_mean, running_var, mean, var, momentum, count):
    tensors = map(address, (running_mean, running_var, dense(mean), dense(var)))
    run(C.batch_norm_update, mean, *tensors, mean.shape[0], momentum, float(count), STORAGE[running_mean.dtype])
