"""Lets the kernel that makes a tensor also add the residual and apply the activation that follow it.

y = act(op(x) + residual) in this order. A step is fused only where nothing else reads the value in between and the
function takes the argument.
"""

from __future__ import annotations

import functools
import inspect
import operator

import torch
from torch import fx

from ...nn import functional as F
from ...ops._epilogue import EPILOGUES
from ._graph import aten, call, dtype, erase_unused, is_call, only_user, replace, same_shape, shape

_CANDIDATES = ("conv1d", "conv2d", "conv2d_batch_norm", "linear", "matmul", "mm", "bmm", "batch_norm", "group_norm")
_ADDS = (aten.add.Tensor, operator.add, operator.iadd, torch.add)
_IN_PLACE = frozenset(f"i{name}" for name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "and", "or", "xor"))
_ACTIVATIONS = {
    aten.relu.default: "relu",
    aten.relu6.default: "relu6",
    aten.gelu.default: "gelu",
    aten.silu.default: "silu",
    aten.sigmoid.default: "sigmoid",
    aten.tanh.default: "tanh",
    aten.hardsigmoid.default: "hardsigmoid",
    aten.hardswish.default: "hardswish",
    aten.mish.default: "mish",
}


@functools.cache
def _fused_arguments(function) -> frozenset[str]:
    """Which of residual= and activation= a function takes."""
    if not any(function is getattr(F, name) for name in _CANDIDATES if name in F.__all__):
        return frozenset()
    return frozenset(inspect.signature(function).parameters) & {"residual", "activation"}


def fuse_residuals(graph: fx.Graph) -> int:
    fused = 0
    for node in list(graph.nodes):
        if not is_call(node, *_ADDS) or node.kwargs.get("alpha", 1) != 1 or len(node.args) != 2:
            continue
        # What an in-place add writes into may be read again, unless it is the producer's own result.
        orders = (node.args,) if node.target is operator.iadd else (node.args, node.args[::-1])
        for branch, other in orders:
            if _add_residual(graph, node, branch, other):
                fused += 1
                break
    return fused


def _add_residual(graph: fx.Graph, add: fx.Node, branch, other) -> bool:
    """add = branch + other, where branch is a producer, or a permutation of one."""
    if not (isinstance(branch, fx.Node) and isinstance(other, fx.Node)) or branch is other:
        return False
    if not same_shape(branch, other) or dtype(branch) is not dtype(other) or not same_shape(branch, add):
        return False
    permutation = None
    producer, reader = branch, add
    if is_call(branch, aten.permute.default) and only_user(branch) is add:
        rank = len(shape(branch))
        permutation = [d % rank for d in branch.args[1]]
        producer, reader = branch.args[0], branch
    if not _open(producer, "residual") or only_user(producer) is not reader or "activation" in producer.kwargs:
        return False
    if writes_between(producer, add):
        return False
    residual = other
    if permutation is not None:
        inverse = [permutation.index(d) for d in range(len(permutation))]
        residual = call(graph, add, aten.permute.default, (other, inverse), like=producer)
    new = call(graph, add, producer.target, producer.args, {**producer.kwargs, "residual": residual}, like=producer)
    if permutation is not None:
        new = call(graph, add, aten.permute.default, (new, permutation), like=add)
    replace(add, new)
    erase_unused(*dict.fromkeys((branch, producer)))
    return True


def fuse_activations(graph: fx.Graph) -> int:
    fused = 0
    for node in list(graph.nodes):
        kind = activation_kind(node)
        if kind is None or kind not in EPILOGUES:
            continue
        producer = node.args[0]
        if not _open(producer, "activation") or only_user(producer) is not node or writes_between(producer, node):
            continue
        new = call(graph, node, producer.target, producer.args, {**producer.kwargs, "activation": kind}, like=node)
        replace(node, new)
        erase_unused(producer)
        fused += 1
    return fused


def activation_kind(node) -> str | None:
    """The epilogue's name of an activation node, or None."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return None
    kind = _ACTIVATIONS.get(node.target)
    if kind is None:
        names = [k for k in EPILOGUES if k in F.__all__ and node.target is getattr(F, k)]
        kind = names[0] if names else None
    if kind == "gelu":
        return "gelu_tanh" if node.kwargs.get("approximate", "none") == "tanh" else "gelu"
    if kind is None or len(node.args) != 1 or any(node.kwargs.values()):
        return None
    return kind


def writes_between(first: fx.Node, last: fx.Node) -> bool:
    """Whether moving ``first`` down to ``last`` could pass a write into what it reads. Functional graphs have none."""
    node = first.next
    while node is not last:
        if _in_place(node):
            target = node.args[0] if node.args else None
            unrelated = (
                isinstance(target, fx.Node) and target.op == "placeholder" and target not in first.all_input_nodes
            )
            if not unrelated:
                return True
        node = node.next
    return False


def _in_place(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target.endswith("_") or node.target == "__setitem__"
    if node.op != "call_function" or isinstance(node.target, torch._ops.OpOverload):
        return False
    name = getattr(node.target, "__name__", "")
    return name == "setitem" or name in _IN_PLACE or name.endswith("_") or bool(node.kwargs.get("inplace"))


def _open(node, argument: str) -> bool:
    """A call that takes the argument and was not given it."""
    return (
        isinstance(node, fx.Node)
        and node.op == "call_function"
        and argument in _fused_arguments(node.target)
        and argument not in node.kwargs
    )
