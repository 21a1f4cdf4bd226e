"""Operators: argument checks, gradients and torch.library registration, a file per family."""

from . import (
    activation,
    add,
    attention,
    batch_norm,
    channel_sum,
    conv,
    cross_entropy,
    diffusion,
    dropout,
    group_norm,
    layer_norm,
    matmul,
    pool,
    softmax,
)

__all__ = [
    "activation",
    "add",
    "attention",
    "batch_norm",
    "channel_sum",
    "conv",
    "cross_entropy",
    "diffusion",
    "dropout",
    "group_norm",
    "layer_norm",
    "matmul",
    "pool",
    "softmax",
]
