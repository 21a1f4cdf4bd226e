"""A captured graph for one set of input shapes as a flat list of steps, compiled to one Python function.

The plan is made by running the graph once and recording what every node did: which backend function ran, which results
are views of which, what sizes and strides came out. Views of weights and of buffers are then made once, not per call.
Results of steps that can write where they are told (:mod:`.kernels`) live in an arena: one block of memory in which
buffers that are never needed at the same time share addresses. Each call has an arena to itself; what the caller gets
never lives in one.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

from .. import backends
from ..backends import cpu
from ..nn import functional as F
from ..ops._frame import OPERATORS
from . import kernels, recorded
from .capture import Program
from .codegen import Code
from .prepared import Step, Value, Weights, leaves
from .structure import Unsupported
from .sums import join_sums
from .work import Work, multiply_adds

_PADS = (torch.ops.aten.pad.default, torch.ops.aten.constant_pad_nd.default)
_DATA_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


@dataclass
class _Record:
    steps: list[Step] = field(default_factory=list)
    work: list[Work] = field(default_factory=list)
    traced: list[tuple[str, str]] = field(default_factory=list)


class Plan:
    """Callable: a list of tensors in, the list of the graph's flat outputs out. Any number of threads at once."""

    def __init__(self, program: Program, tensors: list[Tensor], expected: list, join: bool = False):
        """``expected``: outputs with the dtypes and strides that the plan's are to have. ``join``: see :mod:`.sums`."""
        recorder = _Recorder(program.weights)
        outputs = recorder.run(program, tensors, expected)
        self.template = program.template
        self.notes = program.notes
        self.work = recorder.record.work
        self.traced = recorder.record.traced
        steps = recorder.record.steps
        joined = join_sums(steps, outputs)
        self.sums = len(steps) - len(joined)  # that are joined, or could be
        self._layout = Code(joined if join else steps, recorder.inputs, outputs)
        self._idle = [self._layout.instance()]

    @property
    def arena_bytes(self) -> int:
        return self._layout.arena_bytes

    @property
    def source(self) -> str:
        """The generated function, for reading."""
        return self._layout.source

    def __call__(self, tensors: list[Tensor]) -> tuple:
        return self.consume(list(tensors))

    def consume(self, tensors: list[Tensor]) -> tuple:
        """The call, which empties the list: a tensor that nobody else holds is freed once it is needed no more."""
        try:
            run = self._idle.pop()
        except IndexError:
            run = self._layout.instance()
        try:
            return run(tensors)
        finally:
            self._idle.append(run)


# --- recording ------------------------------------------------------------------------------------------------------


