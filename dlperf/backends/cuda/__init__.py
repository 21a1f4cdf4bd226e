"""CUDA C++ kernels (``csrc/cuda``) for NVIDIA GPUs from compute capability 8.0; those of 9.0 have kernels of their own.

Where a launch fails, or its workspace does not fit, the next backend takes over under "auto", and a failed operator is
declined from then on with the error as the reason.
"""

from __future__ import annotations

from functools import lru_cache, wraps

import torch
from torch import Tensor

from . import attention as _attention
from . import elementwise as _elementwise
from . import norms as _norms
from . import products as _products
from . import random as _random
from ._library import ALIGNMENT, EMULATED, LEAST_CAPABILITY, MOST_ELEMENTS, STORAGE, C, load_error
from ._rules import RULES

# family -> its operators
FAMILIES = {
    "activation": ("activation", "activation_", "activation_bwd"),
    "channel_sum": ("channel_sum",),
    "matmul": ("linear", "bmm"),
    "conv": ("conv2d", "conv2d_moments", "conv2d_bwd_input", "conv2d_bwd_weight", "conv_transpose2d"),
    "layer_norm": ("layer_norm", "layer_norm_bwd", "rms_norm", "rms_norm_bwd"),
    "batch_norm": (
        "batch_norm_train",
        "batch_norm_eval",
        "batch_norm_given",
        "batch_norm_bwd",
        "batch_norm_update",
    ),
    "group_norm": ("group_norm", "group_norm_bwd"),
    "attention": ("attention", "attention_bwd"),
    "dropout": ("dropout",),
    "diffusion": ("diffusion_step", "add_noise"),
}
FAMILY_OF = {op: family for family, ops in FAMILIES.items() for op in ops}
_failed: dict[str, str] = {}


def _guarded(op: str, function):
    @wraps(function)
    def call(*args):
        try:
            return function(*args)
        except (C.LaunchError, torch.OutOfMemoryError) as error:
            from ... import backends
            from ...errors import BackendError

            if backends.named() == "cuda":
                raise BackendError(f"{op}: {error}") from error
            if isinstance(error, C.LaunchError):
                _failed[op] = f"a launch failed: {error}"
                return getattr(backends.select(op, args), op)(*args)
            return getattr(backends.select_after("cuda", op, args), op)(*args)

    return call


for _module in (_attention, _elementwise, _norms, _products, _random):
    for _name in _module.__all__:
        globals()[_name] = _guarded(_name, getattr(_module, _name))


def why_not(op: str, *args) -> str | None:
    if load_error is not None:
        return load_error
    rule = RULES.get(op)
    if rule is None:
        return f"the cuda backend has no kernel for {op}"
    reason = _failed.get(op) or _why_not_tensors(args) or rule(*args)
    if reason is None and EMULATED is None and not _asked_for():
        from . import verified

        return verified.why_not(FAMILY_OF[op], next(a.device.index for a in args if isinstance(a, Tensor)))
    return reason


def _asked_for() -> bool:
    from .. import is_asked_for

    return is_asked_for("cuda")


def _why_not_tensors(args) -> str | None:
    """What holds for every operator: where its tensors lie, how large and how aligned they are."""
    for arg in args:
        if not isinstance(arg, Tensor):
            continue
        if EMULATED is not None:
            if not arg.is_cpu:
                return f"a tensor is on {arg.device}, and the emulator takes CPU tensors"
        elif not arg.is_cuda:
            return f"a tensor is on {arg.device}: the kernels run on NVIDIA GPUs"
        else:
            reason = _why_not_device(arg.device.index)
            if reason is not None:
                return reason
        if arg.numel() > MOST_ELEMENTS:
            return f"a tensor has {arg.numel()} elements, and the kernels count to {MOST_ELEMENTS}"
        if arg.is_floating_point() and arg.data_ptr() % ALIGNMENT:
            return f"a tensor's address is no multiple of {ALIGNMENT} bytes"
    return None


@lru_cache(maxsize=64)
def _why_not_device(index: int) -> str | None:
    if torch.version.cuda is None:
        return "this torch is not built for NVIDIA GPUs"
    major, minor = torch.cuda.get_device_capability(index)
    if major * 10 + minor < LEAST_CAPABILITY:
        return f"the GPU's compute capability is {major}.{minor}, and the kernels need {LEAST_CAPABILITY // 10}.0"
    return None


def available() -> str | None:
    """None where the kernels can run, else why they can't."""
    if load_error is not None:
        return load_error
    if EMULATED is not None:
        return None
    if not torch.cuda.is_available():
        return C.device_error() or "torch sees no NVIDIA GPU"
    return _why_not_device(torch.cuda.current_device())


def why_not_dtype(dtype) -> str | None:
    if load_error is not None:
        return load_error
    return None if dtype in STORAGE else f"the kernels have no {str(dtype).removeprefix('torch.')}"


def state() -> str:
    """What `dlperf info` says of it where it is available."""
    if EMULATED is not None:
        return "available, emulated on the CPU"
    from . import verified

    device = torch.cuda.current_device()
    unverified = [family for family in FAMILIES if verified.why_not(family, device) is not None]
    if not unverified:
        return "available"
    return f"available; unverified on this card, so not chosen unless named: {', '.join(unverified)}"
