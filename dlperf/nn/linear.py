"""Linear layers, as torch.nn's."""

from __future__ import annotations

import torch
from torch import Tensor

from . import functional as F


class Linear(torch.nn.Linear):
    def forward(self, input: Tensor, *, residual: Tensor | None = None, activation: str | None = None) -> Tensor:
        return F.linear(input, self.weight, self.bias, residual=residual, activation=activation)
