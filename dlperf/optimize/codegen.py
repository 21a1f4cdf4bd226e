"""The Python function of a plan: what lives in its arena and where, and its steps one after another.

Steps that are kernels follow each other in sequences, which run without Python between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .. import memory
from ..backends import cpu
from . import kernels
from .prepared import Address, Step, Value, leaves

_ALIGN = 256
# Which buffers share addresses with their like only: steps between them, and bytes. More of either is faster
# still where cores share no cache, but an arena that outgrows the caches is slower where they do.
_STEPS_APART, _SHARED_BY_SIZE = 2, 4 << 20
# A sequence ends where so many bytes of the call's tensors are needed no more: what it still holds can't be freed.
_ENDED = 64 << 20


@dataclass
class _Sequence:
    """Kernels that run one after another without Python between."""

    name: str
    slots: dict[str, int] = field(default_factory=dict)  # what gives the addresses that only a call knows
    after: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        return [f"{self.name}({', '.join(self.slots)})", *self.after]


def _runs_in_sequence(step: Step) -> bool:
    if step.prepared is None or not step.prepared.any_address:
        return False
    name = getattr(step.prepared.function, "__name__", "")
    return cpu.C.is_step(name) and getattr(cpu.C, name) is step.prepared.function


def _placed(operand) -> tuple[Value | None, int]:
    """The memory that an operand's address lies in, and bytes from its start; None for scratch and for no address."""
    if not isinstance(operand, Address):
        return None, 0
    if operand.of is None:
        return None, operand.offset
    value, offset = operand.of.placed()
    return value, offset + operand.offset


def _views_never_seen(steps: list[Step], outputs: list) -> set[Step]:
    """Views that only kernels read: those get addresses."""
    seen = set(leaves(outputs, Value))
    unseen = set()
    for step in reversed(steps):
        if step.aliases and not seen.intersection(step.outs):
            unseen.add(step)
        elif step.prepared is None:
            seen.update(leaves((step.args, step.kwargs), Value))
        else:
            for operand in step.prepared.operands:
                seen.update([_placed(operand)[0]] if isinstance(operand, Address) else leaves(operand, Value))
    return unseen


