"""A training step's forward and backward as two flat graphs.

One call of the model, and autograd's pass back through it, are traced on real tensors (torch's ``make_fx``). What
depends on the results' gradients is the backward graph, the rest the forward; values that cross over are saved, views
of them made again.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx
from torch import nn as torch_nn
from torch.fx.experimental.proxy_tensor import make_fx

from ..ops._frame import capturing
from . import passes
from .capture import Program
from .passes._graph import may_alias
from .passes.functional import make_functional
from .structure import Unsupported, flatten_result, rebuild_arguments, same_containers
from .swap import swap_layers


@dataclass
class Joint:
    """Both directions of a step.

    Attributes:
        forward: parameters, buffers and inputs in; the model's results and then what is saved out.
        backward: what is saved and the differentiable results' gradients in; gradients out, of
            parameters, buffers and inputs, None where there is none.
        results: how many the model's are.
        notes: what each pass did.
    """

    forward: Program
    backward: Program
    results: int
    notes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """A model's call.

    Attributes:
        args, kwargs: as the model was given them.
        tensors: those among them, in order.
        autocast: the dtype that torch.autocast had, or None where it was off.
    """

    args: tuple
    kwargs: dict
    tensors: list[Tensor]
    autocast: torch.dtype | None

    def repeat(self, model: torch_nn.Module, tensors: list[Tensor]) -> tuple[object, list]:
        """The result for other tensors, and the tensors in it, as a graph of autograd."""
        autocast = {"enabled": False} if self.autocast is None else {"dtype": self.autocast, "cache_enabled": False}
        call = self.args, self.kwargs
        given = rebuild_arguments(call, iter(tensors))
        flat: list = []
        with torch.enable_grad(), torch.autocast("cpu", **autocast):
            result = model(*given[0], **given[1])
            flatten_result(result, flat)
        if not same_containers(call, given):
            raise Unsupported("the model writes into a container that it is given")
        return result, flat


class Held:
    """A model's parameters and buffers by place: what several modules share counts once."""

    def __init__(self, model: torch_nn.Module):
        self.parameters: list[Tensor] = []
        self.buffers: list[Tensor] = []
        self._places: list[tuple[torch_nn.Module, str, str, int]] = []
        for kind, tensors in (("_parameters", self.parameters), ("_buffers", self.buffers)):
            seen: dict[int, int] = {}
            for module in model.modules():
                for name, tensor in getattr(module, kind).items():
                    if tensor is None:
                        continue
                    if id(tensor) not in seen:
                        seen[id(tensor)] = len(tensors)
                        tensors.append(tensor)
                    self._places.append((module, kind, name, seen[id(tensor)]))

    @property
    def all(self) -> list[Tensor]:
        return [*self.parameters, *self.buffers]

    def put(self, tensors: list[Tensor]) -> None:
        """Others in the places of :attr:`all`; the modules must have dictionaries of their own."""
        first = len(self.parameters)
        for module, kind, name, index in self._places:
            getattr(module, kind)[name] = tensors[index if kind == "_parameters" else first + index]


_ACTIVATIONS = (
    *(torch_nn.ReLU, torch_nn.ReLU6, torch_nn.LeakyReLU, torch_nn.ELU, torch_nn.SiLU, torch_nn.Mish),
    *(torch_nn.Hardsigmoid, torch_nn.Hardswish, torch_nn.Dropout),
)


def own_copy(model: torch_nn.Module) -> torch_nn.Module:
    """A copy whose tensors can be exchanged, and whose activations don't overwrite what they read."""
    model = swap_layers(model, exchange_functions=True)
    for module in model.modules():
        for kind in ("_parameters", "_buffers"):
            module.__dict__[kind] = dict(module.__dict__[kind])
        if getattr(module, "inplace", None) is True and isinstance(module, _ACTIVATIONS):
            module.inplace = False
    return model


