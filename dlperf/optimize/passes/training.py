"""Rewrites of a training step's graph, forward and backward in one: an operator's two halves change together."""

from __future__ import annotations

import operator

import torch
from torch import fx

from ._graph import aten, call, dtype, erase_unused, is_call, only_user, replace, same_shape, value, visible

_dlperf = torch.ops.dlperf
_ALIASES = (aten.detach.default, aten.alias.default, aten.lift_fresh.default)
_NORMS = (_dlperf.batch_norm_train.default,)


def remove_copies(graph: fx.Graph) -> int:
    """Aliases, and clones of what nobody else sees or writes."""
    seen, removed = None, 0
    for node in list(graph.nodes):
        if is_call(node, *_ALIASES):
            replace(node, node.args[0])
            removed += 1
            seen = None
        elif is_call(node, aten.clone.default, aten.copy.default):
            source = node.args[-1] if is_call(node, aten.copy.default) else node.args[0]
            if not isinstance(source, fx.Node) or source.op == "placeholder" or not _lie_alike(node, source):
                continue
            seen = visible(graph) if seen is None else seen
            if source not in seen or node not in seen:
                replace(node, source)
                removed += 1
    return removed


def _lie_alike(a: fx.Node, b: fx.Node) -> bool:
    x, y = value(a), value(b)
    same = isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) and dtype(a) is dtype(b) and same_shape(a, b)
    return same and x.stride() == y.stride()


def count_batches(graph: fx.Graph) -> int:
    """Batch norm layers count their batches one by one: all counters in one call."""
    found = [
        n
        for n in graph.nodes
        if is_call(n, aten.add_.Tensor)
        and not n.users
        and n.args[0].op == "placeholder"
        and len(n.args[0].users) == 1
        and n.args[1] == 1
        and dtype(n.args[0]) is torch.int64
    ]
    if len(found) < 2:
        return 0
    call(graph, found[0], aten._foreach_add_.Scalar, ([n.args[0] for n in found], 1))
    for node in found:
        graph.erase_node(node)
    return len(found)


def fuse_batch_norm_relu(graph: fx.Graph) -> int:
    """relu(batch_norm(x) + residual): the activation and the sum in batch norm's own pass, in both directions."""
    fused = 0
    for relu in list(graph.nodes):
        if not is_call(relu, _dlperf.activation.default) or relu.args[1] != "relu":
            continue
        backward = [u for u in relu.users if is_call(u, _dlperf.activation_bwd.default) and u.args[1] is relu]
        if len(backward) == 1 and backward[0].args[2] == "relu":
            fused += _fuse(graph, relu, backward[0])
    return fused


def _fuse(graph: fx.Graph, relu: fx.Node, masked: fx.Node) -> bool:
    """``masked``: the gradient before the activation."""
    before, residual = relu.args[0], None
    if is_call(before, aten.add.Tensor) and only_user(before) is relu and before.kwargs.get("alpha", 1) == 1:
        sides = [n for n in before.args if isinstance(n, fx.Node)]
        if len(sides) != 2 or not (same_shape(*sides) and dtype(sides[0]) is dtype(sides[1])):
            return False
        normed = next((n for n in sides if _is_normed(n) and only_user(n) is before), None)
        if normed is None:
            return False
        residual = sides[1] if normed is sides[0] else sides[0]
        if not _lie_alike(normed, residual):
            return False
    elif _is_normed(before) and only_user(before) is relu:
        normed = before
    else:
        return False
    norm = normed.args[0]
    x, weight, bias, _, eps, _ = norm.args
    behind = [u for u in masked.users if is_call(u, _dlperf.batch_norm_bwd.default) and u.args[1] is x]
    behind = [u for u in behind if u.args[0] is masked and u.args[2] is None and u.args[9][0]]
    if len(behind) != 1 or (residual is None and len(masked.users) != 1):
        return False

    statistics = [u for u in norm.users if u.args[1] > 0]
    order = {node: i for i, node in enumerate(graph.nodes)}
    early = {u for s in statistics for u in s.users if order[u] < order[relu]}
    if len(statistics) != 2 or not all(is_call(u, _dlperf.batch_norm_update.default) for u in early):
        return False

    new = call(graph, relu, _NORMS[0], (x, weight, bias, residual, eps, "relu"), like=norm)
    y = _item(graph, new, normed, relu)
    mean, var = (_item(graph, new, s, relu) for s in sorted(statistics, key=lambda s: s.args[1]))
    for user in early:
        relu.prepend(user)
    relu.replace_all_uses_with(y)
    old, gy = behind[0], masked.args[0]
    wanted = [*old.args[9][:3], residual is not None]
    args = (gy, x, y, mean, var, *old.args[5:9], wanted)
    grads = call(graph, masked, _dlperf.batch_norm_bwd.default, args, like=old)
    items = list(old.users)
    for item in items:
        _item(graph, grads, item, masked)
    if residual is not None:
        with graph.inserting_before(masked):
            through = graph.call_function(operator.getitem, (grads, 3))
        through.meta = dict(masked.meta)
        masked.replace_all_uses_with(through, delete_user_cb=lambda user: user is not old)
    erase_unused(*dict.fromkeys((*items, old, masked, relu, before, normed, *statistics, norm)))
    return True


def _item(graph: fx.Graph, new: fx.Node, old: fx.Node, before: fx.Node) -> fx.Node:
    """``new``'s item of the same number, in the place of ``old``."""
    with graph.inserting_before(before):
        item = graph.call_function(operator.getitem, (new, old.args[1]))
    item.meta = dict(old.meta)
    old.replace_all_uses_with(item)
    return item


def _is_normed(node: fx.Node) -> bool:
    """Batch norm's result, of one that ends in nothing yet."""
    if not is_call(node, operator.getitem) or node.args[1] != 0 or not is_call(node.args[0], *_NORMS):
        return False
    return node.args[0].args[3] is None and node.args[0].args[5] == "none"
