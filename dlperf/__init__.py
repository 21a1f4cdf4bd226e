"""Hand-written kernels that make PyTorch vision and diffusion models faster, on CPU and GPU.

    model = dlperf.optimize(model)      # same parameters, faster layers
    from dlperf import nn               # drop-in layers

``dlperf.report(model)`` tells which kernel serves each layer; ``dlperf check`` tests them all on this machine.
"""

import os as _os

from . import backends, memory, nn, ops
from ._version import __version__
from .backends import backend
from .errors import BackendError
from .optimize import optimize, report
from .precision import precision

__all__ = [
    "BackendError",
    "__version__",
    "backend",
    "backends",
    "memory",
    "nn",
    "ops",
    "optimize",
    "precision",
    "report",
]


def _single_thread_after_fork() -> None:
    """A forked child has none of the parent's OpenMP threads and would wait for them for ever."""
    import torch

    torch.set_num_threads(1)


if hasattr(_os, "register_at_fork"):
    _os.register_at_fork(after_in_child=_single_thread_after_fork)
