"""Activation layers, as torch.nn's."""

from __future__ import annotations

import torch
from torch import Tensor

from . import functional as F


class SiLU(torch.nn.SiLU):
    def forward(self, input: Tensor) -> Tensor:
        return F.silu(input)
