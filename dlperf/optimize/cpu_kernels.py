"""Steps on dlperf's CPU kernels, by operator: ``(arguments, result, Weights) -> Prepared | None``.

Kernels' arguments are as the headers in csrc/cpu say.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import memmove
from math import prod

import torch
from torch import Tensor

from ..backends import cpu
from ..backends.cpu._library import FLOATS
from ..backends.cpu.conv import algorithm
from ..backends.cpu.upsample import shape_of as upsampling
from ..ops.activation import KINDS
from ..ops.recurrent import CELLS
from .prepared import Address, Prepared

PREPARE: dict[str, Callable] = {}


def prepares(*names: str):
    def register(function):
        for name in names:
            PREPARE[name] = function
        return function

    return register


_SCRATCH = Address(None)
_FORWARD = 0  # of a convolution
_MAX, _AVERAGE = 0, 1
_LAST = torch.channels_last
_MASKS = {torch.bool: 1, torch.float32: 2, torch.bfloat16: 3, torch.float16: 4}
_CODE = {kind: code for code, kind in enumerate(KINDS)}


def _address(tensor: Tensor | None):
    return 0 if tensor is None else Address(tensor)


def _dense(*tensors: Tensor | None) -> bool:
    return all(t is None or t.is_contiguous() for t in tensors)


def same_order(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors of one shape lie alike; where a dimension is of one element, its stride says nothing."""
    return all(n == 1 or a == b for n, a, b in zip(x.shape, x.stride(), y.stride(), strict=True))


def image_format(x: Tensor) -> torch.memory_format:
    """The default layout where x has it, else channels last."""
    return torch.contiguous_format if x.is_contiguous() or x.dim() != 4 else _LAST


def _merged(size: tuple, *strides: tuple) -> tuple[int, tuple[int, ...]] | None:
    """Dimensions as one: (length, a step per tensor), or None where some tensor doesn't walk them evenly."""
    length, steps = 1, (0,) * len(strides)
    for n, *step in reversed(list(zip(size, *strides, strict=True))):
        if n == 1:
            continue
        if length == 1:
            steps = tuple(step)
        elif any(mine != inner * length for mine, inner in zip(step, steps, strict=True)):
            return None
        length *= n
    return length, steps


def _product(rows, batch, a, b, bias, residual, alpha, beta, kind, y, weights):
    """act(alpha a @ b + bias + beta residual), given the merged dimensions: (length, steps of a, residual, y (, b))."""
    if rows is None or batch is None or y.stride(-1) != 1 or not _dense(bias):
        return None
    (m, (a_row, r_row, c_row)), (count, (a_step, r_step, c_step, b_step)) = rows, batch
    n, k = y.shape[-1], a.shape[-1]
    shape = cpu.C.GemmShape(
        *(
            count,
            m,
            n,
            k,
            a_step,
            a_row,
            a.stride(-1),
            b_step,
            b.stride(-2),
            b.stride(-1),
            c_step,
            c_row if m > 1 else n,
        ),
        *(r_step, r_row, 1 if residual is None else residual.stride(-1)),
        *(FLOATS[y.dtype], _CODE[kind], 0.0, alpha, beta, False),
    )
    threads = torch.get_num_threads()
    packed = None
    if b.dim() == 2:
        packed = weights.pack(
            b, ("gemm",), cpu.C.gemm_pack_bytes(shape), lambda source, target: cpu.C.gemm_pack_b(shape, source, target)
        )
    second = Address(b if packed is None else packed)
    operands = (shape, Address(a), second, _address(bias), _address(residual), Address(y), _SCRATCH, threads)
    scratch = cpu.C.gemm_workspace_bytes(shape, threads, packed is not None)
    return Prepared(cpu.C.gemm, (*operands, packed is not None), scratch)


@prepares("linear")
def _linear(args, y, weights):
    x, weight, bias, residual, kind = args
    r = y if residual is None else residual
    rows = _merged(x.shape[:-1], x.stride()[:-1], r.stride()[:-1], y.stride()[:-1])
    return _product(rows, (1, (0, 0, 0, 0)), x, weight.t(), bias, residual, 1.0, 1.0, kind, y, weights)