class _Recorder:
    def __init__(self, weights: Weights):
        self.weights = weights
        weights.constant = self.is_constant
        self.constant_memory: set[int] = set()
        self.record = _Record()
        self.values: dict[int, tuple[weakref.ref, Value]] = {}
        self.inputs: list[Value] = []
        self.count = 0

    def value_of(self, tensor: Tensor) -> Value | None:
        found = self.values.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def is_constant(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self.constant_memory

    def new_value(self, tensor: Tensor, base: Tensor | None = None, constant: bool = False) -> Value:
        """``base``: whose memory the tensor is a view of."""
        example = (tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        root = None if base is None else self.refer(base)
        value = Value(f"v{self.count}", root, tensor if constant else None, example, fixed=constant)
        value.offset = 0 if base is None else tensor.data_ptr() - base.data_ptr()
        self.count += 1
        if constant:
            self.constant_memory.add(tensor.untyped_storage().data_ptr())
        self.values[id(tensor)] = (weakref.ref(tensor), value)
        return value

    def refer(self, x, near: Sequence[Tensor] = ()):
        """A step's argument: tensors become values; those never seen before are views of one ``near``, or constants."""
        if isinstance(x, Tensor):
            known = self.value_of(x)
            if known is not None:
                return known
            base = next((t for t in near if t is not x and _shares_memory(x, t)), None)
            return self.new_value(x, constant=True) if base is None else self.new_value(x, base)
        if isinstance(x, (list, tuple)):
            return type(x)(self.refer(v, near) for v in x)
        return x

    def run(self, program: Program, tensors: list[Tensor], expected: list) -> list:
        env: dict[fx.Node, object] = {}
        for node, tensor in zip(program.inputs, tensors, strict=True):
            alias = tensor.detach()  # a fresh object: an input given twice is two inputs
            env[node] = alias
            self.inputs.append(self.new_value(alias))
        uses = {node: len(node.users) for node in program.graph.nodes}
        outputs: list = []
        for node in program.graph.nodes:
            if node.op == "placeholder":
                if node not in env:
                    env[node] = node.meta["constant"]
                    if self.value_of(env[node]) is None:
                        self.new_value(env[node], constant=True)
                continue
            if node.op == "output":
                results = fx.map_arg(node.args[0], lambda n: env[n])
                outputs = [self.finish(x, wanted) for x, wanted in zip(results, expected, strict=True)]
                break
            args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda n: env[n])
            env[node] = self.execute(node, args, kwargs)
            for operand in node.all_input_nodes:
                uses[operand] -= 1
                if uses[operand] == 0:
                    env.pop(operand)
        return [self.refer(x) for x in outputs]

    def finish(self, x, wanted):
        """An output in the dtype and memory order that the model gives."""
        if not isinstance(x, Tensor) or not isinstance(wanted, Tensor) or x.shape != wanted.shape:
            return x
        same_order = x.numel() < 2 or all(
            a == b for a, b, n in zip(x.stride(), wanted.stride(), x.shape, strict=True) if n > 1
        )
        if x.dtype is wanted.dtype and (same_order or not kernels.is_dense(wanted)):
            return x
        known = self.value_of(x)
        if x.dtype is wanted.dtype and known is not None and known.memory() in self.inputs:
            return x
        args = (x, x.shape, wanted.stride() if kernels.is_dense(wanted) else torch.empty_like(x).stride(), wanted.dtype)
        result = kernels.restrided(*args)
        self.add_step("restride", kernels.restrided, args, {}, [self.new_value(result)], many=False)
        return result

    def execute(self, node: fx.Node, args, kwargs):
        target = node.target
        if isinstance(target, torch._ops.OpOverload):
            if _DATA_DEPENDENT & set(target.tags) and not _indexes_by_position(target, args):
                raise Unsupported(f"{target} gives sizes or numbers that depend on the data")
            if target is torch.ops.aten.cat.default:
                args = ([self.plainly_strided(t) for t in args[0]], *args[1:])
            elif target in _PADS:
                args = (self.plainly_strided(args[0]), *args[1:])
            calls = None
            if recorded.wants_dense(target):
                args = tuple(self.dense(a) if isinstance(a, Tensor) else a for a in args)
            if _is_recorded(target, args, kwargs):
                with recorded.tape() as calls:
                    result = getattr(backends.load("cpu"), target._schema.name.partition("::")[2])(*args)
            else:
                result = target(*args, **kwargs)
            self.step(target, args, kwargs, result, calls)
            return result
        if getattr(F, getattr(target, "__name__", ""), None) is target:
            with _Watch(self):
                return target(*args, **kwargs)
        return target(*args, **kwargs)  # getitem, arithmetic on sizes

    def dense(self, x: Tensor) -> Tensor:
        """x, or a copy without gaps between its pixels or rows: a step, where the kernel's own copy would be none."""
        last = torch.channels_last
        if not x.numel() or kernels.is_dense(x) or 0 in x.stride():
            return x
        kwargs = {"memory_format": last if x.dim() == 4 and x.stride(1) == 1 else torch.contiguous_format}
        result = x.contiguous(**kwargs)
        self.step(torch.ops.aten.contiguous.default, (x,), kwargs, result)
        return result

    def plainly_strided(self, x: Tensor) -> Tensor:
        """A batch of one image as torch sees that it is channels_last: by a batch stride that says nothing."""
        last = torch.channels_last
        if x.dim() != 4 or x.shape[0] != 1 or not x.is_contiguous(memory_format=last):
            return x
        strides = torch.empty_like(x, memory_format=last).stride()
        if x.is_contiguous() or x.stride() == strides:
            return x
        args = (x, list(x.shape), list(strides))
        result = torch.ops.aten.as_strided.default(*args)
        self.step(torch.ops.aten.as_strided.default, args, {}, result)
        return result

    def step(self, target, args, kwargs, result, calls: list | None = None) -> None:
        """``calls``: of kernels, where they were recorded."""
        results = result if isinstance(result, (tuple, list)) else [result]
        writes = target._schema.is_mutable
        if writes:
            results = []
        elif not any(isinstance(r, Tensor) for r in results):
            return
        operands = [t for t in leaves((args, kwargs), Tensor) if t.numel()]
        name = target._schema.name.partition("::")[2]
        if len(results) == 1 and any(results[0] is t for t in operands):
            return  # nothing was done
        function, served_by = target, "torch"
        if target.namespace == "dlperf":
            module = backends.select(name, tuple(args))
            served_by = backends.short_name(module)
            self.record.traced.append((name, served_by))
            function = _backend_function(module, name)
        kernel_calls = None if calls is None else recorded.prepare(calls, tuple(args), results)
        whole, slices = _in_one_memory(results) if kernel_calls else (None, [])
        outs, aliases = [], True
        if whole is not None:
            outs.append(self.new_value(whole))
            aliases = False
        for r in results:
            if not isinstance(r, Tensor):
                outs.append(None)
                continue
            if any(r is s for s in slices):
                continue
            known = self.value_of(r)
            if known is not None:
                raise Unsupported(f"{target} returns its own argument among others")
            base = next((t for t in operands if _shares_memory(r, t)), None)
            aliases = aliases and base is not None
            outs.append(self.new_value(r, base))
        aliases = aliases and not writes
        views = [self.new_value(s, whole) for s in slices]
        prepared = None
        if whole is None and not writes and not any(o is not None and o.root is not None for o in outs):
            prepared = kernels.prepare(target, served_by, tuple(args), kwargs, result, self.weights)
        prepared, *further = [prepared] if prepared is not None else kernel_calls or [None]
        many = not writes and isinstance(result, (tuple, list))
        near = [*operands, *(r for r in results if isinstance(r, Tensor))]
        if prepared is not None:
            prepared = prepared.referring(lambda x: self.refer(x, near))
        self.add_step(name, function, args, kwargs, outs, many=many, aliases=aliases, prepared=prepared)
        for call in further:
            call = call.referring(lambda x: self.refer(x, near))
            self.add_step(name, function, args, kwargs, [], many=False, prepared=call)
        for view, s in zip(views, slices, strict=True):
            place = (whole, view.offset // s.itemsize, tuple(s.shape), tuple(s.stride()))
            self.add_step("slice", _slice_of, place, {}, [view], many=False, aliases=True)
        self.record.work.append(Work(f"{target.namespace}.{name}", served_by, multiply_adds(name, args, result)))

    def add_step(self, name, function, args, kwargs, outs, many, aliases=False, prepared=None):
        referred = self.refer(tuple(args)), {k: self.refer(v) for k, v in kwargs.items()}
        self.record.steps.append(Step(name, function, *referred, outs, many, aliases, prepared))


class _Watch(TorchDispatchMode):
    """Shows the recorder each operator that a dlperf function calls."""

    def __init__(self, recorder: _Recorder):
        super().__init__()
        self.recorder = recorder

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.recorder.step(func, args, kwargs or {}, result)
        return result


def _indexes_by_position(target, args) -> bool:
    """Integer indices give a shape that follows from shapes; masks don't."""
    if target is not torch.ops.aten.index.Tensor:
        return False
    return all(i is None or i.dtype not in (torch.bool, torch.uint8) for i in args[1])


def _is_recorded(target, args, kwargs) -> bool:
    """Whether the operator's kernels are called directly, on a tape, and not by way of the dispatcher."""
    name = target._schema.name.partition("::")[2]
    if target.namespace != "dlperf" or kwargs or name not in recorded.OPERATORS or cpu.C is None:
        return False
    return backends.short_name(backends.select(name, tuple(args))) == "cpu"


def _in_one_memory(results) -> tuple[Tensor | None, list[Tensor]]:
    """Results that share memory with each other, behind one flat tensor of all of it."""
    tensors = [r for r in results if isinstance(r, Tensor) and r.numel()]
    shared = [r for r in tensors if any(_shares_memory(r, other) for other in tensors if other is not r)]
    if not shared or not all(_shares_memory(shared[0], r) for r in shared):
        return None, []
    first = shared[0]
    return first.as_strided((first.untyped_storage().nbytes() // first.itemsize,), (1,), 0), shared


def _slice_of(whole: Tensor, start: int, size: tuple, stride: tuple) -> Tensor:
    return whole[start:].as_strided(size, stride)


def _backend_function(module, name: str):
    if backends.short_name(module) == "reference":
        operator = OPERATORS[name]
        return lambda *args: operator._run_on(module, args)
    return getattr(module, name)


def _shares_memory(a: Tensor, b: Tensor) -> bool:
    return a.numel() > 0 and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
