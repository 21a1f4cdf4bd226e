"""Steps that write where they are told: kernels called directly, all but the addresses worked out beforehand.

``prepare`` gives one for an operator call that was seen, or None: then the plan calls the operator's function, which
allocates its result. Weights that a kernel wants packed are packed here, once per plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import backends
from ..backends import cpu
from ..backends.cpu._library import FLOATS
from ..backends.cpu.activation import _CODE
from ..backends.cpu.attention import _shape_of as _attention_shape
from ..backends.cpu.batch_norm import _plan as _batch_norm_plan
from ..backends.cpu.conv import _FORWARD
from ..backends.cpu.conv import _plan_for as _conv_plan
from ..backends.cpu.group_norm import _shape_of as _group_norm_shape
from ..backends.cpu.layer_norm import _shape as _row_norm_shape
from ..backends.cpu.matmul import _plan as _product_plan
from ..backends.cpu.pool import _AVERAGE, _MAX
from ..backends.cpu.pool import _shape as _pool_shape
from ..backends.cpu.softmax import _shape as _softmax_shape
from ..ops.batch_norm import memory_format
from ..ops.pool import channels_last as _lies_channels_last

aten = torch.ops.aten


@dataclass(frozen=True)
class Address:
    """An operand of a kernel: where a tensor starts, plus bytes; ``of=None`` is the scratch memory."""

    of: object
    offset: int = 0


@dataclass(frozen=True)
class Prepared:
    """``function(*operands)`` fills the step's results.

    Attributes:
        scratch: bytes of scratch memory, 64-byte aligned, that hold nothing between steps.
        any_address: whether results outside the arena can be written too (addresses are looked up per call).
    """

    function: Callable
    operands: tuple
    scratch: int = 0
    any_address: bool = True

    def referring(self, refer: Callable) -> Prepared:
        """With tensors replaced by the plan's values."""

        def convert(x):
            if isinstance(x, Address):
                return x if x.of is None else Address(refer(x.of), x.offset)
            return refer(x)

        return replace(self, operands=tuple(convert(o) for o in self.operands))


_PREPARE: dict[str, Callable] = {}


def prepares(*names: str):
    def register(function):
        for name in names:
            _PREPARE[name] = function
        return function

    return register


class Weights:
    """What a plan knows of its constants: which tensors they are, and their packed forms, which plans share."""

    def __init__(self):
        self.packs: dict[tuple, tuple[Tensor, Tensor]] = {}
        self.constant: Callable[[Tensor], bool] = lambda tensor: False

    def pack(self, weight: Tensor, key: tuple, bytes: int, fill: Callable[[int, int], None]) -> Tensor | None:
        """A constant weight packed by ``fill(weight's address, packed's address)``; None for other tensors."""
        if not bytes or not self.constant(weight):
            return None
        key = (weight.data_ptr(), weight.shape, weight.stride(), weight.dtype, cpu.C.isa(), *key)
        found = self.packs.get(key)
        if found is None:
            storage = torch.empty(bytes + _PACK_ALIGN, dtype=torch.uint8)
            packed = storage[-storage.data_ptr() % _PACK_ALIGN :]
            fill(weight.data_ptr(), packed.data_ptr())
            found = self.packs[key] = (packed, weight)  # the weight keeps its address
        return found[0]


_PACK_ALIGN = 64


def prepare(target, served_by: str, args: tuple, kwargs: dict, result, weights: Weights) -> Prepared | None:
    """For a call of ``target`` that gave ``result``: how to do it into given memory, or None."""
    outs = [r for r in (result if isinstance(result, (tuple, list)) else [result]) if r is not None]
    if not all(r.is_cpu and r.numel() for r in outs):
        return None
    if target.namespace == "dlperf":
        found = _PREPARE.get(target._schema.name.partition("::")[2])
        return found(args, result, weights) if found is not None and served_by == "cpu" and not kwargs else None
    native = _NATIVE.get(target) if cpu.C is not None and backends.named() in (None, "cpu") else None
    if native is not None:
        prepared = native(args, kwargs, result)
        if prepared is not None:
            return prepared
    if target in _COPIES:
        return Prepared(Tensor.copy_, (result, args[0]), any_address=False) if args[0].shape == result.shape else None
    function = _OUT_VARIANTS.get(target)
    if function is None:
        return None
    return Prepared(_Into(function, tuple(kwargs.items())), (result, *args), any_address=False)


def restrided(x: Tensor, size, stride, dtype) -> Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device=x.device).copy_(x)


