"""Joins linear layers that read the same tensor, as attention's q, k and v do, into one with their rows stacked."""

from __future__ import annotations

import torch
from torch import fx

from ._graph import VIEWS, add_constant, arguments, aten, call, constant, dtype, is_call, is_constant_or_none

_ATTENTION = frozenset(
    {aten.scaled_dot_product_attention.default, aten.matmul.default, aten.bmm.default, aten.baddbmm.default}
)
# Elementwise steps on the way to the product, which leave the layout alone.
_THROUGH = frozenset({aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.layer_norm.default})


def join_projections(graph: fx.Graph) -> int:
    by_input: dict[tuple, list[fx.Node]] = {}
    for node in graph.nodes:
        if not is_call(node, aten.linear.default):
            continue
        given = arguments(node)
        weight = constant(given["weight"])
        if weight is None or weight.dim() != 2 or not is_constant_or_none(given["bias"]):
            continue
        if _feeds_attention(node):
            by_input.setdefault((given["input"], weight.dtype), []).append(node)
    joined = 0
    for nodes in by_input.values():
        if len(nodes) > 1:
            _join(graph, nodes)
            joined += 1
    graph.eliminate_dead_code()
    return joined


def _feeds_attention(node: fx.Node) -> bool:
    """Every reader gets to a product of attention through views: a strided result costs nothing there."""
    readers = list(node.users)
    for _ in range(8):
        if not readers or any(r.op != "call_function" for r in readers):
            return False
        if all(r.target in _ATTENTION for r in readers):
            return True
        if any(r.target not in VIEWS and r.target not in _THROUGH and r.target not in _ATTENTION for r in readers):
            return False
        readers = [u for r in readers if r.target not in _ATTENTION for u in r.users]
    return False


def _join(graph: fx.Graph, nodes: list[fx.Node]) -> None:
    weights = [constant(n.args[1]) for n in nodes]
    biases = [constant(arguments(n)["bias"]) for n in nodes]
    rows = [w.shape[0] for w in weights]
    bias = None
    if any(b is not None for b in biases):
        parts = [w.new_zeros(w.shape[0]) if b is None else b for w, b in zip(weights, biases, strict=True)]
        bias = add_constant(graph, torch.cat(parts), f"{nodes[0].name}_joined_bias")
    weight = add_constant(graph, torch.cat(weights), f"{nodes[0].name}_joined_weight")
    joined = call(graph, nodes[0], aten.linear.default, (nodes[0].args[0], weight, bias))
    first = nodes[0].meta["val"]
    joined.meta["val"] = first.new_empty((*first.shape[:-1], sum(rows)))
    assert dtype(joined) is dtype(nodes[0])
    start = 0
    for node, count in zip(nodes, rows, strict=True):
        part = call(graph, nodes[0], aten.slice.Tensor, (joined, -1, start, start + count), like=node)
        node.replace_all_uses_with(part)
        start += count
