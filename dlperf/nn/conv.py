"""Convolution layers, as torch.nn's."""

from __future__ import annotations

import torch
from torch import Tensor

from . import functional as F


def _padded(layer, input: Tensor):
    """The input and the padding left to the operator: only zeros are its business."""
    if layer.padding_mode == "zeros":
        return input, layer.padding
    return F.pad(input, layer._reversed_padding_repeated_twice, mode=layer.padding_mode), 0


def _output_padding(layer, input: Tensor, output_size, rank: int):
    if layer.padding_mode != "zeros":
        raise ValueError(f"Only `zeros` padding mode is supported for {type(layer).__name__}")
    if output_size is None:
        return layer.output_padding
    return layer._output_padding(
        input, output_size, layer.stride, layer.padding, layer.kernel_size, rank, layer.dilation
    )


class Conv1d(torch.nn.Conv1d):
    def forward(self, input: Tensor, *, residual: Tensor | None = None, activation: str | None = None) -> Tensor:
        x, padding = _padded(self, input)
        rest = (self.stride, padding, self.dilation, self.groups)
        return F.conv1d(x, self.weight, self.bias, *rest, residual=residual, activation=activation)


class Conv2d(torch.nn.Conv2d):
    def forward(self, input: Tensor, *, residual: Tensor | None = None, activation: str | None = None) -> Tensor:
        x, padding = _padded(self, input)
        rest = (self.stride, padding, self.dilation, self.groups)
        return F.conv2d(x, self.weight, self.bias, *rest, residual=residual, activation=activation)


class ConvTranspose1d(torch.nn.ConvTranspose1d):
    def forward(self, input: Tensor, output_size=None, *, activation: str | None = None) -> Tensor:
        output_padding = _output_padding(self, input, output_size, 1)
        rest = (self.stride, self.padding, output_padding, self.groups, self.dilation)
        return F.conv_transpose1d(input, self.weight, self.bias, *rest, activation=activation)


class ConvTranspose2d(torch.nn.ConvTranspose2d):
    def forward(self, input: Tensor, output_size=None, *, activation: str | None = None) -> Tensor:
        output_padding = _output_padding(self, input, output_size, 2)
        rest = (self.stride, self.padding, output_padding, self.groups, self.dilation)
        return F.conv_transpose2d(input, self.weight, self.bias, *rest, activation=activation)
