"""Triton kernels (``kernels/``) for NVIDIA GPUs from compute capability 8.0: float32, bfloat16 and float16.

With TRITON_INTERPRET=1 in the environment the same kernels run on CPU tensors in Triton's interpreter, to be tested
without a GPU; "auto" never chooses them there.
"""

from __future__ import annotations

import importlib
from functools import lru_cache

import torch
from torch import Tensor

try:
    from ..kernels import INTERPRETED, LEAST_CAPABILITY, ON_DEVICE, RULES
    from ..kernels import families as _families

    load_error = None
except ImportError as error:
    INTERPRETED, RULES, ON_DEVICE, _families = False, {}, {}, {}
    load_error = f"triton can't be imported: install triton 3.6 or newer to have these kernels ({error})"

FLOATS = (torch.float32, torch.bfloat16, torch.float16)

# operator -> the module of kernels/ that serves it
FAMILY_OF: dict[str, str] = {}
for _family, _operators in _families.items():
    _module = importlib.import_module(f"dlperf.kernels.{_family}")
    for _name in _operators:
        FAMILY_OF[_name] = _family
        globals()[_name] = getattr(_module, _name)


def why_not(op: str, *args) -> str | None:
    family = FAMILY_OF.get(op)
    if family is None:
        return load_error or f"the triton backend has no kernel for {op}"
    on_device = ON_DEVICE.get(op)
    if on_device is not None:
        args = on_device(args)
    reason = _why_not_tensors(args)
    if reason is None:
        rule = RULES.get(op)
        reason = _one_dtype(args) if rule is None else rule(*args)
    if reason is None and not INTERPRETED and not _asked_for():
        from ..kernels import verified

        return verified.why_not(family, next(a.device.index for a in args if isinstance(a, Tensor)))
    return reason


def _asked_for() -> bool:
    from . import is_asked_for

    return is_asked_for("triton")


def _why_not_tensors(args) -> str | None:
    """What holds for every operator: where its tensors lie. Strides are not for the kernels to mind."""
    index = None
    for arg in args:
        if isinstance(arg, Tensor):
            if INTERPRETED:
                if not arg.is_cpu:
                    return f"a tensor is on {arg.device}, and Triton's interpreter takes CPU tensors"
                if arg.dtype is torch.bfloat16:
                    return "Triton's interpreter multiplies bfloat16 wrongly: bfloat16 is tested on a GPU alone"
            elif not arg.is_cuda:
                return (
                    f"a tensor is on {arg.device}: the kernels run on NVIDIA GPUs, or with TRITON_INTERPRET=1 on CPUs"
                )
            elif index is None:
                index = arg.get_device()
                reason = _why_not_device(index)
                if reason is not None:
                    return reason
            elif arg.get_device() != index:
                return f"the tensors are on different GPUs, cuda:{index} and {arg.device}"
    return None


@lru_cache(maxsize=64)
def _why_not_device(index: int) -> str | None:
    major, minor = torch.cuda.get_device_capability(index)
    if torch.version.cuda is None:
        return "this torch is not built for NVIDIA GPUs"
    if major * 10 + minor < LEAST_CAPABILITY:
        return f"the GPU's compute capability is {major}.{minor}, and the kernels need {LEAST_CAPABILITY // 10}.0"
    return None


def _one_dtype(args) -> str | None:
    """The common rule: every tensor of one dtype, and that one served."""
    dtype = None
    for arg in args:
        if isinstance(arg, Tensor):
            if dtype is None:
                dtype = arg.dtype
                if dtype not in FLOATS:
                    return why_not_dtype(dtype)
            elif arg.dtype is not dtype:
                return "the tensors' dtypes differ"
    return None


def available() -> str | None:
    """None where the kernels can run, else why they can't."""
    if load_error is not None:
        return load_error
    if INTERPRETED:
        return None
    if not torch.cuda.is_available():
        return "torch sees no NVIDIA GPU; TRITON_INTERPRET=1 runs the kernels in Triton's interpreter, slowly"
    return _why_not_device(torch.cuda.current_device())


def why_not_dtype(dtype) -> str | None:
    return None if dtype in FLOATS else f"the kernels have no {str(dtype).removeprefix('torch.')}"


def state() -> str:
    """What `dlperf info` says of it where it is available."""
    if INTERPRETED:
        return "available, in Triton's interpreter"
    from ..kernels import _direct, verified

    device = torch.cuda.current_device()
    said = ["available"]
    unverified = [family for family in _families if verified.why_not(family, device) is not None]
    if unverified:
        said.append(f"unverified on this card, so not chosen unless named: {', '.join(unverified)}")
    if _direct.why_not() is not None:
        said.append(f"every launch goes through triton's binder, which costs more ({_direct.why_not()})")
    return "; ".join(said)