class Code:
    """Decides what lives in the arena and where, and writes the function."""

    def __init__(self, steps: list[Step], inputs: list[Value], outputs: list):
        self.constants: list = []
        self.constant_names: dict[int, str] = {}
        escaping = {v.memory() for v in leaves(outputs, Value)}
        self._find_last_uses(steps, outputs)
        self.buffers: dict[Value, int] = {}
        self._place(steps, escaping)
        self.source = self._write(steps, inputs, outputs)
        self._code = compile(self.source, "<dlperf plan>", "exec")

    @torch.inference_mode(False)
    @torch.no_grad()
    def instance(self):
        """The function with an arena of its own."""
        arena = memory.block(self.arena_bytes, _ALIGN)
        tensors = []
        for value, offset in self.buffers.items():
            size, stride, dtype, _ = value.example
            count = 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
            block = arena[offset : offset + count * dtype.itemsize].view(dtype)
            tensors.append(block.as_strided(size, stride))
        namespace: dict = {}
        exec(self._code, namespace)
        return namespace["setup"](self.constants, tensors, arena.data_ptr() + self.scratch_offset, arena)

    def _find_last_uses(self, steps, outputs) -> None:
        for index, step in enumerate(steps):
            used = leaves((step.args, step.kwargs), Value) + (
                leaves(step.prepared.operands, Value) if step.prepared else []
            )
            for value in (*used, *(o for o in step.outs if o is not None)):
                while value is not None:
                    value.last_use = max(value.last_use, index)
                    value = value.root
        for value in leaves(outputs, Value):
            while value is not None:
                value.last_use = len(steps)
                value = value.root

    def _place(self, steps, escaping) -> None:
        """Buffers by size, largest first, each at the lowest offset that is free while it is needed.

        Threads divide a layer's rows alike, so buffers of one size at one address stay in the caches of the cores that
        wrote them. Small ones that follow each other closely therefore share addresses with their like only: at
        another size a line would change hands, slowly where the cores share no cache.
        """
        wanted, scratch = [], 0
        for index, step in enumerate(steps):
            prepared = step.prepared
            if prepared is None:
                continue
            outs = [o for o in step.outs if o is not None]
            if not prepared.any_address and any(o in escaping for o in outs):
                step.prepared = None
                continue
            scratch = max(scratch, prepared.scratch)
            for out in outs:
                if out not in escaping:
                    out.fixed = True
                    wanted.append((out.bytes, index, out.last_use, out))
        placed: list[tuple[int, int, int, int]] = []
        end = 0
        for size, first, last, value in sorted(wanted, key=lambda w: -w[0]):
            offset, room = 0, -(-size // _ALIGN) * _ALIGN
            apart = [
                (low, high)
                for low, high, from_step, to_step in placed
                if (from_step <= last and first <= to_step)
                or (
                    room != high - low
                    and min(room, high - low) <= _SHARED_BY_SIZE
                    and max(first - to_step, from_step - last) <= _STEPS_APART
                )
            ]
            for low, high in sorted(apart):
                if offset + size <= low:
                    break
                offset = max(offset, high)
            high = offset + room
            placed.append((offset, high, first, last))
            self.buffers[value] = offset
            end = max(end, high)
        self.scratch_offset = end
        self.arena_bytes = end + scratch

    def _write(self, steps, inputs, outputs) -> str:
        setup = [f"{v.name} = T[{i}]" for i, v in enumerate(self.buffers)]
        body: list[str] = []
        unseen = _views_never_seen(steps, outputs)
        self.addressed: dict[str, str] = {}
        self.sequences = 0
        open_sequence: _Sequence | None = None
        ends: dict[int, list[Value]] = {}
        for value in inputs:
            ends.setdefault(value.last_use, []).append(value)
        ended = 0
        for index, step in enumerate(steps):
            fixed = step.aliases and all(v.fixed for v in leaves((step.args, step.kwargs), Value))
            for out in step.outs:
                if out is not None:
                    if fixed:
                        out.fixed = True
                    elif not out.fixed and out.last_use < len(steps) and step not in unseen:
                        ends.setdefault(out.last_use, []).append(out)
            if step in unseen:
                pass
            elif fixed:
                setup += self._statements(step, setup)
            elif _runs_in_sequence(step):
                if open_sequence is None:
                    open_sequence = self._sequence(setup)
                body += self._allocations(step)
                setup.append(self._appended(step, open_sequence, setup))
            else:
                if open_sequence is not None and not step.aliases:
                    body += open_sequence.lines()
                    open_sequence = None
                body += self._statements(step, setup)
            done = ends.pop(index, [])
            if done:
                line = f"{' = '.join(v.name for v in done)} = None"
                (body if open_sequence is None else open_sequence.after).append(line)
            ended = 0 if open_sequence is None else ended + sum(v.bytes for v in done if v.root is None)
            if ended >= _ENDED:
                body += open_sequence.lines()
                open_sequence, ended = None, 0
        if open_sequence is not None:
            body += open_sequence.lines()
        result = ", ".join(self._operand(o) for o in outputs)
        body.append(f"return ({result}{',' if outputs else ''})")
        names = ", ".join(v.name for v in inputs)
        lines = [
            "def setup(K, T, scratch, arena):",
            *(f"    {name} = K[{i}]" for i, name in enumerate(self.constant_names.values())),
            *(f"    {line}" for line in setup),
            "    def run(given, keep=arena):",
            f"        [{names}] = given",
            "        given.clear()",
            *(f"        {line}" for line in body),
            "    return run",
        ]
        return "\n".join(lines) + "\n"

    def _statements(self, step: Step, setup: list[str]) -> list[str]:
        prepared = step.prepared
        if prepared is None:
            given = [self._operand(a) for a in step.args] + [f"{k}={self._operand(v)}" for k, v in step.kwargs.items()]
            names = [o.name if o is not None else "_" for o in step.outs]
            target = ", ".join(names) + ("," if step.many else "")
            function = self._constant(kernels.fast_call(step.function))
            return [f"{f'{target} = ' if names else ''}{function}({', '.join(given)})"]
        given = [self._address(o, setup) if isinstance(o, Address) else self._operand(o) for o in prepared.operands]
        return [*self._allocations(step), f"{self._constant(prepared.function)}({', '.join(given)})"]

    def _allocations(self, step: Step) -> list[str]:
        """The results of a prepared step that don't live in the arena."""
        lines = []
        for out in step.outs:
            if out is not None and not out.fixed:
                size, stride, dtype, _ = out.example
                empty, dtype = self._constant(memory.empty_strided), self._constant(dtype)
                lines.append(f"{out.name} = {empty}({tuple(size)}, {tuple(stride)}, {dtype})")
        return lines

    def _sequence(self, setup: list[str]) -> _Sequence:
        name = f"s{self.sequences}"
        self.sequences += 1
        setup.append(f"{name} = {self._constant(cpu.C.Sequence)}()")
        return _Sequence(name)

    def _appended(self, step: Step, sequence: _Sequence, setup: list[str]) -> str:
        """The call in ``setup`` that makes the step the sequence's next."""
        if step.prepared.keep is not None:
            self._constant(step.prepared.keep)
        given = [repr(step.prepared.function.__name__)]
        for operand in step.prepared.operands:
            start, offset = _placed(operand)
            if start is not None and not start.fixed:
                slot = sequence.slots.setdefault(f"{start.name}.data_ptr()", len(sequence.slots))
                given.append(f"{self._constant(cpu.C.slot_address)}({slot}, {offset})")
            else:
                given.append(self._address(operand, setup) if isinstance(operand, Address) else self._operand(operand))
        return f"{sequence.name}.append({', '.join(given)})"

    def _address(self, address: Address, setup: list[str]) -> str:
        value, offset = _placed(address)
        plus = f" + {offset}" if offset else ""
        if value is None:
            return f"scratch{plus}"
        if not value.fixed:
            return f"{value.name}.data_ptr(){plus}"
        text = f"{self._operand(value)}.data_ptr(){plus}"
        name = self.addressed.get(text)
        if name is None:
            name = self.addressed[text] = f"p{len(self.addressed)}"
            setup.append(f"{name} = {text}")
        return name

    def _operand(self, x) -> str:
        if isinstance(x, Value):
            return self._constant(x.tensor) if x.tensor is not None else x.name
        if isinstance(x, list):
            return f"[{', '.join(map(self._operand, x))}]"
        if type(x) is tuple:
            return f"({', '.join(map(self._operand, x))}{',' if x else ''})"
        if x is None or type(x) in (bool, int, str):
            return repr(x)
        return self._constant(x)

    def _constant(self, x) -> str:
        name = self.constant_names.get(id(x))
        if name is None:
            name = self.constant_names[id(x)] = f"k{len(self.constants)}"
            self.constants.append(x)
        return name
