"""What a step that writes where it is told is made of: a function, addresses of its operands, packed weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import memory
from ..backends import cpu


@dataclass(frozen=True)
class Address:
    """An operand of a kernel: where a tensor starts, plus bytes; ``of=None`` is the scratch memory."""

    of: object
    offset: int = 0


@dataclass(frozen=True)
class Prepared:
    """``function(*operands)`` fills the step's results.

    Attributes:
        scratch: bytes of scratch memory, 64-byte aligned, that hold nothing between steps.
        any_address: whether results outside the arena can be written too (addresses are looked up per call).
        keep: what holds memory that operands point to.
    """

    function: Callable
    operands: tuple
    scratch: int = 0
    any_address: bool = True
    keep: object = None

    def referring(self, refer: Callable) -> Prepared:
        """With tensors replaced by the plan's values."""

        def convert(x):
            if isinstance(x, Address):
                return x if x.of is None else Address(refer(x.of), x.offset)
            return refer(x)

        return replace(self, operands=tuple(convert(o) for o in self.operands))


@dataclass(eq=False)
class Value:
    """A tensor of the plan: an input, a constant, or what a step makes."""

    name: str
    root: Value | None = None  # whose memory it is a view of
    tensor: Tensor | None = None  # constants
    example: tuple | None = None  # size, stride, dtype, device
    fixed: bool = False  # at the same address in every call
    last_use: int = -1
    offset: int = 0  # bytes from where its root starts

    @property
    def bytes(self) -> int:
        """From its first element to its last."""
        size, stride, dtype, _ = self.example
        extent = 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if 0 not in size else 0
        return extent * dtype.itemsize

    def memory(self) -> Value:
        return self.placed()[0]

    def placed(self) -> tuple[Value, int]:
        """The value whose memory this is, and bytes from where that starts."""
        value, offset = self, 0
        while value.root is not None:
            offset += value.offset
            value = value.root
        return value, offset


@dataclass(eq=False)
class Step:
    """A call. Without ``outs`` it writes into its arguments, or goes on with what the step before began."""

    name: str
    function: object
    args: tuple
    kwargs: dict
    outs: list
    many: bool  # the result is a tuple
    aliases: bool
    prepared: Prepared | None = None


def leaves(x, kind: type, found: list | None = None) -> list:
    """The objects of one type in nested lists, tuples, dicts and addresses, in order."""
    found = [] if found is None else found
    if isinstance(x, kind):
        found.append(x)
    elif isinstance(x, Address):
        leaves(x.of, kind, found)
    elif isinstance(x, (list, tuple)):
        for v in x:
            leaves(v, kind, found)
    elif isinstance(x, dict):
        leaves(tuple(x.values()), kind, found)
    return found


class Weights:
    """What a plan knows of its constants: which tensors they are, and their packed forms, which plans share."""

    def __init__(self):
        self.packs: dict[tuple, tuple[Tensor, Tensor]] = {}
        self._chunk = torch.empty(0, dtype=torch.uint8)
        self.constant: Callable[[Tensor], bool] = lambda tensor: False

    def pack(self, weight: Tensor, key: tuple, bytes: int, fill: Callable[[int, int], None]) -> Tensor | None:
        """A constant weight packed by ``fill(weight's address, packed's address)``; None for other tensors."""
        if not bytes or not self.constant(weight):
            return None
        key = (weight.data_ptr(), weight.shape, weight.stride(), weight.dtype, cpu.C.isa(), *key)
        found = self.packs.get(key)
        if found is None:
            packed = self._take(bytes)
            fill(weight.data_ptr(), packed.data_ptr())
            found = self.packs[key] = (packed, weight)  # the weight keeps its address
        return found[0]

    def _take(self, bytes: int) -> Tensor:
        """From a chunk that small packs share: one huge page holds many."""
        bytes = -(-bytes // _PACK_ALIGN) * _PACK_ALIGN
        if bytes > self._chunk.numel():
            if bytes >= _CHUNK // 2:
                return memory.block(bytes, _PACK_ALIGN)
            self._chunk = memory.block(_CHUNK, _PACK_ALIGN)
        packed, self._chunk = self._chunk[:bytes], self._chunk[bytes:]
        return packed


_PACK_ALIGN, _CHUNK = 64, 4 << 20