class _Into:
    """function(*args, out=out, **kwargs), called as (out, *args)."""

    __slots__ = ("function", "kwargs")

    def __init__(self, function, kwargs):
        self.function, self.kwargs = function, dict(kwargs)

    def __call__(self, out, *args):
        self.function(*args, out=out, **self.kwargs)


_COPIES = frozenset({aten.contiguous.default, aten.clone.default, aten._to_copy.default, aten.to.dtype})
_OUT_VARIANTS = {
    aten.add.Tensor: torch.add,
    aten.sub.Tensor: torch.sub,
    aten.mul.Tensor: torch.mul,
    aten.div.Tensor: torch.div,
    aten.cat.default: torch.cat,
}

# Python's binding of an operator, where it is quicker to call than the dispatcher's own.
_FAST = {
    aten.view.default: Tensor.view,
    aten.reshape.default: Tensor.reshape,
    aten.transpose.int: Tensor.transpose,
    aten.permute.default: Tensor.permute,
    aten.unsqueeze.default: Tensor.unsqueeze,
    aten.add.Tensor: torch.add,
    aten.sub.Tensor: torch.sub,
    aten.mul.Tensor: torch.mul,
    aten.div.Tensor: torch.div,
    aten.sigmoid.default: torch.sigmoid,
    aten.cat.default: torch.cat,
}


def fast_call(function):
    return _FAST.get(function, function) if isinstance(function, torch._ops.OpOverload) else function


def _pointwise(kernel):
    """For torch's operators on two tensors that lie in one order."""

    def prepare(args, kwargs, y):
        a, b = args[:2]
        if not isinstance(b, Tensor) or not a.dtype is b.dtype is y.dtype or y.dtype not in FLOATS:
            return None
        if not a.stride() == b.stride() == y.stride() or a.shape != b.shape:
            return None
        head = (FLOATS[y.dtype], y.numel(), Address(a), Address(b))
        return Prepared(*kernel(head, Address(y), kwargs))

    return prepare


def _to_channels_last(args, kwargs, y):
    x = args[0]
    if kwargs.get("memory_format") is not torch.channels_last or not x.is_contiguous() or y.dtype not in FLOATS:
        return None
    n, c, h, w = x.shape
    return Prepared(cpu.C.transpose, (Address(x), Address(y), n, c, h * w, x.itemsize))


_NATIVE = {
    aten.add.Tensor: _pointwise(lambda head, y, kwargs: (cpu.C.add, (*head, kwargs.get("alpha", 1), False, y))),
    aten.mul.Tensor: _pointwise(lambda head, y, kwargs: (cpu.C.multiply, (*head, y))),
    aten.contiguous.default: _to_channels_last,
}


# --- dlperf's CPU kernels -------------------------------------------------------------------------------------------

_SCRATCH = Address(None)


def _address(tensor: Tensor | None):
    return 0 if tensor is None else Address(tensor)


def _dense(*tensors: Tensor | None) -> bool:
    return all(t is None or t.is_contiguous() for t in tensors)


@prepares("linear")
def _linear(args, y, weights):
    x, weight, bias, residual, kind = args
    if x.dim() < 2 or not _dense(bias):
        return None
    return _product(x, weight.t(), bias, residual, 1.0, 1.0, kind, y, weights)


@prepares("bmm")
def _bmm(args, y, weights):
    a, b, bias, input, beta, alpha, kind = args
    return _product(a, b, bias, input, beta, alpha, kind, y, weights) if _dense(bias) else None


def _product(a, b, bias, residual, beta, alpha, kind, y, weights):
    residual = None if beta == 0 else residual
    strides = None if residual is None else residual.stride()
    threads = torch.get_num_threads()
    layout = (a.shape, a.stride(), b.shape, b.stride(), strides, beta, alpha, kind, a.dtype, cpu.C.isa(), threads)
    found = _product_plan(*layout)
    if found is None or found[0] is None or found[2] is not None:
        return None
    shape, scratch, _ = found
    packed = None
    if b.dim() == 2:
        packed = weights.pack(
            b, ("gemm",), cpu.C.gemm_pack_bytes(shape), lambda source, target: cpu.C.gemm_pack_b(shape, source, target)
        )
    if packed is not None:
        scratch = cpu.C.gemm_workspace_bytes(shape, threads, True)
    second = Address(b if packed is None else packed)
    operands = (shape, Address(a), second, _address(bias), _address(residual), Address(y), _SCRATCH, threads)
    return Prepared(cpu.C.gemm, (*operands, packed is not None), scratch)


