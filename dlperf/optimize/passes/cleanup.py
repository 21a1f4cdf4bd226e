"""Removes what computes nothing at inference: assertions on metadata, dropout, copies that nobody can tell."""

from __future__ import annotations

import operator

from torch import fx

from ._graph import arguments, aten, call, dtype, is_call, replace, value, visible

_DROPOUTS = (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default)
_COPIES = (aten.clone.default, aten.contiguous.default, aten.lift_fresh_copy.default)
_SAME = (aten.detach.default, aten.alias.default, aten.lift_fresh.default)


def remove_assertions(graph: fx.Graph) -> int:
    """Dtypes, devices and layouts are part of the plan's key."""
    found = [n for n in graph.nodes if is_call(n, aten._assert_tensor_metadata.default)]
    for node in found:
        graph.erase_node(node)
    return len(found)


def remove_identities(graph: fx.Graph) -> int:
    """Dropout in eval mode, detach, casts to the same dtype, and copies where caller and model see at most one side."""
    removed = 0
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if is_call(node, *_SAME) or (is_call(node, *_DROPOUTS) and not arguments(node)["train"]):
            copies = False
        elif is_call(node, aten.clone.default, aten.lift_fresh_copy.default):
            copies = True
        elif is_call(node, aten._to_copy.default, aten.to.dtype) and _same_kind(node):
            copies = is_call(node, aten._to_copy.default)
        else:
            continue
        source = node.args[0]
        if copies and {node, source} <= visible(graph):
            continue
        replace(node, source)
        removed += 1
    return removed


def _same_kind(node: fx.Node) -> bool:
    given = arguments(node)
    wanted, source = given.get("dtype"), dtype(node.args[0])
    if source is None or (wanted is not None and wanted is not source):
        return False
    device = given.get("device")
    return (device is None or device == value(node.args[0]).device) and given.get("memory_format") is None


def single_output_batch_norm(graph: fx.Graph) -> int:
    """Inference batch norm returns empty statistics beside its result: afterwards it is one node with one result."""
    found = [n for n in graph.nodes if is_call(n, aten._native_batch_norm_legit_no_training.default)]
    for node in found:
        given = arguments(node)
        if any(not is_call(u, operator.getitem) or (u.args[1] != 0 and u.users) for u in node.users):
            continue
        args = tuple(given[k] for k in ("input", "weight", "bias", "running_mean", "running_var"))
        first = next((u for u in node.users if u.args[1] == 0), None)
        if first is None:
            continue
        new = call(
            graph, node, aten.batch_norm.default, (*args, False, given["momentum"], given["eps"], False), like=first
        )
        first.replace_all_uses_with(new)
    graph.eliminate_dead_code()
    return len(found)
