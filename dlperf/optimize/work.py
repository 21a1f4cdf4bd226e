"""What a run computes and which kernels serve it, in multiply-adds: products of matrices, convolutions, attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .. import backends


@dataclass(frozen=True)
class Work:
    """One operator call: its name, the backend that served it or "torch", its multiply-adds."""

    name: str
    served_by: str
    multiply_adds: int


def share_served(work: Iterable[Work]) -> float | None:
    """The share of multiply-adds that dlperf's kernels serve; None where there are none."""
    by_server = Counter()
    for w in work:
        by_server[w.served_by] += w.multiply_adds
    total = by_server.total()
    return (total - by_server["torch"] - by_server["reference"]) / total if total else None


class CountWork(TorchDispatchMode):
    """Collects the work of everything that runs inside the block."""

    def __init__(self):
        super().__init__()
        self.work: list[Work] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace != "dlperf":
            result = func(*args, **(kwargs or {}))
            served_by = "torch"
        else:
            with backends.trace() as traced:
                result = func(*args, **(kwargs or {}))
            outer = backends._state.trace
            if outer is not None:
                outer.extend(traced)
            served_by = traced[0][1] if traced else "torch"
        name = func._schema.name.partition("::")[2]
        count = multiply_adds(name, args, result)
        if count or func.namespace == "dlperf":
            self.work.append(Work(f"{func.namespace}.{name}", served_by, count))
        return result


def _linear(args, out):
    return out.numel() * args[1].shape[-1]


def _product(first, second):
    def count(args, out):
        return out.numel() * args[first].shape[-1]

    return count


def _convolution(args, out):
    return out.numel() * prod(args[1].shape[1:])


def _transposed(args, out):
    return args[0].numel() * prod(args[1].shape[1:])


def _aten_convolution(args, out):
    return _transposed(args, out) if args[6] else _convolution(args, out)


def _attention(args, out):
    q, k, v = args[:3]
    return prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _einsum(args, out):
    equation, operands = args[:2]
    terms = equation.replace(" ", "").split("->")[0].split(",")
    if len(terms) != 2 or "." in equation:
        return 0
    sizes = {
        letter: n for term, x in zip(terms, operands, strict=True) for letter, n in zip(term, x.shape, strict=True)
    }
    return prod(sizes.values())


def _recurrent(args, out):
    """Of torch's whole layers: each step's product with every matrix among the weights, which are the last list."""
    weights = [a for a in args if isinstance(a, (list, tuple))][-1]
    return args[0].shape[:-1].numel() * sum(w.numel() for w in weights if w.dim() == 2)


def _one_direction(first):
    def count(args, out):
        return args[0].shape[:-1].numel() * (args[first].numel() + args[first + 1].numel())

    return count


_COUNTS = {
    "recurrent": _one_direction(3),
    "mkldnn_rnn_layer": _one_direction(1),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _recurrent),
    "linear": _linear,
    "mm": _product(0, 1),
    "bmm": _product(0, 1),
    "matmul": _product(0, 1),
    "addmm": _product(1, 2),
    "baddbmm": _product(1, 2),
    "einsum": _einsum,
    "convolution": _aten_convolution,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "conv_transpose1d": _transposed,
    "conv_transpose2d": _transposed,
    "scaled_dot_product_attention": _attention,
    "attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
}


def multiply_adds(name: str, args: tuple, result) -> int:
    """Of one call of ``aten.<name>`` or ``dlperf.<name>``; 0 for what is no product."""
    count = _COUNTS.get(name)
    out = result[0] if isinstance(result, (tuple, list)) else result
    if count is None or not isinstance(out, Tensor):
        return 0
    return count(args, out)
