"""Compiles what calls will launch on a card, on all processors, into triton's cache.

``dlperf check`` launches some 4000 variants of the kernels (dtypes, alignments, numbers that are 1 or multiples of 16);
one after the other they take half an hour to compile. So the calls are made once while their launches are only noted,
and processes that never touch the GPU compile them. What they compile is what triton's own binder makes of equal
arguments, so that the calls then find it in triton's cache.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import torch

from . import _launch
from .aot import TYPES, Variant, variant_of

_DTYPES = {name: dtype for dtype, name in TYPES.items()}


class TargetDriver:
    """What triton asks of a driver in order to compile, for a card of this compute capability."""

    def __init__(self, capability: int):
        self.capability = capability

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def argument(kind: str, is_one: bool, is_multiple: bool):
    """A value that triton takes for the same as the one a variant was made of."""
    if kind == "none":
        return None
    if is_one:
        return 1
    if kind.startswith("*"):
        x = torch.empty(32, dtype=_DTYPES[kind[1:]])
        first = (-x.data_ptr() % 16) // x.itemsize  # where the memory is a multiple of 16
        return x[first:] if is_multiple else x[first + 1 :]
    if kind == "fp32":
        return 0.5
    return {"i32": 16, "i64": 2**32}[kind] + (0 if is_multiple else 1)


def compile_for(capability: int, variant: Variant):
    """The compiled kernel, or None where that fails: the launch will say how. For a process of its own: triton's
    driver is replaced."""
    try:
        import triton

        from dlperf.backends import triton as _backend  # noqa: F401  all kernels, in a new process

        triton.runtime.driver.set_active(TargetDriver(capability))
        kernel = _launch.KERNELS[variant.kernel]
        _launch.settle_hash(kernel.jit)
        arguments = map(argument, variant.types, variant.ones, variant.multiples)
        options = _launch.options(variant.num_warps, variant.num_stages)
        return kernel.jit.warmup(*arguments, grid=(1,), **options, **dict(variant.constants))
    except Exception:
        return None


def _compiles(capability: int, variant: Variant) -> bool:
    return compile_for(capability, variant) is not None


def launched_by(calls: Iterable[Callable[[], object]]) -> list[Variant]:
    """The distinct variants that the calls launch, in order. What fails, making a call included, is left to tell when
    it is wanted in earnest."""
    found: dict[Variant, None] = {}
    waiting = iter(calls)
    with _launch.recording(None, candidates=False) as launches:
        while True:
            try:
                next(waiting)()
            except StopIteration:
                return list(found)
            except Exception:
                continue
            finally:
                found.update(dict.fromkeys(map(variant_of, launches)))
                launches.clear()  # which hold the calls' tensors


def launched_by_cases(families: Iterable[str], device: str) -> list[Variant]:
    from dlperf.testing.cases import FAMILIES
    from dlperf.testing.run import call_case

    cases = ((case, dtype) for family in families for case in FAMILIES[family] for dtype in case.dtypes)
    return launched_by(partial(call_case, case, dtype, "triton", device) for case, dtype in cases)


def compile_all(variants: list[Variant], device: int) -> int:
    """Compiles them for this GPU; returns how many could be."""
    major, minor = torch.cuda.get_device_capability(device)
    workers = max(1, min(os.cpu_count() or 1, len(variants) // 4))
    work = partial(_compiles, major * 10 + minor)
    # not forked: the parent has touched the GPU
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            return sum(pool.map(work, variants, chunksize=4))
        except BrokenProcessPool:  # a process was ended from outside: what is left compiles at its launch
            return 0
