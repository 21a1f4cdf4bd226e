"""Operators: argument checks, gradients and torch.library registration, a file per family."""

from . import activation

__all__ = ["activation"]
