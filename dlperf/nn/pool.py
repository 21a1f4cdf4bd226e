"""Pooling layers, as torch.nn's."""

from __future__ import annotations

import torch
from torch import Tensor

from . import functional as F


def _max_forward(function):
    def forward(self, input: Tensor):
        window = (self.kernel_size, self.stride, self.padding, self.dilation)
        return function(input, *window, ceil_mode=self.ceil_mode, return_indices=self.return_indices)

    return forward


class MaxPool1d(torch.nn.MaxPool1d):
    forward = _max_forward(F.max_pool1d)


class MaxPool2d(torch.nn.MaxPool2d):
    forward = _max_forward(F.max_pool2d)


class AvgPool1d(torch.nn.AvgPool1d):
    def forward(self, input: Tensor) -> Tensor:
        return F.avg_pool1d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


class AvgPool2d(torch.nn.AvgPool2d):
    def forward(self, input: Tensor) -> Tensor:
        window = (self.kernel_size, self.stride, self.padding, self.ceil_mode)
        return F.avg_pool2d(input, *window, self.count_include_pad, self.divisor_override)


class AdaptiveAvgPool1d(torch.nn.AdaptiveAvgPool1d):
    def forward(self, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveAvgPool2d(torch.nn.AdaptiveAvgPool2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(input, self.output_size)


class AdaptiveMaxPool1d(torch.nn.AdaptiveMaxPool1d):
    def forward(self, input: Tensor):
        return F.adaptive_max_pool1d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(torch.nn.AdaptiveMaxPool2d):
    def forward(self, input: Tensor):
        return F.adaptive_max_pool2d(input, self.output_size, self.return_indices)
