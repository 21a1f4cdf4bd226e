"""Memory that CPU kernels use again instead of returning it to the system after each call.

Large results and the scratch of kernels come from a cache: mapping fresh memory costs more than many
layers do. What nothing has used for ten seconds goes back to the system by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

try:
    from . import _C as C
except ImportError:
    C = None

# Below this malloc serves from memory that it keeps itself.
SMALLEST = 256 << 10

_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_PLAIN = (Tensor, torch.nn.Parameter)
_from_dlpack = torch.utils.dlpack.from_dlpack


def _cached(x: Tensor, size, strides, dtype: torch.dtype) -> Tensor | None:
    """Uninitialised memory from the cache, or None where torch is to allocate."""
    if C is None or not x.is_cpu or type(x) not in _PLAIN or dtype not in _CODES:
        return None
    if torch.are_deterministic_algorithms_enabled():
        return None
    capsule = C.empty(size, strides, _CODES[dtype])
    return None if capsule is None else _from_dlpack(capsule)


def _bytes(size, dtype: torch.dtype) -> int:
    count = dtype.itemsize
    for n in size:
        count *= n
    return count


def new_empty_strided(x: Tensor, size, strides, dtype: torch.dtype | None = None) -> Tensor:
    """``x.new_empty_strided(size, strides, dtype=dtype)`` for dense strides, from the cache where it is large.

    Only plain CPU tensors of float32, bfloat16 or float16 use the cache. In torch's deterministic mode torch allocates,
    so that its filling of uninitialised memory holds. The same goes for the functions below.
    """
    dtype = dtype or x.dtype
    out = _cached(x, size, strides, dtype) if _bytes(size, dtype) >= SMALLEST else None
    return x.new_empty_strided(size, strides, dtype=dtype) if out is None else out


def new_empty(x: Tensor, size, memory_format=torch.contiguous_format, dtype: torch.dtype | None = None) -> Tensor:
    """``torch.empty(size, memory_format=...)`` of x's dtype and device, from the cache where it is large."""
    dtype = dtype or x.dtype
    if x.is_cpu and type(x) in _PLAIN and _bytes(size, dtype) >= SMALLEST:
        strides = _strides(size, memory_format)
        out = None if strides is None else _cached(x, size, strides, dtype)
        if out is not None:
            return out
    if memory_format is torch.contiguous_format:
        return x.new_empty(size, dtype=dtype)
    return torch.empty(size, dtype=dtype, device=x.device, memory_format=memory_format)


def empty_like(x: Tensor, memory_format=torch.preserve_format, dtype: torch.dtype | None = None) -> Tensor:
    """``torch.empty_like(x, memory_format=..., dtype=...)``, from the cache where it is large."""
    out, dtype = None, dtype or x.dtype
    if x.is_cpu and type(x) in _PLAIN and _bytes(x.shape, dtype) >= SMALLEST:
        if memory_format is not torch.preserve_format:
            strides = _strides(x.shape, memory_format)
        elif x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)):
            strides = x.stride()
        else:
            strides = None
        out = None if strides is None else _cached(x, x.shape, strides, dtype)
    return torch.empty_like(x, memory_format=memory_format, dtype=dtype) if out is None else out


def block(bytes: int, align: int) -> Tensor:
    """Uninitialised bytes on the CPU whose address is a multiple of ``align``; on huge pages where there are many."""
    count = -(-(bytes + align) // 4)
    capsule = C.empty((count,), (1,), _CODES[torch.float32]) if C is not None and bytes >= SMALLEST else None
    storage = torch.empty(count) if capsule is None else _from_dlpack(capsule)
    storage = storage.view(torch.uint8)
    start = -storage.data_ptr() % align
    return storage[start : start + bytes]


def empty_strided(size: tuple, strides: tuple, dtype: torch.dtype) -> Tensor:
    """``torch.empty_strided`` on the CPU for dense strides, from the cache where it is large."""
    if C is not None and dtype in _CODES and _bytes(size, dtype) >= SMALLEST:
        capsule = None if torch.are_deterministic_algorithms_enabled() else C.empty(size, strides, _CODES[dtype])
        if capsule is not None:
            return _from_dlpack(capsule)
    return torch.empty_strided(size, strides, dtype=dtype)


def _strides(size, memory_format) -> tuple[int, ...] | None:
    if memory_format is torch.channels_last and len(size) == 4:
        _, c, h, w = size
        return h * w * c, 1, w * c, c
    if memory_format is not torch.contiguous_format:
        return None
    strides, step = [], 1
    for n in reversed(size):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


@dataclass(frozen=True)
class Stats:
    """Bytes: ``used`` by tensors and scratch now, ``kept`` for reuse, ``peak`` of ``used`` since the start."""

    used: int
    kept: int
    peak: int


def stats() -> Stats:
    """What the cache holds."""
    return Stats(*C.memory_stats()) if C is not None else Stats(0, 0, 0)


def empty_cache() -> int:
    """Returns what is kept for reuse to the system. Gives the number of bytes."""
    return C.empty_cache() if C is not None else 0