@prepares("bmm")
def _bmm(args, y, weights):
    a, b, bias, input, beta, alpha, kind = args
    residual = None if beta == 0 else input
    r = y if residual is None else residual
    rows = (y.shape[-2], (a.stride(-2), r.stride(-2), y.stride(-2)))
    batch = _merged(y.shape[:-2], a.stride()[:-2], r.stride()[:-2], y.stride()[:-2], b.stride()[:-2])
    return _product(rows, batch, a, b, bias, residual, alpha, beta, kind, y, weights)


@prepares("recurrent")
def _recurrent(args, result, weights):
    """In float32: its states need no conversion."""
    x, h0, c0, w_ih, w_hh, b_ih, b_hh, batch_sizes, cell, reverse, save = args
    y, h, c, *_ = result
    if save or batch_sizes is not None or y.dtype is not torch.float32 or not _dense(h0, c0, w_hh, b_ih, b_hh):
        return None
    threads, width = torch.get_num_threads(), w_ih.shape[0]
    steps, n, hidden = y.shape
    shape = cpu.C.RecurrentShape(CELLS.index(cell), FLOATS[y.dtype], steps, n, hidden, 0, reverse, threads)
    packed = weights.pack(
        *(w_hh, ("recurrent", cell, cpu.C.recurrent_walks(shape)), cpu.C.recurrent_pack_bytes(shape)),
        lambda source, target: cpu.C.recurrent_pack(shape, source, target),
    )
    gates = torch.empty((steps, n, width), device="meta")
    rows, batch = (n, (x.stride(1), 0, width)), (steps, (x.stride(0), 0, n * width, 0))
    product = _product(rows, batch, x, w_ih.t(), b_ih, None, 1.0, 0.0, "none", gates, weights)
    if packed is None or product is None:
        return None
    gemm_shape, x_at, w_at, bias_at, *_, prepacked = product.operands
    call = _Recurrent(shape, gemm_shape, prepacked, threads, cell, h.numel() * 4, gates.numel() * 4)
    operands = (x_at, w_at, bias_at, Address(h0), _address(c0), Address(packed), _address(b_hh), Address(y), Address(h))
    operands = (*operands, Address(c) if cell == "lstm" else 0, _SCRATCH)
    scratch = call.used + max(product.scratch, cpu.C.recurrent_workspace(shape, False, True))
    return Prepared(call, operands, scratch)


