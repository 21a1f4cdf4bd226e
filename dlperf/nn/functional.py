"""torch.nn.functional with dlperf's operators in it. Names that dlperf has not fall through to torch's own."""

from __future__ import annotations

import torch.nn.functional as _torch_functional

from ..ops.activation import relu, silu
from ..ops.conv import conv1d, conv2d, conv_transpose1d, conv_transpose2d
from ..ops.group_norm import group_norm, instance_norm
from ..ops.layer_norm import layer_norm, rms_norm
from ..ops.matmul import addmm, baddbmm, bmm, linear, matmul, mm

__all__ = [
    "addmm",
    "baddbmm",
    "bmm",
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "linear",
    "matmul",
    "mm",
    "relu",
    "rms_norm",
    "silu",
]


def __getattr__(name: str):
    return getattr(_torch_functional, name)


def __dir__():
    return sorted({*__all__, *dir(_torch_functional)})
