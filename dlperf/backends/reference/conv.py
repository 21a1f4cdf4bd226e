from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .batch_norm import _statistics
from .matmul import _finish


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
) -> Tensor:
    return _finish(F.conv2d(x, weight, bias, stride, padding, dilation, groups), residual, activation)


def conv2d_moments(x, weight, stride, padding, dilation, groups):
    y = F.conv2d(x, weight, None, stride, padding, dilation, groups)
    return y, *_statistics(y.detach())


def conv2d_bwd_input(
    gy: Tensor,
    weight: Tensor,
    input_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    channels_last: bool,
) -> Tensor:
    x = gy.new_empty(1).expand(input_size)
    none = [0, 0]
    mask = [True, False, False]
    return torch.ops.aten.convolution_backward(
        gy, x, weight, None, stride, padding, dilation, False, none, groups, mask
    )[0]


def conv2d_bwd_weight(
    gy: Tensor,
    x: Tensor,
    weight_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    channels_last: bool,
) -> Tensor:
    weight = x.new_empty(1).expand(weight_size)
    none = [0, 0]
    mask = [False, True, False]
    return torch.ops.aten.convolution_backward(
        gy, x, weight, None, stride, padding, dilation, False, none, groups, mask
    )[1]


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
) -> Tensor:
    y = F.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)
    return _finish(y, None, activation)