class _Recurrent:
    """The inputs' products for all steps, then the walk over the steps; gates and the carried state in scratch."""

    __slots__ = ("cell", "gemm", "prepacked", "shape", "state", "threads", "used", "work")

    def __init__(self, shape, gemm, prepacked: bool, threads: int, cell: str, state: int, gates: int):
        self.shape, self.gemm, self.prepacked, self.threads, self.cell = shape, gemm, prepacked, threads, cell
        self.state = state
        self.work = -(-gates // 64) * 64
        self.used = self.work + -(-state // 64) * 64

    def __call__(self, x, w_ih, b_ih, h0, c0, w_hh, b_hh, y, h, c, scratch):
        carried, work = scratch + self.work, scratch + self.used
        cpu.C.gemm(self.gemm, x, w_ih, b_ih, 0, scratch, work, self.threads, self.prepacked)
        memmove(h, h0, self.state)
        if self.cell == "lstm":
            memmove(carried, c0, self.state)
        elif self.cell == "gru":
            memmove(carried, h0, self.state)
        cpu.C.recurrent_forward(self.shape, scratch, w_hh, b_hh, h, carried, y, 0, work, True)
        if self.cell == "lstm":
            memmove(c, carried, self.state)


@prepares("conv2d")
def _conv2d(args, y, weights):
    x, weight, bias, residual, stride, padding, dilation, groups, kind = args
    if not _dense(bias) or not all(t is None or t.is_contiguous(memory_format=_LAST) for t in (x, y, residual)):
        return None
    geometry = (*stride, *padding, *dilation, groups)
    n, c, h, w = x.shape
    shape = cpu.C.Conv2dShape(
        *(n, h, w, c, y.shape[1], weight.shape[2], weight.shape[3], y.shape[2], y.shape[3]),
        *(*geometry, *weight.stride(), FLOATS[x.dtype], _CODE[kind], 0.0, algorithm()),
    )
    threads = torch.get_num_threads()
    packed = weights.pack(
        weight,
        ("conv2d", *geometry, cpu.C.conv2d_algorithm(shape, _FORWARD, True)),
        cpu.C.conv2d_pack_bytes(shape, _FORWARD),
        lambda source, target: cpu.C.conv2d_pack(shape, _FORWARD, source, target),
    )
    second = Address(weight if packed is None else packed)
    operands = (shape, Address(x), second, _address(bias), _address(residual), Address(y), _SCRATCH, threads)
    scratch = cpu.C.conv2d_workspace_bytes(shape, _FORWARD, threads, packed is not None)
    return Prepared(cpu.C.conv2d_forward, (*operands, packed is not None), scratch)


def _affine_dtype(weight: Tensor | None, bias: Tensor | None, default: torch.dtype) -> int:
    affine = weight if weight is not None else bias
    return FLOATS[default if affine is None else affine.dtype]


def _row_norm(x, weight, bias, dims, rms, eps, result):
    if not _dense(x, weight, bias):
        return None
    cols = prod(x.shape[x.dim() - dims :])
    affine = _affine_dtype(weight, bias, x.dtype)
    shape = cpu.C.RowNormShape(x.numel() // cols, cols, FLOATS[x.dtype], affine, rms, eps)
    return Prepared(cpu.C.row_norm_forward, (shape, *map(_address, (x, weight, bias, *result))))


@prepares("layer_norm")
def _layer_norm(args, result, weights):
    x, weight, bias, dims, eps = args
    return _row_norm(x, weight, bias, dims, False, eps, result)


@prepares("rms_norm")
def _rms_norm(args, result, weights):
    x, weight, dims, eps = args
    return _row_norm(x, weight, None, dims, True, eps, result)


@prepares("group_norm")
def _group_norm(args, result, weights):
    x, weight, bias, groups, eps, kind = args
    y, stats = result
    if not _dense(weight, bias) or not same_order(x, y):
        return None
    n, c = x.shape[:2]
    affine = _affine_dtype(weight, bias, x.dtype)
    last = not x.is_contiguous()
    geometry = (n, c, prod(x.shape[2:]), groups, FLOATS[x.dtype], affine, last, eps, _CODE[kind])
    shape = cpu.C.GroupNormShape(*geometry)
    operands = (shape, *map(_address, (x, weight, bias, y, stats)), _SCRATCH)
    return Prepared(cpu.C.group_norm_forward, operands, shape.workspace())


@prepares("batch_norm_eval")
def _batch_norm(args, y, weights):
    x, mean, var, weight, bias, residual, eps, kind = args
    layout = image_format(x)
    tensors = (x, y, residual)
    if not _dense(weight, bias, mean, var) or not all(
        t is None or t.is_contiguous(memory_format=layout) for t in tensors
    ):
        return None
    affine = _affine_dtype(weight, bias, torch.float32)
    size = (x.shape[0], x.shape[1], prod(x.shape[2:]))
    shape = cpu.C.BatchNormShape(*size, FLOATS[x.dtype], affine, FLOATS[mean.dtype], layout is _LAST)
    operands = (shape, *map(_address, (x, residual, y, weight, bias, mean, var)), eps, _CODE[kind], 0.0, False)
    return Prepared(cpu.C.batch_norm, (*operands, _SCRATCH), cpu.C.batch_norm_workspace(shape))


@prepares("attention")
def _attention(args, result, weights):
    q, k, v, mask, rng, causal, scale, dropout_p = args
    out, stats = result
    if rng is not None or any(t.stride(3) != 1 and t.shape[3] > 1 for t in (q, k, v)):
        return None
    strides = (0, 0, 0, 0)
    if mask is not None:
        strides = tuple(0 if n == 1 else s for n, s in zip(mask.shape, mask.stride(), strict=True))
    shape = cpu.C.AttentionShape(
        *(q.shape[0], q.shape[1], k.shape[1], q.shape[2], k.shape[2], q.shape[3], v.shape[3]),
        *(q.stride()[:3], k.stride()[:3], v.stride()[:3], out.stride()[:3], strides),
        *(FLOATS[q.dtype], 0 if mask is None else _MASKS[mask.dtype], causal, scale, dropout_p),
    )
    threads = torch.get_num_threads()
    operands = (shape, *map(_address, (q, k, v, mask)), 0, Address(out), Address(stats), _SCRATCH, threads)
    return Prepared(cpu.C.attention_forward, operands, cpu.C.attention_forward_bytes(shape, threads))


@prepares("activation")
def _activation(args, y, weights):
    x, kind, param = args
    if x.stride() != y.stride():
        return None
    operands = (FLOATS[x.dtype], _CODE[kind], param, x.numel(), Address(x), Address(y))
    return Prepared(cpu.C.activation_forward, operands)


@prepares("softmax")
def _softmax(args, y, weights):
    x, dim, logarithm = args
    if not _dense(x, y) or x.dim() == 0:
        return None
    shape = cpu.C.SoftmaxShape(prod(x.shape[:dim]), x.shape[dim], prod(x.shape[dim + 1 :]))
    return Prepared(cpu.C.softmax_forward, (FLOATS[x.dtype], shape, logarithm, Address(x), Address(y)))


def _pool(kind, x, y, indices, window, output_size, count_include_pad, divisor):
    layout = image_format(x)
    if not x.is_contiguous(memory_format=layout) or not y.is_contiguous(memory_format=layout):
        return None
    n, c, *spatial = x.shape
    kernel, stride, padding, dilation = zip(*[iter(window or (1, 1, 1, 1, 0, 0, 1, 1))] * 2, strict=True)
    h, w = zip(spatial, output_size, kernel, stride, padding, dilation, strict=True)
    options = (kind, FLOATS[x.dtype], layout is _LAST, not window, count_include_pad, divisor)
    return Prepared(cpu.C.pool, (cpu.C.PoolShape(n, c, h, w, *options), Address(x), Address(y), _address(indices)))


@prepares("max_pool")
def _max_pool(args, result, weights):
    x, window, output_size, want_indices = args
    y, indices = result
    return _pool(_MAX, x, y, indices if want_indices else None, window, output_size, True, 0)


@prepares("avg_pool")
def _avg_pool(args, y, weights):
    x, window, output_size, count_include_pad, divisor = args
    return _pool(_AVERAGE, x, y, None, window, output_size, count_include_pad, divisor)


@prepares("upsample")
def _upsample(args, y, weights):
    x, _, *rest = args
    layout = image_format(y)
    if not x.is_contiguous(memory_format=layout) or not y.is_contiguous(memory_format=layout):
        return None
    (n, c, *small), large = x.shape, y.shape[2:]
    shape, keep = upsampling(n, c, tuple(small), tuple(large), y.dtype, layout is _LAST, *rest)
    return Prepared(cpu.C.upsample_forward, (shape, Address(x), Address(y), _SCRATCH), shape.workspace(), keep=keep)


@prepares("upsample_bwd")
def _upsample_bwd(args, gx, weights):
    gy, _, *rest = args
    layout = image_format(gx)
    if not gy.is_contiguous(memory_format=layout) or not gx.is_contiguous(memory_format=layout):
        return None
    (n, c, *small), large = gx.shape, gy.shape[2:]
    shape, keep = upsampling(n, c, tuple(small), tuple(large), gx.dtype, layout is _LAST, *rest)
    return Prepared(cpu.C.upsample_backward, (shape, Address(gy), Address(gx), _SCRATCH), shape.workspace(), keep=keep)