@prepares("conv2d")
def _conv2d(args, y, weights):
    x, weight, bias, residual, stride, padding, dilation, groups, kind = args
    if not _dense(bias) or not all(
        t is None or t.is_contiguous(memory_format=torch.channels_last) for t in (x, y, residual)
    ):
        return None
    threads = torch.get_num_threads()
    shape, scratch = _conv_plan(_FORWARD, x, y, weight, stride, padding, dilation, groups, kind, threads)
    key = ("conv2d", tuple(stride), tuple(padding), tuple(dilation), groups)
    packed = weights.pack(
        weight,
        key,
        cpu.C.conv2d_pack_bytes(shape, _FORWARD),
        lambda source, target: cpu.C.conv2d_pack(shape, _FORWARD, source, target),
    )
    if packed is not None:
        scratch = cpu.C.conv2d_workspace_bytes(shape, _FORWARD, threads, True)
    second = Address(weight if packed is None else packed)
    operands = (shape, Address(x), second, _address(bias), _address(residual), Address(y), _SCRATCH, threads)
    return Prepared(cpu.C.conv2d_forward, (*operands, packed is not None), scratch)


@prepares("layer_norm")
def _layer_norm(args, result, weights):
    x, weight, bias, dims, eps = args
    if not _dense(x, weight, bias):
        return None
    affine = weight if weight is not None else bias
    shape = _row_norm_shape(x.shape, dims, x.dtype, x.dtype if affine is None else affine.dtype, False, eps)
    return Prepared(cpu.C.row_norm_forward, (shape, *map(_address, (x, weight, bias, *result))))


@prepares("rms_norm")
def _rms_norm(args, result, weights):
    x, weight, dims, eps = args
    if not _dense(x, weight):
        return None
    shape = _row_norm_shape(x.shape, dims, x.dtype, x.dtype if weight is None else weight.dtype, True, eps)
    return Prepared(cpu.C.row_norm_forward, (shape, *map(_address, (x, weight, None, *result))))


@prepares("group_norm")
def _group_norm(args, result, weights):
    x, weight, bias, groups, eps, kind = args
    y, stats = result
    if not _dense(weight, bias) or x.stride() != y.stride():
        return None
    shape = _group_norm_shape(y, weight, bias, groups, eps, kind)
    operands = (shape, *map(_address, (x, weight, bias, y, stats)), _SCRATCH)
    return Prepared(cpu.C.group_norm_forward, operands, shape.workspace())


@prepares("attention")
def _attention(args, result, weights):
    q, k, v, mask, rng, causal, scale, dropout_p = args
    out, stats = result
    if rng is not None or any(t.stride(3) != 1 and t.shape[3] > 1 for t in (q, k, v)):
        return None
    shape = _attention_shape(q, k, v, mask, out, causal, scale, dropout_p)
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


@prepares("batch_norm_eval")
def _batch_norm(args, y, weights):
    x, mean, var, weight, bias, residual, eps, kind = args
    layout = memory_format(x)
    if not _dense(weight, bias, mean, var) or not all(
        t is None or t.is_contiguous(memory_format=layout) for t in (x, y, residual)
    ):
        return None
    affine = weight if weight is not None else bias
    affine_dtype = torch.float32 if affine is None else affine.dtype
    last = layout is not torch.contiguous_format
    shape, scratch = _batch_norm_plan(x.shape, x.dtype, affine_dtype, mean.dtype, last, torch.get_num_threads())
    operands = (shape, *map(_address, (x, residual, y, weight, bias, mean, var)), eps, _CODE[kind], 0.0, False)
    return Prepared(cpu.C.batch_norm, (*operands, _SCRATCH), scratch)


def _pool(kind, x, y, indices, window, output_size, count_include_pad, divisor):
    last = _lies_channels_last(x)
    if not x.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format):
        return None
    geometry = (x.shape, tuple(output_size), tuple(window), x.dtype, last, count_include_pad, divisor)
    return Prepared(cpu.C.pool, (_pool_shape(kind, *geometry), Address(x), Address(y), _address(indices)))


@prepares("max_pool")
def _max_pool(args, result, weights):
    x, window, output_size, want_indices = args
    y, indices = result
    return _pool(_MAX, x, y, indices if want_indices else None, window, output_size, True, 0)


@prepares("avg_pool")
def _avg_pool(args, y, weights):
    x, window, output_size, count_include_pad, divisor = args
    return _pool(_AVERAGE, x, y, None, window, output_size, count_include_pad, divisor)


@prepares("softmax")
def _softmax(args, y, weights):
    x, dim, logarithm = args
    if not _dense(x, y):
        return None
    shape = _softmax_shape(tuple(x.shape), dim)
    return Prepared(cpu.C.softmax_forward, (FLOATS[x.dtype], shape, logarithm, Address(x), Address(y)))