def trace(model: torch_nn.Module, call: Call, values: list[Tensor], gradients: list[Tensor]) -> Traced:
    """The graph of one call, both directions in one.

    Args:
        model: in the mode it is to train in. It is not touched.
        values: its parameters and buffers, then the call's tensors; which require a gradient counts.
        gradients: one for each of the results that require one.

    Raises:
        Unsupported: with the reason.
    """
    model = own_copy(model)
    held = Held(model)
    own = len(held.all)
    wanted = [t.requires_grad for t in values]
    results = 0

    def step(values, gradients):
        nonlocal results
        held.put(values)
        _, flat = call.repeat(model, values[own:])
        results = len(flat)
        sources = [t for t, want in zip(values, wanted, strict=True) if want]
        roots = [r for r in flat if r.requires_grad]
        found = iter(torch.autograd.grad(roots, sources, gradients, allow_unused=True))
        return flat, [next(found) if want else None for want in wanted]

    try:
        with warnings.catch_warnings(), capturing(), torch.no_grad():
            warnings.simplefilter("ignore")
            graph = make_fx(step, tracing_mode="real")(values, gradients)
    except Unsupported:
        raise
    except Exception as error:  # whatever a model's code and the tracer make of each other
        raise Unsupported(f"the step can't be traced: {type(error).__name__}: {error}"[:300]) from error
    state = slice(len(held.parameters), own)
    return Traced(_plain_graph(graph), len(values), state, results)


