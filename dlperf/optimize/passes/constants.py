"""Computes what depends on no input once, when the plan is made."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx

from ._graph import add_constant, aten, call, constant, is_call, may_alias

# A folded result may be at most this much larger than the constants it comes from.
_GROWTH_BYTES = 64 << 20


def fold_constants(graph: fx.Graph) -> int:
    known: dict[fx.Node, object] = {n: constant(n) for n in graph.nodes if constant(n) is not None}
    fresh: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op != "call_function" or not _foldable(node, known):
            continue
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda n: known[n])
        with torch.no_grad():
            result = node.target(*args, **kwargs)
        if _bytes(result) > _GROWTH_BYTES + sum(_bytes(known[n]) for n in node.all_input_nodes):
            continue
        known[node] = result
        if not may_alias(node) or any(n in fresh for n in node.all_input_nodes):
            fresh.add(node)

    folded = [n for n in known if n.op == "call_function"]
    output = next(n for n in reversed(graph.nodes) if n.op == "output")
    for node in folded:
        used = [u for u in node.users if u not in known]
        if not used or not isinstance(known[node], Tensor):
            continue
        new = add_constant(graph, known[node], f"folded_{node.name}")
        for user in used:
            # What the model would have made anew for each call, the caller may write into.
            copy = user is output and node in fresh
            user.replace_input_with(node, call(graph, user, aten.clone.default, (new,), like=node) if copy else new)
    graph.eliminate_dead_code()
    return len(folded)


def _foldable(node: fx.Node, known: dict) -> bool:
    if any(n not in known for n in node.all_input_nodes):
        return False
    if is_call(node, operator.getitem):
        return True
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or node.is_impure():
        return False
    if torch.Tag.nondeterministic_seeded in target.tags:
        return False
    return all(isinstance(r.type, (torch.TensorType, torch.ListType, torch.TupleType)) for r in target._schema.returns)


def _bytes(result) -> int:
    if isinstance(result, Tensor):
        return result.untyped_storage().nbytes()
    return sum(map(_bytes, result)) if isinstance(result, (tuple, list)) else 0
