"""Operators: argument checks, gradients and torch.library registration, a file per family."""

from . import activation, group_norm, layer_norm

__all__ = ["activation", "group_norm", "layer_norm"]
