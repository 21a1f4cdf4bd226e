"""Batch norm layers, as torch.nn's. Forward also takes ``residual=`` and ``activation=``, run in the same pass."""

from __future__ import annotations

import torch
from torch import Tensor

from . import functional as F


def _forward(self, input: Tensor, *, residual: Tensor | None = None, activation: str | None = None) -> Tensor:
    self._check_input_dim(input)
    training, momentum = self.training, self.momentum
    running_mean, running_var = self.running_mean, self.running_var
    if training:
        if not self.track_running_stats:
            running_mean = running_var = None
        elif self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # the cumulative average
                momentum = 1.0 / float(self.num_batches_tracked)
    else:
        training = running_mean is None and running_var is None
    return F.batch_norm(
        input,
        running_mean,
        running_var,
        self.weight,
        self.bias,
        training,
        0.0 if momentum is None else momentum,
        self.eps,
        residual=residual,
        activation=activation,
    )


class BatchNorm1d(torch.nn.BatchNorm1d):
    forward = _forward


class BatchNorm2d(torch.nn.BatchNorm2d):
    forward = _forward


class BatchNorm3d(torch.nn.BatchNorm3d):
    forward = _forward
