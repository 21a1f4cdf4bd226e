"""Operators: argument checks, gradients and torch.library registration, a file per family."""

from . import activation, channel_sum, conv, group_norm, layer_norm, matmul

__all__ = ["activation", "channel_sum", "conv", "group_norm", "layer_norm", "matmul"]
