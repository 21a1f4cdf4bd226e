"""Gated linear unit layers, as torch.nn's."""

from __future__ import annotations

import torch
from torch import Tensor

from . import functional as F


class GLU(torch.nn.GLU):
    def forward(self, input: Tensor) -> Tensor:
        return F.glu(input, self.dim)
