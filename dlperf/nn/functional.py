"""torch.nn.functional with dlperf's operators in it. Names that dlperf has not fall through to torch's own."""

from __future__ import annotations

import torch.nn.functional as _torch_functional

from ..ops.activation import relu, silu

__all__ = ["relu", "silu"]


def __getattr__(name: str):
    return getattr(_torch_functional, name)


def __dir__():
    return sorted({*__all__, *dir(_torch_functional)})
