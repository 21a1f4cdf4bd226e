"""The extension module dlperf._C, or the sentence that says why it is not there."""

from __future__ import annotations

import os

import torch

try:
    from ... import _C as C

    load_error = None
    environment_error = None
    for variable, ok, expected in (
        ("DLPERF_ISA", C.isa_environment_ok(), f"one of {', '.join(C.ISAS)}"),
        ("DLPERF_FLOAT32_TILES", C.float32_tiles_environment_ok(), "0 or 1"),
    ):
        if not ok:
            environment_error = f"environment variable {variable}: expected {expected}, got {os.environ[variable]!r}"
except ImportError as error:
    C = environment_error = None
    load_error = (
        "the CPU kernels are not built on this machine: install dlperf on x86-64 Linux with a C++17 compiler "
        f"(g++ 11 or newer) to have them ({error})"
    )

# dtype -> the code that csrc/cpu/dtype.h gives it.
FLOATS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def why_not_dtype(dtype) -> str | None:
    """None for the dtypes that the kernels store, else the reason."""
    return None if dtype in FLOATS else f"the kernels have no {str(dtype).removeprefix('torch.')}"
