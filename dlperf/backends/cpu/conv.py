from __future__ import annotations

from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

from ...memory import empty_like, new_empty_strided
from ...ops.activation import KINDS
from ...ops.conv import conv2d_bwd_input_empty, conv2d_bwd_weight_empty, conv2d_empty, conv_transpose2d_empty
from ...precision import strict
from ._library import FLOATS, C

_CODE = {kind: code for code, kind in enumerate(KINDS)}
_FORWARD, _BWD_INPUT, _BWD_WEIGHT = 0, 1, 2
_LAST = torch.channels_last
ALGORITHMS = {"automatic": 0, "direct": 1, "winograd": 2}

_forced = 0


@contextmanager
def force_algorithm(name: str):
    """Overrides the choice by shape, in every thread: for tests and benchmarks. One of ``ALGORITHMS``."""
    global _forced
    before, _forced = _forced, ALGORITHMS[name]
    try:
        yield
    finally:
        _forced = before


def algorithm() -> int:
    """What a Conv2dShape made now asks for."""
    return _forced or (ALGORITHMS["direct"] if strict() else ALGORITHMS["automatic"])


@lru_cache(maxsize=4096)
def _plan(direction, empty, first, second, rest, geometry, kind, dtype, isa, threads, asked) -> tuple:
    """A call's geometry.

    Args:
        empty: the operator's shape function, asked as ``empty(first, second, *rest)``.
        first, second: size and strides of the operator's first two tensors.
        geometry: stride, padding, dilation and groups, in one tuple.
        asked: the algorithm, as ``algorithm()`` gives it.

    Returns:
        ``(size, strides, is_nhwc, shape, workspace)``: the result's size and strides and whether that is NHWC memory;
        Conv2dShape; bytes of workspace.
    """
    a = torch.empty_strided(*first, device="meta")
    b = torch.empty_strided(*second, device="meta")
    out = empty(a, b, *rest)
    # x and y are the convolution's own input and output, whichever way the call goes.
    x, y, w = {_FORWARD: (a, out, b), _BWD_INPUT: (out, a, b), _BWD_WEIGHT: (b, a, out)}[direction]
    n, c, height, width = x.shape
    shape = C.Conv2dShape(
        *(n, height, width, c, y.shape[1], w.shape[2], w.shape[3], y.shape[2], y.shape[3]),
        *geometry,
        *w.stride(),
        *(FLOATS[dtype], _CODE[kind], 0.0, asked),
    )
    workspace = 0 if x.numel() == 0 else C.conv2d_workspace_bytes(shape, direction, threads, False)
    return out.shape, out.stride(), out.is_contiguous(memory_format=_LAST), shape, workspace


def _nhwc(x: Tensor) -> Tensor:
    """x, or a copy, whose memory is dense NHWC."""
    if x.is_contiguous(memory_format=_LAST):
        return x
    if not x.is_contiguous():
        return x.contiguous(memory_format=_LAST)
    out = empty_like(x, memory_format=_LAST)
    n, c, h, w = x.shape
    C.transpose(x.data_ptr(), out.data_ptr(), n, c, h * w, x.itemsize)
    return out


def _run(kernel, plan: tuple, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, threads: int):
    """act(kernel(x, weight) + bias + residual), with what is not NHWC transposed on the way in and out."""
    size, strides, is_nhwc, shape, workspace = plan
    out = new_empty_strided(x, size, strides)
    if out.numel() == 0:
        return out
    x = _nhwc(x)
    bias_at = residual_at = 0
    if bias is not None:
        bias = bias.contiguous()
        bias_at = bias.data_ptr()
    if residual is not None:
        residual = _nhwc(residual)
        residual_at = residual.data_ptr()
    scratch_at = C.scratch(workspace)
    target = out if is_nhwc else empty_like(out, memory_format=_LAST)
    kernel(shape, x.data_ptr(), weight.data_ptr(), bias_at, residual_at, target.data_ptr(), scratch_at, threads)
    if not is_nhwc:
        n, c, h, w = size
        C.transpose(target.data_ptr(), out.data_ptr(), n, h * w, c, out.itemsize)
    return out


def conv2d(x, weight, bias, residual, stride, padding, dilation, groups, activation):
    threads = torch.get_num_threads()
    plan = _plan(
        *(_FORWARD, conv2d_empty, (x.shape, x.stride()), (weight.shape, weight.stride())),
        (None, None, tuple(stride), tuple(padding), tuple(dilation)),
        (*stride, *padding, *dilation, groups),
        *(activation, x.dtype, C.isa(), threads, algorithm()),
    )
    return _run(C.conv2d_forward, plan, x, weight, bias, residual, threads)


def conv2d_bwd_input(gy, weight, input_size, stride, padding, dilation, groups, channels_last):
    threads = torch.get_num_threads()
    plan = _plan(
        *(_BWD_INPUT, conv2d_bwd_input_empty, (gy.shape, gy.stride()), (weight.shape, weight.stride())),
        (tuple(input_size), None, None, None, None, channels_last),
        (*stride, *padding, *dilation, groups),
        *("none", gy.dtype, C.isa(), threads, algorithm()),
    )
    return _run(C.conv2d_bwd_input, plan, gy, weight, None, None, threads)


def conv_transpose2d(x, weight, bias, stride, padding, output_padding, dilation, groups, activation):
    threads = torch.get_num_threads()
    plan = _plan(
        *(_BWD_INPUT, conv_transpose2d_empty, (x.shape, x.stride()), (weight.shape, weight.stride())),
        (None, tuple(stride), tuple(padding), tuple(output_padding), tuple(dilation), groups),
        (*stride, *padding, *dilation, groups),
        *(activation, x.dtype, C.isa(), threads, algorithm()),
    )
    return _run(C.conv2d_bwd_input, plan, x, weight, bias, None, threads)


def conv2d_bwd_weight(gy, x, weight_size, stride, padding, dilation, groups, channels_last):
    threads = torch.get_num_threads()
    size, strides, _, shape, workspace = _plan(
        *(_BWD_WEIGHT, conv2d_bwd_weight_empty, (gy.shape, gy.stride()), (x.shape, x.stride())),
        (tuple(weight_size), None, None, None, None, channels_last),
        (*stride, *padding, *dilation, groups),
        *("none", x.dtype, C.isa(), threads, algorithm()),
    )
    gw = new_empty_strided(x, size, strides)
    if gy.numel() == 0:
        return gw.zero_()
    gy, x = _nhwc(gy), _nhwc(x)
    C.conv2d_bwd_weight(shape, gy.data_ptr(), x.data_ptr(), gw.data_ptr(), C.scratch(workspace), threads)
    return gw
