"""Matrix products and convolutions (csrc/cuda/gemm.h, conv.h, depthwise.h)."""

from __future__ import annotations

from torch import Tensor

from dlperf.ops.conv import (
    conv2d_bwd_input_empty,
    conv2d_bwd_weight_empty,
    conv2d_empty,
    conv2d_moments_empty,
    conv_transpose2d_empty,
)
from dlperf.ops.matmul import bmm_empty, linear_empty

from ._layout import dense, into, nhwc, nhwc_target
from ._library import ACTIVATIONS, STORAGE, VECTOR, C, address, floats, plan_device, run
from .norms import batch_moments

__all__ = [
    "bmm",
    "conv2d",
    "conv2d_bwd_input",
    "conv2d_bwd_weight",
    "conv2d_moments",
    "conv_transpose2d",
    "linear",
]


def _operand(x: Tensor) -> tuple[Tensor, bool, int, int]:
    """[batches, rows, columns] as the kernels take it: itself or a copy, whether columns are neighbours, the distance
    of rows (of columns where rows are neighbours), that of batches."""
    batch, rows, columns = x.shape
    at_batch, at_row, at_column = x.stride()
    if batch == 1 or (at_batch > 0 and at_batch % VECTOR == 0):
        if at_column == 1 and at_row % VECTOR == 0 and at_row >= columns:
            return x, True, at_row, at_batch
        if at_row == 1 and at_column % VECTOR == 0 and at_column >= rows and rows % VECTOR == 0:
            return x, False, at_column, at_batch
    x = x.contiguous()
    return x, True, columns, rows * columns


def _product(a, b, bias, residual, c, alpha, beta, activation, moments: Tensor | None = None) -> None:
    """a [batches, m, k], b [batches, k, n], c dense. moments: see :func:`conv2d_moments`."""
    (batches, m, k), n = a.shape, b.shape[2]
    a, a_along_k, a_stride, a_batch = _operand(a)
    b, b_across, b_stride, b_batch = _operand(b)
    if residual is not None and not (
        residual.stride(2) == 1 and residual.stride(1) % VECTOR == 0 and residual.stride(0) % VECTOR == 0
    ):
        residual = residual.contiguous()
    r_batch, r_row = (0, 0) if residual is None else residual.stride()[:2]
    size = C.gemm_workspace(plan_device(a), m, n, k, batches, moments is not None)
    scratch = floats(a, size) if size else None
    numbers = (m, n, k, batches, a_along_k, not b_across, a_stride, b_stride, a_batch, b_batch, r_row, r_batch)
    tensors = map(address, (a, b, dense(bias), residual, c, scratch, moments))
    run(C.gemm, a, *numbers, *tensors, alpha, beta, ACTIVATIONS[activation], STORAGE[a.dtype])


def _finished(out: Tensor, depth: int, bias, residual, beta: float, activation: str) -> bool:
    """Whether there was nothing to multiply; an empty sum still has its epilogue, which torch then computes."""
    if out.numel() == 0:
        return True
    if depth > 0:
        return False
    out.zero_()
    if bias is not None:
        out.add_(bias)
    if residual is not None:
        out.add_(residual, alpha=beta)
    from .. import reference

    out.copy_(reference.activation(out.clone(), activation, 0.0))
    return True


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str) -> Tensor:
    y = linear_empty(x, weight)
    n, k = weight.shape
    if not _finished(y, k, bias, residual, 1.0, activation):
        rows = x if x.dim() == 2 else x.reshape(-1, k)
        residual = None if residual is None else residual.reshape(1, -1, n)
        _product(rows[None], weight.t()[None], bias, residual, y, 1.0, 1.0, activation)
    return y


def bmm(
    a: Tensor, b: Tensor, bias: Tensor | None, input: Tensor | None, beta: float, alpha: float, activation: str
) -> Tensor:
    c = bmm_empty(a, b)
    if beta == 0:
        input = None
    if not _finished(c, a.shape[-1] if alpha else 0, bias, input, beta, activation):
        a, b, input = (None if t is None else t.reshape(-1, *t.shape[-2:]) for t in (a, b, input))
        _product(a, b, bias, input, c, alpha, beta, activation)
    return c


def _geometry(x, weight, y, stride, padding, dilation):
    """x [n, c, h, w], weight [k, c / groups, r, s], y [n, k, p, q]"""
    n, c, h, w = x
    k, _, r, s = weight
    return C.Convolution(n, h, w, c, k, r, s, y[2], y[3], *stride, *padding, *dilation)


def _is_pointwise(weight, stride, padding, groups) -> bool:
    return groups == 1 and tuple(weight[2:]) == (1, 1) and tuple(stride) == (1, 1) and tuple(padding) == (0, 0)


