"""Layer, RMS, group and instance norm, as torch.nn's. Batch norm has a file of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from . import functional as F


class LayerNorm(torch.nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(torch.nn.RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class GroupNorm(torch.nn.GroupNorm):
    """torch.nn.GroupNorm; ``activation="silu"`` (or another) is applied in the same pass."""

    activation: str | None = None

    def __init__(self, *args, activation: str | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.activation = activation

    def forward(self, input: Tensor) -> Tensor:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps, activation=self.activation)

    def extra_repr(self) -> str:
        fused = f", activation={self.activation!r}" if self.activation else ""
        return super().extra_repr() + fused


def _apply_instance_norm(self, input: Tensor) -> Tensor:
    return F.instance_norm(
        input,
        self.running_mean,
        self.running_var,
        self.weight,
        self.bias,
        self.training or not self.track_running_stats,
        self.momentum if self.momentum is not None else 0.0,
        self.eps,
    )


class InstanceNorm1d(torch.nn.InstanceNorm1d):
    _apply_instance_norm = _apply_instance_norm


class InstanceNorm2d(torch.nn.InstanceNorm2d):
    _apply_instance_norm = _apply_instance_norm


class InstanceNorm3d(torch.nn.InstanceNorm3d):
    _apply_instance_norm = _apply_instance_norm