def _plain_graph(module: fx.GraphModule) -> fx.Graph:
    """The graph with what its tracer kept as constants as placeholders."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "get_attr":
            tensor = getattr(module, node.target)
            if not isinstance(tensor, Tensor):
                raise Unsupported("the step holds a graph of its own")
            with graph.inserting_before(node):
                placeholder = graph.placeholder(node.name)
            placeholder.meta["constant"] = placeholder.meta["val"] = tensor
            node.replace_all_uses_with(placeholder)
            graph.erase_node(node)
        elif node.op not in ("placeholder", "call_function", "output"):
            raise Unsupported(f"the step has a {node.op}")
    return graph


class Traced:
    """The joint graph of a step: ``values`` and gradients in, results and gradients out.

    ``state``: which of the values are buffers, that the model may write into.
    """

    def __init__(self, graph: fx.Graph, values: int, state: slice, results: int):
        self.graph, self.results = graph, results
        given = [n for n in graph.nodes if n.op == "placeholder" and "constant" not in n.meta]
        self.given, self.gradients, self.state = given[:values], given[values:], set(given[:values][state])
        if not make_functional(graph, _effects(graph, self.state)):
            raise Unsupported("the model writes into tensors in place")
        self.notes = passes.run(graph, passes.TRAINING)

    @property
    def draws(self) -> bool:
        """Whether random numbers are drawn."""
        return any(torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ()) for n in self.graph.nodes)

    def fuse(self) -> int:
        """Fuses operators, which changes roundings; how often."""
        counts = passes.run(self.graph, passes.TRAINING_FUSIONS)
        self.notes |= counts
        return sum(counts.values())

    def split(self) -> Joint:
        """The two directions; the joint graph stays."""
        graph, effects = self.graph, _effects(self.graph, self.state)
        output = next(n for n in reversed(graph.nodes) if n.op == "output")
        flat = list(_flat(output.args[0]))
        outs, grads = flat[: self.results], flat[self.results :]
        late = set(self.gradients)
        for node in graph.nodes:
            if node.op == "call_function" and any(n in late for n in node.all_input_nodes):
                late.add(node)
        if any(n in late for n in (*outs, *effects)):
            raise Unsupported("the backward pass writes into the model's buffers")
        needed = _ancestors([g for g in grads if g is not None], late)
        saved = _Saved(late)
        for node in graph.nodes:
            if node in needed and node.op != "placeholder":
                saved.read(node.all_input_nodes)
        saved.read([g for g in grads if isinstance(g, fx.Node) and g not in late])
        written = {n for e in effects for n in e.all_input_nodes if n in self.state}
        if written & set(saved.roots):
            raise Unsupported("the backward pass reads a buffer that the forward pass writes")

        front, back = _Side(), _Side()
        for node in self.given:
            front.take(node)
        keep = _ancestors([*(o for o in outs if o is not None), *saved.roots, *effects], None)
        for node in graph.nodes:
            if node in keep and node not in front.copied:
                front.take(node)
        for node in saved.roots:
            back.place(node)
        for node in self.gradients:
            back.take(node)
        for node in graph.nodes:
            if node in saved.views or (node in needed and node not in back.copied):
                back.take(node)
        forward = front.finish([*outs, *saved.roots], self.given)
        backward = back.finish(grads, [*saved.roots, *self.gradients])
        return Joint(forward, backward, self.results, dict(self.notes))


class _Side:
    """One of the two graphs while it is copied out of the joint one."""

    def __init__(self):
        self.graph, self.copied = fx.Graph(), {}

    def place(self, node: fx.Node) -> None:
        """An input for what the other side made."""
        self.copied[node] = self.graph.placeholder(node.name)
        self.copied[node].meta = dict(node.meta)

    def take(self, node: fx.Node) -> None:
        self.copied[node] = self.graph.node_copy(node, self.copied.__getitem__)

    def finish(self, outputs: list, inputs: list[fx.Node]) -> Program:
        self.graph.output(tuple(self.copied[o] if isinstance(o, fx.Node) else o for o in outputs))
        self.graph.lint()
        return Program(self.graph, [self.copied[n] for n in inputs], ())


class _Saved:
    """What the backward graph reads of the forward's: ``roots`` are saved, ``views`` of them are made again, as are
    constants."""

    def __init__(self, late: set[fx.Node]):
        self.late = late
        self.roots: dict[fx.Node, None] = {}
        self.views: dict[fx.Node, None] = {}

    def read(self, nodes) -> None:
        for node in nodes:
            if node in self.late or node in self.roots or node in self.views:
                continue
            base = _base_of_view(node)
            if "constant" in node.meta:
                self.views[node] = None
            elif base is None:
                self.roots[node] = None
            else:
                self.read([base])
                self.views[node] = None


def _base_of_view(node: fx.Node) -> fx.Node | None:
    """What a view shows; of a tuple's item, the tuple where that is views."""
    if node.op != "call_function" or len(node.all_input_nodes) != 1:
        return None
    base = node.all_input_nodes[0]
    if isinstance(node.target, torch._ops.OpOverload):
        views = all(r.alias_info is not None and not r.alias_info.is_write for r in node.target._schema.returns)
        return base if views and node.target._schema.returns and not node.target._schema.is_mutable else None
    return base if may_alias(node) and _base_of_view(base) is not None else None


def _effects(graph: fx.Graph, state: set[fx.Node]) -> list[fx.Node]:
    """Calls that write into the model's buffers."""
    found = []
    for node in graph.nodes:
        if node.op != "call_function" or not getattr(getattr(node.target, "_schema", None), "is_mutable", False):
            continue
        pairs = zip(node.target._schema.arguments, node.args)  # noqa: B905 - trailing defaults are left out
        written = [w for a, given in pairs if a.alias_info and a.alias_info.is_write for w in _flat([given])]
        if written and all(w in state for w in written):
            for user in list(node.users):
                user.replace_input_with(node, written[0])
            found.append(node)
    return found


def _ancestors(nodes: list, within: set[fx.Node] | None) -> set[fx.Node]:
    found, todo = set(), list(nodes)
    while todo:
        node = todo.pop()
        if not isinstance(node, fx.Node) or node in found or (within is not None and node not in within):
            continue
        found.add(node)
        todo += node.all_input_nodes
    return found


def _flat(value):
    if isinstance(value, (list, tuple)):
        for v in value:
            yield from _flat(v)
    else:
        yield value
