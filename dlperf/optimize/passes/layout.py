"""Channels last from layer to layer: each convolution's input is brought there once, nothing in between goes back."""

from __future__ import annotations

import torch
from torch import fx

from ...nn import functional as F
from ._graph import add_constant, aten, call, constant, is_call, replace, shape


def channels_last(graph: fx.Graph) -> int:
    """Inserts the conversion before convolutions, one per tensor; it does nothing where the layout is there already."""
    convolutions = {aten.conv2d.default, aten.conv_transpose2d.input, F.conv2d, F.conv_transpose2d}
    converted: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in convolutions:
            continue
        x = node.args[0]
        if len(shape(x) or ()) != 4:
            continue
        if x not in converted:
            keywords = {"memory_format": torch.channels_last}
            converted[x] = call(graph, node, aten.contiguous.default, (x,), keywords, like=x)
        node.replace_input_with(x, converted[x])
        weight = constant(node.args[1])
        if shape(x)[1] == 1 and weight is not None and weight.dim() == 4:
            # One channel lies alike in both layouts, so nothing was converted: the weight tells which is meant.
            last = torch.empty(weight.shape, dtype=weight.dtype, memory_format=torch.channels_last).copy_(weight)
            node.replace_input_with(node.args[1], add_constant(graph, last, "weight_last"))
    return len(converted)


def free_views(graph: fx.Graph) -> int:
    """view asks for a layout that may have changed; reshape takes any."""
    found = [n for n in graph.nodes if is_call(n, aten.view.default, aten._unsafe_view.default)]
    for node in found:
        replace(node, call(graph, node, aten.reshape.default, node.args, dict(node.kwargs), like=node))
    return len(found)
