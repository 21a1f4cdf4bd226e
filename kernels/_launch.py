"""Launching: one place that knows the interpreter, the device, compiled kernels and the ahead-of-time check.

A kernel's parameters are its run-time arguments first, then its ``tl.constexpr`` ones. Launchers call it as
``kernel(grid, *arguments, num_warps=..., num_stages=..., **constants)``. While :func:`recording`, nothing runs and
the calls are collected: that is how ``kernels/aot.py`` learns what ships.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
from torch import Tensor

from . import _direct

INTERPRETED: bool = triton.knobs.runtime.interpret
TRITON = tuple(map(int, triton.__version__.split(".")[:2]))  # (3, 6)

# Every kernel by name.
KERNELS: dict[str, Kernel] = {}

_recorder: list[Launch] | None = None
_forced_capability: int | None = None
_with_candidates = False


@dataclass(frozen=True)
class Launch:
    """One call of a kernel, as it was asked for."""

    kernel: Kernel
    args: tuple
    constants: dict
    num_warps: int
    num_stages: int


class Kernel:
    """A kernel and its compiled variants.

    Args:
        function: the kernel's source.
        hot: spilled registers fail the ahead-of-time check.
        products: it multiplies matrices: without tensor-core instructions the ahead-of-time check fails.
    """

    def __init__(self, function: Callable, hot: bool, products: bool):
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
        self.hot, self.products = hot, products
        self.jit = triton.jit(function)
        names = self.jit.arg_names
        annotations = function.__annotations__
        self.constant_names = tuple(n for n in names if "constexpr" in str(annotations.get(n, "")))
        self.argument_names = tuple(n for n in names if n not in self.constant_names)
        assert tuple(names) == (*self.argument_names, *self.constant_names), f"{self.name}: constants come last"
        self._compiled: dict[tuple, object] = {}
        KERNELS[self.name] = self

    def __call__(self, grid: tuple[int, ...], *args, num_warps: int = 4, num_stages: int = 2, **constants) -> None:
        if 0 in grid:
            return
        if _recorder is not None:
            _recorder.append(Launch(self, args, constants, num_warps, num_stages))
        elif INTERPRETED:
            self.jit[grid](*args, **constants)
        else:
            device = next(a for a in args if isinstance(a, Tensor)).device
            if device.index == torch.cuda.current_device():
                self._launch(device.index, grid, args, constants, num_warps, num_stages)
            else:
                with torch.cuda.device(device):
                    self._launch(device.index, grid, args, constants, num_warps, num_stages)

    def _launch(self, device: int, grid, args, constants, num_warps, num_stages) -> None:
        """Through the compiled kernel where this signature has one and :mod:`._direct` found that to work: triton's own
        binder costs several times as much."""
        ordered = tuple(constants[name] for name in self.constant_names)
        key = (device, num_warps, num_stages, ordered, *map(specialization, args))
        compiled = self._compiled.get(key)
        if compiled is None:
            settle_hash(self.jit)
            compiled = self.jit[grid](*args, **options(num_warps, num_stages), **constants)
            if _direct.works():
                self._compiled[key] = compiled
        else:
            compiled[(*grid, 1, 1)[:3]](*args, *ordered)


def settle_hash(function, outer: tuple = ()) -> None:
    """Hashes a kernel's functions from the innermost out: triton 3.6 leaves the constants of a function that was not
    hashed before out of its caller's hash, and a kernel's place in the cache would hang on what else was compiled."""
    if isinstance(function, triton.runtime.JITFunction) and function not in outer:
        for name in function.fn.__code__.co_names:
            settle_hash(function.fn.__globals__.get(name), (*outer, function))
        _ = function.cache_key  # which triton then keeps


def options(num_warps: int, num_stages: int) -> dict:
    """What triton is told beside the arguments."""
    return {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True}


def specialization(arg):
    """What triton compiles a variant of a kernel for: the argument's type, alignment, and the number 1."""
    kind = type(arg)
    if kind is int:
        if arg == 1:
            return 1
        return ("i64" if not -(2**31) <= arg < 2**31 else "i32"), arg % 16 == 0
    if kind is float:
        return "f"
    if arg is None:
        return None
    return arg.dtype, arg.data_ptr() % 16 == 0


def kernel(*, hot: bool = True, products: bool = False) -> Callable[[Callable], Kernel]:
    """Decorates a kernel. ``hot`` and ``products``: :class:`Kernel`'s."""
    return lambda function: Kernel(function, hot, products)


@contextlib.contextmanager
def recording(capability: int | None, candidates: bool = True) -> Iterator[list[Launch]]:
    """Collects launches instead of running them, as a device of this compute capability (80, 90, ...) would get them,
    or with None the tensors' own. candidates: also those that a search of configurations would try."""
    global _recorder, _forced_capability, _with_candidates
    before = _recorder, _forced_capability, _with_candidates
    _recorder, _forced_capability, _with_candidates = [], capability, candidates
    try:
        yield _recorder
    finally:
        _recorder, _forced_capability, _with_candidates = before


@contextlib.contextmanager
def as_capability(value: int) -> Iterator[None]:
    """Launchers choose as on a device of this compute capability: the interpreter then runs those kernels."""
    global _forced_capability
    before, _forced_capability = _forced_capability, value
    try:
        yield
    finally:
        _forced_capability = before


def is_recording() -> bool:
    return _recorder is not None


def records_candidates() -> bool:
    return _recorder is not None and _with_candidates


def capability(device: torch.device) -> int:
    """The compute capability as one number: 80, 90, 100."""
    if _forced_capability is not None:
        return _forced_capability
    return 80 if device.type != "cuda" else _properties(device.index)[0]


def multiprocessors(device: torch.device) -> int:
    if device.type == "cuda" and _forced_capability is None:
        return _properties(device.index)[1]
    if INTERPRETED and _recorder is None:
        return 3
    return {80: 108, 90: 132}.get(capability(device), 148)


@lru_cache(maxsize=64)
def _properties(index: int) -> tuple[int, int]:
    major, minor = torch.cuda.get_device_capability(index)
    # 12.x multiplies as 8.x does, in as little shared memory: it gets the same tiles.
    chip = 80 if major >= 12 else major * 10 + minor
    return chip, torch.cuda.get_device_properties(index).multi_processor_count


def power_of_two(n: int) -> int:
    """The smallest that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def cdiv(a: int, b: int) -> int:
    return -(-a // b)
