"""torch's whole recurrent layers, taken apart into dlperf's layers of one direction."""

from __future__ import annotations

import operator

from torch import fx

from ...nn import functional as F
from ._graph import arguments, aten, call, dtype, value

# The layer's function, its states, and what it is told.
_LAYERS = {
    aten.lstm.input: (F.lstm_layer, 2, {}),
    aten.gru.input: (F.gru_layer, 1, {}),
    aten.rnn_tanh.input: (F.rnn_layer, 1, {"nonlinearity": "tanh"}),
    aten.rnn_relu.input: (F.rnn_layer, 1, {"nonlinearity": "relu"}),
}


def lower_recurrent(graph: fx.Graph) -> int:
    """Layers in both directions, batch first or not; not packed sequences, nor LSTMs with a projection."""
    lowered = 0
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _LAYERS and _lower(graph, node):
            lowered += 1
    return lowered


def _lower(graph: fx.Graph, node: fx.Node) -> bool:
    function, count, options = _LAYERS[node.target]
    given = arguments(node)
    weights, directions = given["params"], 1 + given["bidirectional"]
    each, layers = (4 if given["has_biases"] else 2), given["num_layers"]
    readers = list(node.users)
    if (
        len(weights) != each * layers * directions
        or (given["train"] and given["dropout"] > 0)
        or dtype(given["input"]) is None
        or not dtype(given["input"]).is_floating_point
        or any(reader.target is not operator.getitem for reader in readers)
    ):
        return False

    def add(target, *args, **kwargs):
        return call(graph, node, target, args, kwargs)

    starts = given["hx"] if count == 2 else [given["hx"]]
    x = add(aten.transpose.int, given["input"], 0, 1) if given["batch_first"] else given["input"]
    ends: list[list[fx.Node]] = [[] for _ in starts]
    for layer in range(layers):
        outputs = []
        for direction in range(directions):
            at = layer * directions + direction
            start = [add(aten.select.int, state, 0, at) for state in starts]
            found = add(function, x, *start, *weights[at * each : (at + 1) * each], reverse=direction == 1, **options)
            outputs.append(add(operator.getitem, found, 0))
            for i, states in enumerate(ends):
                states.append(add(operator.getitem, found, i + 1))
        x = outputs[0] if directions == 1 else add(aten.cat.default, outputs, -1)
    output = add(aten.transpose.int, x, 0, 1) if given["batch_first"] else x
    for reader in readers:
        index = reader.args[1]
        result = output if index == 0 else add(aten.stack.default, ends[index - 1])
        result.meta = {**reader.meta, "val": value(reader)}
        reader.replace_all_uses_with(result)
        graph.erase_node(reader)
    graph.erase_node(node)
    return True
