"""A model's forward as one flat graph of functional aten operators, or the reason why not.

The graph's placeholders are the constants (parameters, buffers, lifted tensors; ``node.meta["constant"]`` holds the
tensor) and the inputs. Sizes of the batch dimension stay symbolic where export allows.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx
from torch import nn as torch_nn
from torch.export import Dim, export
from torch.export.graph_signature import InputKind, OutputKind

from .passes.functional import make_functional
from .prepared import Weights
from .structure import Unsupported, flatten_result, rebuild_arguments, same_containers


@dataclass
class Program:
    """A captured forward.

    Attributes:
        graph: the operators; its output is a flat tuple.
        inputs: the placeholders of the call's tensors, in order.
        template: how the flat outputs become what the model returns.
        conditions: symbolic expressions that the sizes must fulfil.
        notes: what each pass did, for the report.
    """

    graph: fx.Graph
    inputs: list[fx.Node]
    template: tuple
    conditions: list = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    weights: Weights = field(default_factory=Weights)

    @property
    def outputs(self) -> tuple:
        return next(n for n in reversed(self.graph.nodes) if n.op == "output").args[0]

    def accepts(self, tensors: list[Tensor]) -> bool:
        """Whether the graph holds for these inputs: ranks, dtypes, devices, static sizes, conditions on the rest."""
        sizes: dict = {}
        for node, tensor in zip(self.inputs, tensors, strict=True):
            fake = node.meta["val"]
            if fake.dim() != tensor.dim() or fake.dtype is not tensor.dtype or fake.device != tensor.device:
                return False
            for wanted, given in zip(fake.shape, tensor.shape, strict=True):
                symbol = wanted.node.expr if isinstance(wanted, torch.SymInt) else wanted
                if getattr(symbol, "is_Symbol", False):
                    if sizes.setdefault(symbol, given) != given:
                        return False
                elif symbol != given:
                    return False
        return all(bool(c.xreplace(sizes)) for c in self.conditions)


class _Seen:
    """Out of reach of the tracer, which undoes what a forward writes into attributes."""

    template: tuple | None = None


class _FlatCall(torch_nn.Module):
    """The model as a function of its call's tensors alone."""

    def __init__(self, model, args, kwargs):
        super().__init__()
        self.model = model
        self.call = (args, kwargs)
        self.seen = _Seen()

    def forward(self, *leaves):
        remaining = iter(leaves)
        args, kwargs = rebuild_arguments(self.call, remaining)
        result = self.model(*args, **kwargs)
        if not same_containers(self.call, (args, kwargs)):
            raise Unsupported("the model writes into a container that it is given")
        flat: list = []
        self.seen.template = flatten_result(result, flat)
        return tuple(flat)


def capture(model: torch_nn.Module, args: tuple, kwargs: dict, tensors: list[Tensor]) -> Program:
    """Traces one call.

    Raises:
        Unsupported: with the reason.
    """
    flat = _FlatCall(model, args, kwargs)
    flat.eval()
    batch = tuple({0: Dim.AUTO} if t.dim() > 0 and t.shape[0] > 1 else None for t in tensors)
    attempts = [(False, (batch,)), (False, None), (True, None)]
    if not any(batch):
        del attempts[0]
    reason = None
    for strict, dynamic in attempts:
        flat.seen.template = None
        try:
            with _quiet(), torch.no_grad():
                exported = export(flat, tuple(tensors), strict=strict, dynamic_shapes=dynamic)
                return _program(exported, flat.seen.template)
        except Unsupported:
            raise
        except Exception as error:  # whatever a model's code and the tracer make of each other
            reason = reason or f"{type(error).__name__}: {_first_line(error)}"
    raise Unsupported(f"torch.export failed: {reason}")


def _program(exported, template) -> Program:
    conditions = _conditions(exported)
    graph, copied = _copy(exported.graph)
    if not make_functional(graph):
        exported = exported.run_decompositions({})
        graph, copied = _copy(exported.graph)
    signature = exported.graph_signature
    mutates = [s for s in signature.output_specs if s.kind is not OutputKind.USER_OUTPUT]
    if mutates:
        what = {OutputKind.BUFFER_MUTATION: "a buffer", OutputKind.USER_INPUT_MUTATION: "its input"}
        raise Unsupported(f"the model writes into {what.get(mutates[0].kind, mutates[0].kind.name)}")
    inputs = []
    for spec, old in zip(signature.input_specs, exported.graph.find_nodes(op="placeholder"), strict=True):
        node = copied[old]
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(node)
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            source = exported.state_dict if spec.target in exported.state_dict else exported.constants
            node.meta["constant"] = source[spec.target].detach()
        else:
            raise Unsupported(f"the graph takes a {spec.kind.name}")
    return Program(graph, inputs, template, conditions)


def _copy(original: fx.Graph) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    graph, copied = fx.Graph(), {}
    graph.graph_copy(original, copied)
    output = next(n for n in reversed(original.nodes) if n.op == "output")
    graph.output(fx.map_arg(output.args[0], copied.__getitem__))
    return graph, copied


def _conditions(exported) -> list:
    """What the tracer assumed about symbolic sizes."""
    import sympy

    shape_env = None
    for node in exported.graph.find_nodes(op="placeholder"):
        for size in getattr(node.meta.get("val"), "shape", ()):
            if isinstance(size, torch.SymInt):
                shape_env = size.node.shape_env
    if shape_env is None:
        return []
    conditions = [guard.expr for guard in shape_env.guards]
    for symbol, bounds in exported.range_constraints.items():
        conditions += [sympy.Ge(symbol, bounds.lower), sympy.Le(symbol, bounds.upper)]
    return [shape_env.replace(c) for c in conditions]


@contextlib.contextmanager
def _quiet():
    """The tracer's warnings are about code that the user did not write for it."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch._dynamo", "torch.fx")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else ""
