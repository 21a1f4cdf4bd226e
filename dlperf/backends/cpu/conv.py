from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ...ops.activation import KINDS
from ...ops.conv import conv2d_bwd_input_empty, conv2d_bwd_weight_empty, conv2d_empty, conv_transpose2d_empty
from ._library import FLOATS, C

_CODE = {kind: code for code, kind in enumerate(KINDS)}
_FORWARD, _BWD_INPUT, _BWD_WEIGHT = 0, 1, 2


@lru_cache(maxsize=4096)
def _plan(direction, x_size, y_size, w_size, w_strides, stride, padding, dilation, groups, kind, dtype, isa, threads):
    """The kernel's Conv2dShape, with x the convolution's input and y its output, and the workspace in bytes."""
    n, c, h, w = x_size
    shape = C.Conv2dShape(
        *(n, h, w, c, y_size[1], w_size[2], w_size[3], y_size[2], y_size[3]),
        *(*stride, *padding, *dilation, groups),
        *w_strides,
        *(FLOATS[dtype], _CODE[kind], 0.0),
    )
    return shape, C.conv2d_workspace_bytes(shape, direction, threads, False)


def _plan_for(direction, x, y, w, stride, padding, dilation, groups, kind, threads):
    return _plan(
        direction,
        *(x.shape, y.shape, w.shape, w.stride()),
        *(tuple(stride), tuple(padding), tuple(dilation), groups),
        *(kind, x.dtype, C.isa(), threads),
    )


def _nhwc(x: Tensor) -> Tensor:
    """x, or a copy, whose memory is dense NHWC."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return x
    if not x.is_contiguous():
        return x.contiguous(memory_format=torch.channels_last)
    out = torch.empty(x.shape, dtype=x.dtype, memory_format=torch.channels_last)
    n, c, h, w = x.shape
    C.transpose(x.data_ptr(), out.data_ptr(), n, c, h * w, x.itemsize)
    return out


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _convolve(kernel, direction, given, weight, bias, residual, out, sizes, geometry, kind) -> Tensor:
    """Runs a kernel that reads `given` and writes `out`, both in NHWC memory whatever their own is."""
    if out.numel() == 0:
        return out
    threads = torch.get_num_threads()
    shape, workspace = _plan_for(direction, *sizes, weight, *geometry, kind, threads)
    given = _nhwc(given)
    residual = None if residual is None else _nhwc(residual)
    bias = None if bias is None else bias.contiguous()
    direct = out.is_contiguous(memory_format=torch.channels_last)
    target = out if direct else torch.empty(out.shape, dtype=out.dtype, memory_format=torch.channels_last)
    scratch = torch.empty(workspace, dtype=torch.uint8) if workspace else None
    kernel(
        shape,
        *(given.data_ptr(), weight.data_ptr(), _address(bias), _address(residual), target.data_ptr()),
        *(_address(scratch), threads),
    )
    if not direct:
        n, c, h, w = out.shape
        C.transpose(target.data_ptr(), out.data_ptr(), n, h * w, c, out.itemsize)
    return out


def conv2d(x, weight, bias, residual, stride, padding, dilation, groups, activation):
    y = conv2d_empty(x, weight, bias, residual, stride, padding, dilation)
    geometry = stride, padding, dilation, groups
    return _convolve(C.conv2d_forward, _FORWARD, x, weight, bias, residual, y, (x, y), geometry, activation)


def conv2d_bwd_input(gy, weight, input_size, stride, padding, dilation, groups, channels_last):
    geometry = stride, padding, dilation, groups
    gx = conv2d_bwd_input_empty(gy, weight, input_size, *geometry, channels_last)
    return _convolve(C.conv2d_bwd_input, _BWD_INPUT, gy, weight, None, None, gx, (gx, gy), geometry, "none")


def conv_transpose2d(x, weight, bias, stride, padding, output_padding, dilation, groups, activation):
    geometry = stride, padding, dilation, groups
    y = conv_transpose2d_empty(x, weight, bias, stride, padding, output_padding, dilation, groups)
    return _convolve(C.conv2d_bwd_input, _BWD_INPUT, x, weight, bias, None, y, (y, x), geometry, activation)


def conv2d_bwd_weight(gy, x, weight_size, stride, padding, dilation, groups, channels_last):
    gw = conv2d_bwd_weight_empty(gy, x, weight_size, stride, padding, dilation, groups, channels_last)
    if gy.numel() == 0:
        return gw.zero_()
    threads = torch.get_num_threads()
    shape, workspace = _plan_for(_BWD_WEIGHT, x, gy, gw, stride, padding, dilation, groups, "none", threads)
    gy, x = _nhwc(gy), _nhwc(x)
    scratch = torch.empty(workspace, dtype=torch.uint8) if workspace else None
    C.conv2d_bwd_weight(shape, gy.data_ptr(), x.data_ptr(), gw.data_ptr(), _address(scratch), threads)
    return gw
