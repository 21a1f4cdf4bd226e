"""Steps made from what an operator's CPU implementation was seen to call, instead of by rules of their own.

Only for operators whose implementation does nothing else than call kernels that a sequence can run.
"""

from __future__ import annotations

from torch import Tensor

from ..backends import cpu
from .prepared import Address, Prepared, leaves

OPERATORS = frozenset(
    {
        "activation_bwd",
        "add",
        "attention",
        "attention_bwd",
        "avg_pool_bwd",
        "batch_norm_bwd",
        "batch_norm_train",
        "batch_norm_update",
        "bmm",
        "channel_sum",
        "conv2d_bwd_input",
        "conv2d_bwd_weight",
        "conv_transpose2d",
        "dropout",
        "glu",
        "glu_bwd",
        "group_norm_bwd",
        "layer_norm_bwd",
        "linear",
        "max_pool_bwd",
        "pixel_shuffle",
        "pixel_unshuffle",
        "rms_norm_bwd",
        "softmax_bwd",
    }
)

# These take operands of any strides.
_STRIDED = frozenset({"attention", "attention_bwd", "batch_norm_update", "bmm", "linear"})


def wants_dense(target) -> bool:
    """Whether an operator's kernels read memory without gaps."""
    name = target._schema.name.partition("::")[2]
    return target.namespace == "dlperf" and (name in OPERATORS - _STRIDED or name == "conv2d")


# Integers below are sizes and the like: the first pages of memory are nobody's.
_LEAST_ADDRESS = 1 << 32


def tape():
    """Collects the calls of kernels inside a ``with`` block."""
    return cpu.C.Tape()


def prepare(calls: list[tuple], args: tuple, result) -> list[Prepared] | None:
    """The calls as steps, in order; None where one was given memory that is neither an operand's nor a result's."""
    tensors = [t for t in leaves((args, result), Tensor) if t.numel()]
    found: list[Prepared] = []
    scratch = at = 0
    for name, *given in calls:
        if name == "scratch":
            scratch, at = given
            continue
        operands = []
        for value in given:
            if type(value) is int and value >= _LEAST_ADDRESS:
                value = Address(None, value - at) if at <= value < at + scratch else _in(tensors, value)
                if value is None:
                    return None
            operands.append(value)
        found.append(Prepared(getattr(cpu.C, name), tuple(operands), scratch))
    return found or None


def _in(tensors: list[Tensor], address: int) -> Address | None:
    for t in tensors:
        offset = address - t.data_ptr()
        extent = 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
        if 0 <= offset < extent * t.itemsize:
            return Address(t, offset)
    return None
