"""The extension ``dlperf._cuda``, and what its calls need of a tensor.

DLPERF_CUDA_EMULATED names an extension made of the same sources for the CPU (``tests/cuda_emulator``): the kernels then
run on CPU tensors, slowly, as on a device of capability DLPERF_CUDA_EMULATED_CAPABILITY (90).
"""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache

import torch
from torch import Tensor

EMULATED = os.environ.get("DLPERF_CUDA_EMULATED") or None
LEAST_CAPABILITY = 80
ALIGNMENT = 16  # bytes
VECTOR = 8  # values that kernels read at once
MOST_ELEMENTS = 2**31 - 1

STORAGE = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
HALVES = (torch.bfloat16, torch.float16)
ACTIVATIONS = {"none": 0, "relu": 1, "silu": 2, "gelu": 3, "gelu_tanh": 4}


def _load():
    if EMULATED is not None:
        spec = importlib.util.spec_from_file_location("_cuda_emulated", EMULATED)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    from dlperf import _cuda

    return _cuda


try:
    C = _load()
    load_error = None
except ImportError as error:
    C = None
    load_error = (
        f"dlperf was built without its CUDA kernels ({error}): install it where nvcc 12.8 or newer is found, with "
        "DLPERF_BUILD_CUDA=1"
    )


def capability(index: int | None) -> int:
    if EMULATED is not None:
        return int(os.environ.get("DLPERF_CUDA_EMULATED_CAPABILITY", "90"))
    return _properties(index)[0]


@lru_cache(maxsize=64)
def _properties(index: int) -> tuple[int, int]:
    major, minor = torch.cuda.get_device_capability(index)
    return major * 10 + minor, torch.cuda.get_device_properties(index).multi_processor_count


def processors(x: Tensor) -> int:
    return 4 if EMULATED is not None else _properties(x.device.index)[1]


def run(function, x: Tensor, *args):
    """function(device, *args) on x's device and its current stream."""
    if EMULATED is not None:
        return function(C.Device(capability(None), processors(x), 0), *args)
    index = x.device.index
    device = C.Device(*_properties(index), torch.cuda.current_stream(index).cuda_stream)
    if index == torch.cuda.current_device():
        return function(device, *args)
    with torch.cuda.device(index):
        return function(device, *args)


def plan_device(x: Tensor):
    """For questions that launch nothing."""
    return C.Device(capability(x.device.index), processors(x), 0)


def address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def floats(x: Tensor, *size: int) -> Tensor:
    """Float32 scratch on x's device."""
    return torch.empty(size, dtype=torch.float32, device=x.device)
