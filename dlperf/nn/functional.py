"""torch.nn.functional with dlperf's operators in it. Names that dlperf has not fall through to torch's own."""

from __future__ import annotations

import torch.nn.functional as _torch_functional

from ..ops.activation import (
    elu,
    gelu,
    hardsigmoid,
    hardswish,
    leaky_relu,
    mish,
    relu,
    relu6,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from ..ops.add import add
from ..ops.attention import scaled_dot_product_attention
from ..ops.batch_norm import batch_norm
from ..ops.conv import conv1d, conv2d, conv2d_batch_norm, conv_transpose1d, conv_transpose2d
from ..ops.cross_entropy import cross_entropy
from ..ops.dropout import dropout
from ..ops.embedding import embedding
from ..ops.glu import geglu, glu, reglu, swiglu
from ..ops.group_norm import group_norm, instance_norm
from ..ops.layer_norm import layer_norm, rms_norm
from ..ops.loss import (
    binary_cross_entropy_with_logits,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from ..ops.matmul import addmm, baddbmm, bmm, linear, matmul, mm
from ..ops.multi_head_attention import multi_head_attention_forward
from ..ops.pixel_shuffle import pixel_shuffle, pixel_unshuffle
from ..ops.pool import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    avg_pool1d,
    avg_pool2d,
    max_pool1d,
    max_pool2d,
)
from ..ops.recurrent import gru_layer, lstm_layer, rnn_layer
from ..ops.softmax import log_softmax, softmax
from ..ops.unbind import chunk, unbind
from ..ops.upsample import interpolate

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "add",
    "addmm",
    "avg_pool1d",
    "avg_pool2d",
    "baddbmm",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "bmm",
    "chunk",
    "conv1d",
    "conv2d",
    "conv2d_batch_norm",
    "conv_transpose1d",
    "conv_transpose2d",
    "cross_entropy",
    "dropout",
    "elu",
    "embedding",
    "geglu",
    "gelu",
    "glu",
    "group_norm",
    "gru_layer",
    "hardsigmoid",
    "hardswish",
    "huber_loss",
    "instance_norm",
    "interpolate",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "lstm_layer",
    "matmul",
    "max_pool1d",
    "max_pool2d",
    "mish",
    "mm",
    "mse_loss",
    "multi_head_attention_forward",
    "nll_loss",
    "pixel_shuffle",
    "pixel_unshuffle",
    "reglu",
    "relu",
    "relu6",
    "rms_norm",
    "rnn_layer",
    "scaled_dot_product_attention",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "swiglu",
    "tanh",
    "unbind",
]


def __getattr__(name: str):
    return getattr(_torch_functional, name)


def __dir__():
    return sorted({*__all__, *dir(_torch_functional)})
