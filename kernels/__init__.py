"""Triton kernels, a file per family: kernels, launcher, configurations. ``dlperf.backends.triton`` serves them."""

from __future__ import annotations

from ._launch import INTERPRETED
from ._rules import ON_DEVICE, RULES

LEAST_CAPABILITY = 80

# module -> the operators that it serves
families: dict[str, tuple[str, ...]] = {
    "activation": ("activation", "activation_", "activation_bwd"),
    "add": ("add",),
    "glu": ("glu", "glu_bwd"),
    "dropout": ("dropout",),
    "softmax": ("softmax", "softmax_bwd"),
    "cross_entropy": ("cross_entropy", "cross_entropy_bwd"),
    "loss": ("pair_loss", "pair_loss_bwd", "nll_loss", "nll_loss_bwd"),
    "layer_norm": ("layer_norm", "layer_norm_bwd", "rms_norm", "rms_norm_bwd"),
    "batch_norm": (
        "batch_norm_train",
        "batch_norm_given",
        "batch_norm_eval",
        "batch_norm_bwd",
        "batch_norm_update",
    ),
    "matmul": ("linear", "bmm"),
    "conv": ("conv2d", "conv2d_moments", "conv2d_bwd_input", "conv2d_bwd_weight", "conv_transpose2d"),
    "recurrent": ("recurrent", "recurrent_bwd"),
    "attention": ("attention", "attention_bwd"),
    "diffusion": ("diffusion_step", "add_noise"),
    "pool": ("max_pool", "max_pool_bwd", "avg_pool", "avg_pool_bwd"),
    "upsample": ("upsample", "upsample_bwd"),
    "pixel_shuffle": ("pixel_shuffle", "pixel_unshuffle"),
    "embedding": ("embedding", "embedding_bwd"),
    "channel_sum": ("channel_sum",),
    "group_norm": ("group_norm", "group_norm_bwd"),
}

__all__ = ["INTERPRETED", "LEAST_CAPABILITY", "ON_DEVICE", "RULES", "families"]
