"""What the passes share: reading a node's arguments and values, adding constants."""

from __future__ import annotations

import torch
from torch import Tensor, fx

aten = torch.ops.aten

# Results that share memory with an input, or are it.
VIEWS = frozenset(
    {
        aten.view.default,
        aten._unsafe_view.default,
        aten.reshape.default,
        aten.transpose.int,
        aten.permute.default,
        aten.t.default,
        aten.expand.default,
        aten.unsqueeze.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.slice.Tensor,
        aten.select.int,
        aten.split.Tensor,
        aten.split_with_sizes.default,
        aten.chunk.default,
        aten.unbind.int,
        aten.alias.default,
        aten.detach.default,
        aten.flatten.using_ints,
        aten.unflatten.int,
        aten.diagonal.default,
        aten.movedim.int,
        aten.contiguous.default,
        aten.to.dtype,
        aten.as_strided.default,
        aten.narrow.default,
        aten.unfold.default,
        aten.view_as.default,
        aten.expand_as.default,
        aten.swapaxes.default,
        aten.real.default,
        aten.view_as_real.default,
        aten.view_as_complex.default,
    }
)


def is_call(node, *targets) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def constant(node) -> Tensor | None:
    """The tensor that a placeholder stands for, or None."""
    return node.meta.get("constant") if isinstance(node, fx.Node) else None


def is_constant_or_none(node) -> bool:
    return node is None or constant(node) is not None


def value(node):
    """The example of a node's result: shape and dtype count, not the contents."""
    found = node.meta.get("val")
    return node.meta.get("example_value") if found is None else found


def shape(node) -> tuple | None:
    example = value(node) if isinstance(node, fx.Node) else None
    return tuple(example.shape) if isinstance(example, Tensor) else None


def dtype(node) -> torch.dtype | None:
    example = value(node) if isinstance(node, fx.Node) else None
    return example.dtype if isinstance(example, Tensor) else None


def same_shape(a, b) -> bool:
    """Equal for certain: symbolic sizes are compared as expressions, without adding a guard."""
    first, second = shape(a), shape(b)
    if first is None or second is None or len(first) != len(second):
        return False
    return all(_expression(x) == _expression(y) for x, y in zip(first, second, strict=True))


def _expression(size):
    return size.node.expr if isinstance(size, torch.SymInt) else size


def only_user(node) -> fx.Node | None:
    """The one node that reads this one, or None where there are more or less."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def arguments(node) -> dict:
    """A call's arguments by the names of its schema, defaults filled in."""
    schema = node.target._schema.arguments
    found = {a.name: a.default_value for a in schema if a.has_default_value()}
    found.update(zip((a.name for a in schema), node.args))  # noqa: B905 - trailing defaults are left out
    found.update(node.kwargs)
    return found


def add_constant(graph: fx.Graph, tensor: Tensor, name: str) -> fx.Node:
    first = next(iter(graph.nodes))
    with graph.inserting_before(first):
        node = graph.placeholder(name)
    node.meta["constant"] = node.meta["val"] = tensor
    return node


def call(
    graph: fx.Graph, before: fx.Node, target, args: tuple, kwargs: dict | None = None, like: fx.Node | None = None
):
    """A new call before ``before``; its example value is ``like``'s."""
    with graph.inserting_before(before):
        node = graph.call_function(target, args, kwargs or {})
    if like is not None:
        node.meta = dict(like.meta)
    return node


def replace(old: fx.Node, new: fx.Node) -> None:
    old.replace_all_uses_with(new)
    old.graph.erase_node(old)


def erase_unused(*nodes: fx.Node) -> None:
    """Those that nothing reads, last first. In graphs with in-place operators only the pass knows what is dead."""
    for node in nodes:
        if not node.users:
            node.graph.erase_node(node)


def visible(graph: fx.Graph) -> set[fx.Node]:
    """Nodes whose memory the caller can see: the inputs, constants, outputs and every view that ties a node to them."""
    group: dict[fx.Node, fx.Node] = {}

    def root(node):
        while group.get(node, node) is not node:
            node = group[node]
        return node

    for node in graph.nodes:
        if node.op == "call_function" and may_alias(node):
            for operand in node.all_input_nodes:
                group[root(operand)] = root(node)
    output = next(n for n in reversed(graph.nodes) if n.op == "output")
    seen = {root(n) for n in graph.nodes if n.op == "placeholder"} | {root(n) for n in output.all_input_nodes}
    return {n for n in graph.nodes if root(n) in seen}


def may_alias(node: fx.Node) -> bool:
    """Whether a call's result may share memory with an argument."""
    target = node.target
    if target in VIEWS or getattr(target, "__name__", "") == "getitem":
        return True
    schema = getattr(target, "_schema", None)
    return schema is None or any(a.alias_info is not None for a in (*schema.arguments, *schema.returns))