def _rows_of(x: Tensor) -> Tensor:
    """NHWC memory as [pixels, channels]."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _convolve(
    name: str, like: Tensor, geometry, tensors: tuple, activation: str, groups: int, moments: Tensor | None = None
) -> None:
    """tensors: x, weight, y, bias, residual, out; those that are not read None. Groups: none, or a channel each."""
    kind = "conv" if groups == 1 else "depthwise"
    launch, workspace = getattr(C, f"{kind}_{name}"), getattr(C, f"{kind}_{name}_workspace", None)
    size = workspace(plan_device(like), geometry, moments is not None) if workspace else 0
    scratch = floats(like, size) if size else None
    addresses = map(address, (*tensors, scratch, moments))
    run(launch, like, geometry, *addresses, ACTIVATIONS[activation], STORAGE[like.dtype])


def conv2d(x, weight, bias, residual, stride, padding, dilation, groups, activation):
    y = conv2d_empty(x, weight, bias, residual, stride, padding, dilation)
    if _finished(y, weight[0].numel(), None if bias is None else bias[:, None, None], residual, 1.0, activation):
        return y
    x, weight, residual, target = nhwc(x), nhwc(weight), nhwc(residual), nhwc_target(y)
    tensors = (x, weight, None, dense(bias), residual, target)
    _forward(tensors, (stride, padding, dilation, groups), activation, None)
    return into(y, target)


def _moment_rows(x, weight, y, stride, padding, dilation, groups) -> int:
    """Rows of y that the kernels gather moments over; 0 where they can't."""
    if groups != 1:
        return 0
    device = plan_device(x)
    if _is_pointwise(weight.shape, stride, padding, groups):
        return C.gemm_moment_rows(device, y.numel() // y.shape[1], *weight.shape[:2])
    return C.conv_moment_rows(device, _geometry(x.shape, weight.shape, y.shape, stride, padding, dilation))


def conv2d_moments(x, weight, stride, padding, dilation, groups):
    y, mean, var = conv2d_moments_empty(x, weight, stride, padding, dilation, groups)
    if _finished(y, weight[0].numel(), None, None, 1.0, "none"):
        return y, mean.zero_(), var.zero_()
    x, weight, target = nhwc(x), nhwc(weight), nhwc_target(y)
    geometry = (stride, padding, dilation, groups)
    step, rows, channels = _moment_rows(x, weight, y, *geometry), y.numel() // y.shape[1], y.shape[1]
    moments = floats(x, C.moments_workspace(rows, channels, step)) if step else None
    _forward((x, weight, None, None, None, target), geometry, "none", moments)
    if step:
        run(C.join_moments, x, address(moments), rows, channels, step, address(mean), address(var))
    else:
        batch_moments(target, mean, var)
    return into(y, target), mean, var


def _forward(tensors: tuple, numbers: tuple, activation: str, moments: Tensor | None) -> None:
    """tensors: as _convolve's."""
    x, weight, _, bias, residual, target = tensors
    stride, padding, dilation, groups = numbers
    if _is_pointwise(weight.shape, stride, padding, groups):
        rest = None if residual is None else _rows_of(residual)[None]
        matrix = weight.reshape(weight.shape[:2]).t()[None]
        _product(_rows_of(x)[None], matrix, bias, rest, target, 1.0, 1.0, activation, moments)
        return
    geometry = _geometry(x.shape, weight.shape, target.shape, stride, padding, dilation)
    _convolve("forward", x, geometry, tensors, activation, groups, moments)


def _input(gy, weight, bias, gx, stride, padding, dilation, groups, activation):
    gy, weight, target = nhwc(gy), nhwc(weight), nhwc_target(gx)
    if _is_pointwise(weight.shape, stride, padding, groups):
        matrix = weight.reshape(weight.shape[:2])[None]
        _product(_rows_of(gy)[None], matrix, bias, None, target, 1.0, 1.0, activation)
        return into(gx, target)
    geometry = _geometry(gx.shape, weight.shape, gy.shape, stride, padding, dilation)
    tensors = (None, weight, gy, dense(bias), None, target)
    _convolve("input", gy, geometry, tensors, activation, groups)
    return into(gx, target)


def conv2d_bwd_input(gy, weight, input_size, stride, padding, dilation, groups, channels_last):
    gx = conv2d_bwd_input_empty(gy, weight, input_size, stride, padding, dilation, groups, channels_last)
    if gx.numel() == 0:
        return gx
    return gx.zero_() if gy.numel() == 0 else _input(gy, weight, None, gx, stride, padding, dilation, groups, "none")


def conv_transpose2d(x, weight, bias, stride, padding, output_padding, dilation, groups, activation):
    y = conv_transpose2d_empty(x, weight, bias, stride, padding, output_padding, dilation, groups)
    if _finished(y, x.numel(), None if bias is None else bias[:, None, None], None, 1.0, activation):
        return y
    return _input(x, weight, bias, y, stride, padding, dilation, groups, activation)


def conv2d_bwd_weight(gy, x, weight_size, stride, padding, dilation, groups, channels_last):
    gw = conv2d_bwd_weight_empty(gy, x, weight_size, stride, padding, dilation, groups, channels_last)
    if gy.numel() == 0 or gw.numel() == 0:
        return gw.zero_()
    gy, x, target = nhwc(gy), nhwc(x), nhwc_target(gw)
    if _is_pointwise(weight_size, stride, padding, groups):
        _product(_rows_of(gy).t()[None], _rows_of(x)[None], None, None, target, 1.0, 1.0, "none")
        return into(gw, target)
    geometry = _geometry(x.shape, gw.shape, gy.shape, stride, padding, dilation)
    tensors = (x, None, gy, None, None, target)
    _convolve("weight", x, geometry, tensors, "none", groups)
    return into(gw, target)
