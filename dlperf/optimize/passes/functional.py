"""In-place operators as functional ones where that is plain to see: the tracer's own way costs a second trace."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx

from ._graph import arguments, aten, call, dtype, may_alias, replace, same_shape


def make_functional(graph: fx.Graph, effects: Collection[fx.Node] = ()) -> bool:
    """Rewrites the graph without in-place operators and returns True, or leaves it as it is and returns False.

    ``effects``: those that stay, which write into memory that the rest of the graph does not write into.
    """
    order = {node: index for index, node in enumerate(graph.nodes)}
    memory: dict[fx.Node, fx.Node] = {}  # whose memory a result is in
    same: set[fx.Node] = set()  # results that are that memory as a whole: what in-place operators return
    members: dict[fx.Node, list[fx.Node]] = {}
    writes: list[tuple[fx.Node, object]] = []
    items: dict[tuple, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            return False
        source = node
        if node.op == "call_function":
            if not isinstance(node.target, torch._ops.OpOverload):
                if node.target.__module__ != "_operator":
                    return False
            elif node in effects:
                pass
            elif node.target._schema.is_mutable:
                functional = _functional(node)
                if functional is None or not (memory[node.args[0]] is node.args[0] or node.args[0] in same):
                    return False  # a write into a view is one into what it shows, too
                same.add(node)
                writes.append((node, functional))
                source = memory[node.args[0]]
            elif _is_item_of_new(node):
                source = items.setdefault(node.args, node)
            elif may_alias(node) and node.all_input_nodes:
                roots = {memory[n] for n in node.all_input_nodes}
                if len(roots) > 1 and writes:
                    return False
                source = memory[node.all_input_nodes[0]]
        memory[node] = source
        members.setdefault(source, []).append(node)
    for node, _ in writes:
        written = memory[node.args[0]]
        if written.op != "call_function":
            return False
        direct = {written, *(w for w, _ in writes if memory[w] is written)}
        for view in members[written]:
            # A view made before the write, read after it.
            if view not in direct and order[view] < order[node] and any(order[u] > order[node] for u in view.users):
                return False
    for node, functional in writes:
        target, later = node.args[0], [u for u in node.args[0].users if order[u] > order[node]]
        new = call(graph, node, functional, node.args, dict(node.kwargs), like=node)
        order[new] = order[node]
        for user in later:
            user.replace_input_with(target, new)
        replace(node, new)
    return True


def _is_item_of_new(node: fx.Node) -> bool:
    """One of several results, each in memory of its own."""
    if getattr(node.target, "__name__", "") != "getitem" or not isinstance(node.args[0], fx.Node):
        return False
    made = node.args[0]
    return made.op == "call_function" and isinstance(made.target, torch._ops.OpOverload) and not may_alias(made)


# Where the functional operator's overload has another name: torch's dropout draws its mask so.
_OVERLOADS = {aten.bernoulli_.float: "p"}


def _functional(node: fx.Node):
    """The operator that computes what an in-place one writes, or None where the two may differ."""
    name, overload = node.target._schema.name.partition("::")[2], node.target._overloadname
    writes = [a.name for a in node.target._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    packet = getattr(aten, name[:-1], None) if name.endswith("_") and not name.endswith("__") else None
    functional = getattr(packet, _OVERLOADS.get(node.target, overload), None) if packet is not None else None
    if functional is None or len(writes) != 1 or not node.args:
        return None
    given = arguments(node)
    if given.get(writes[0]) is not node.args[0] or not same_shape(node, node.args[0]):
        return None
    kinds = {dtype(n) for n in node.all_input_nodes}
    floating = dtype(node) is not None and dtype(node).is_floating_point
    scalars = all(not isinstance(v, complex) for v in given.values())
    if kinds != {dtype(node)} or not floating or not scalars:
        return None  # the functional operator may promote where the other keeps its dtype
    return functional if {a.name for a in functional._schema.arguments} == set(given) else None
