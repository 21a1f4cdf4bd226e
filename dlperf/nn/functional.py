"""torch.nn.functional with dlperf's operators in it. Names that dlperf has not fall through to torch's own."""

from __future__ import annotations

import torch.nn.functional as _torch_functional

from ..ops.activation import relu, silu
from ..ops.group_norm import group_norm, instance_norm
from ..ops.layer_norm import layer_norm, rms_norm

__all__ = ["group_norm", "instance_norm", "layer_norm", "relu", "rms_norm", "silu"]


def __getattr__(name: str):
    return getattr(_torch_functional, name)


def __dir__():
    return sorted({*__all__, *dir(_torch_functional)})
