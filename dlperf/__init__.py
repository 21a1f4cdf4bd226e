"""Hand-written kernels that make PyTorch vision and diffusion models faster, on CPU and GPU.

    model = dlperf.optimize(model)      # same parameters, faster layers
    from dlperf import nn               # drop-in layers

``dlperf.report(model)`` tells which kernel serves each layer; ``dlperf check`` tests them all on this machine.
"""

from . import backends, nn, ops
from ._version import __version__
from .backends import backend
from .errors import BackendError

__all__ = ["BackendError", "__version__", "backend", "backends", "nn", "ops"]
