from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ...ops.activation import KINDS
from ...ops.batch_norm import batch_norm_bwd_empty, batch_norm_eval_empty, batch_norm_train_empty, memory_format
from ._layout import dense_in
from ._library import FLOATS, C

_CODE = {kind: code for code, kind in enumerate(KINDS)}


@lru_cache(maxsize=1024)
def _plan(size: torch.Size, dtype, affine_dtype, stats_dtype, channels_last: bool, threads: int):
    """The kernels' shape, and their workspace in bytes at this thread count."""
    shape = C.BatchNormShape(
        *(size[0], size[1], size[2:].numel()),
        *(FLOATS[dtype], FLOATS[affine_dtype], FLOATS[stats_dtype], channels_last),
    )
    return shape, C.batch_norm_workspace(shape)


def _plan_for(x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, format: torch.memory_format):
    affine = weight if weight is not None else bias
    affine_dtype = torch.float32 if affine is None else affine.dtype
    channels_last = format is not torch.contiguous_format
    shape, bytes = _plan(x.shape, x.dtype, affine_dtype, mean.dtype, channels_last, torch.get_num_threads())
    return shape, C.scratch(bytes)


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _dense(x: Tensor | None) -> Tensor | None:
    return x if x is None or x.is_contiguous() else x.contiguous()


def _forward(x, weight, bias, residual, y, mean, var, eps, activation, training) -> None:
    format = memory_format(x)
    if not x.is_contiguous(memory_format=format):
        x = dense_in(x, format)
    if residual is not None:
        residual = dense_in(residual, format)
    weight, bias, mean, var = _dense(weight), _dense(bias), _dense(mean), _dense(var)
    shape, workspace = _plan_for(x, weight, bias, mean, format)
    C.batch_norm(
        shape,
        x.data_ptr(),
        0 if residual is None else residual.data_ptr(),
        y.data_ptr(),
        0 if weight is None else weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
        mean.data_ptr(),
        var.data_ptr(),
        eps,
        _CODE[activation],
        0.0,
        training,
        workspace,
    )


def batch_norm_train(x, weight, bias, residual, eps, activation):
    y, mean, var = batch_norm_train_empty(x)
    if x.numel() == 0:
        return y, mean.zero_(), var.zero_()
    _forward(x, weight, bias, residual, y, mean, var, eps, activation, True)
    return y, mean, var


def batch_norm_eval(x, mean, var, weight, bias, residual, eps, activation):
    y = batch_norm_eval_empty(x)
    if x.numel() > 0:
        _forward(x, weight, bias, residual, y, mean, var, eps, activation, False)
    return y


def batch_norm_bwd(gy, x, y, mean, var, weight, bias, eps, training, wanted):
    grads = batch_norm_bwd_empty(gy, x, y, mean, var, weight, bias, eps, training, wanted)
    if x.numel() == 0:
        return tuple(g.zero_() for g in grads)
    format = memory_format(x)
    gy, x = dense_in(gy, format), dense_in(x, format)
    y = None if y is None else dense_in(y, format)
    weight, mean, var = _dense(weight), _dense(mean), _dense(var)
    shape, workspace = _plan_for(x, weight, bias, mean, format)
    gx, gweight, gbias, gresidual = (g.data_ptr() if w else 0 for g, w in zip(grads, wanted, strict=True))
    C.batch_norm_backward(
        shape,
        *(gy.data_ptr(), x.data_ptr(), _address(y), _address(weight), mean.data_ptr(), var.data_ptr()),
        *(gx, gresidual, gweight, gbias, eps, training, workspace),
    )
    return grads


def batch_norm_update(running_mean, running_var, mean, var, momentum, count):
    C.batch_norm_update(
        *(mean.shape[0], FLOATS[running_mean.dtype], running_mean.data_ptr(), running_var.data_ptr()),
        *(_dense(mean).data_ptr(), _dense(var).data_ptr(), momentum, count),
    )


def _why_not(x: Tensor, tensors, parameters) -> str | None:
    """Of x's dtype and on the CPU all; parameters of x's dtype or float32."""
    dtype = x.dtype
    if dtype not in FLOATS:
        return f"the kernels have no {str(dtype).removeprefix('torch.')}"
    for t in (x, *tensors, *parameters):
        if t is not None and not t.is_cpu:
            return f"a tensor is on {t.device}"
    for t in tensors:
        if t is not None and t.dtype is not dtype:
            return "the dtypes of input, residual or gradient differ"
    for t in parameters:
        if t is not None and t.dtype is not dtype and t.dtype is not torch.float32:
            return "the parameters have neither the input's dtype nor float32"
    return None


def _why_not_update(running_mean, running_var, mean, var, *_) -> str | None:
    if mean.dtype is not torch.float32 or running_mean.dtype not in FLOATS:
        return f"the kernels have no {str(mean.dtype).removeprefix('torch.')}"
    if running_var.dtype is not running_mean.dtype:
        return "the running statistics' dtypes differ"
    if not (running_mean.is_cpu and running_var.is_cpu and mean.is_cpu and var.is_cpu):
        return "a tensor is not on the CPU"
    if not (running_mean.is_contiguous() and running_var.is_contiguous()):
        return "the running statistics are strided views"
    return None


BATCH_NORM_RULES = {
    "batch_norm_train": lambda x, weight, bias, residual, *_: _why_not(x, (residual,), (weight, bias)),
    "batch_norm_eval": lambda x, mean, var, weight, bias, residual, *_: _why_not(
        x, (residual,), (weight, bias, mean, var)
    ),
    "batch_norm_bwd": lambda gy, x, y, mean, var, weight, bias, *_: _why_not(x, (gy, y), (weight, bias, mean, var)),
    "batch_norm_update": _why_not_update,
}
