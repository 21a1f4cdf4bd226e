"""torch.nn with dlperf's layers in it: ``from dlperf import nn``.

The layers subclass torch's, hold the same parameters under the same names, and load each other's state_dict.
Every name that dlperf has no layer for is torch.nn's own.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import torch.nn as _torch_nn

from . import functional
from ._exchange import outside as _outside_exchange
from .activation import (
    ELU,
    GELU,
    Dropout,
    Hardsigmoid,
    Hardswish,
    LeakyReLU,
    LogSoftmax,
    Mish,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from .attention import MultiheadAttention
from .batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .conv import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from .cross_entropy import CrossEntropyLoss
from .glu import GLU
from .linear import Linear
from .loss import BCEWithLogitsLoss, HuberLoss, KLDivLoss, L1Loss, MSELoss, NLLLoss, SmoothL1Loss
from .norm import GroupNorm, InstanceNorm1d, InstanceNorm2d, InstanceNorm3d, LayerNorm, RMSNorm
from .pool import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    MaxPool1d,
    MaxPool2d,
)
from .recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from .resample import Embedding, PixelShuffle, PixelUnshuffle, Upsample, UpsamplingBilinear2d, UpsamplingNearest2d
from .transformer import (
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)

__all__ = [
    "ELU",
    "GELU",
    "GLU",
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "GRUCell",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "HuberLoss",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "KLDivLoss",
    "L1Loss",
    "LSTMCell",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MSELoss",
    "MaxPool1d",
    "MaxPool2d",
    "Mish",
    "MultiheadAttention",
    "NLLLoss",
    "PixelShuffle",
    "PixelUnshuffle",
    "RMSNorm",
    "RNNCell",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "SmoothL1Loss",
    "Softmax",
    "Softplus",
    "Tanh",
    "Transformer",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "Upsample",
    "UpsamplingBilinear2d",
    "UpsamplingNearest2d",
    "functional",
]

# Layers by torch class: what `optimize` swaps.
LAYERS = {
    cls.__mro__[1]: cls
    for cls in (
        AdaptiveAvgPool1d,
        AdaptiveAvgPool2d,
        AdaptiveMaxPool1d,
        AdaptiveMaxPool2d,
        AvgPool1d,
        AvgPool2d,
        BatchNorm1d,
        BatchNorm2d,
        BatchNorm3d,
        BCEWithLogitsLoss,
        Conv1d,
        Conv2d,
        ConvTranspose1d,
        ConvTranspose2d,
        CrossEntropyLoss,
        Dropout,
        ELU,
        Embedding,
        GELU,
        GLU,
        GroupNorm,
        GRU,
        GRUCell,
        Hardsigmoid,
        Hardswish,
        HuberLoss,
        InstanceNorm1d,
        InstanceNorm2d,
        InstanceNorm3d,
        KLDivLoss,
        L1Loss,
        LayerNorm,
        LeakyReLU,
        Linear,
        LogSoftmax,
        LSTM,
        LSTMCell,
        MaxPool1d,
        MaxPool2d,
        Mish,
        MSELoss,
        MultiheadAttention,
        NLLLoss,
        PixelShuffle,
        PixelUnshuffle,
        ReLU,
        ReLU6,
        RMSNorm,
        RNN,
        RNNCell,
        Sigmoid,
        SiLU,
        SmoothL1Loss,
        Softmax,
        Softplus,
        Tanh,
        Transformer,
        TransformerDecoder,
        TransformerDecoderLayer,
        TransformerEncoder,
        TransformerEncoderLayer,
        Upsample,
        UpsamplingBilinear2d,
        UpsamplingNearest2d,
    )
}


def _alias_submodules() -> None:
    """Lets `import dlperf.nn.init` and the like find torch's modules, without importing any that torch did not."""
    for module in list(pkgutil.iter_modules(_torch_nn.__path__)):
        name = f"{__name__}.{module.name}"
        origin = sys.modules.get(f"{_torch_nn.__name__}.{module.name}")
        if origin is None or name in sys.modules or module.name == "functional":
            continue
        sys.modules[name] = origin
        prefix = origin.__name__ + "."
        for full, loaded in list(sys.modules.items()):
            if full.startswith(prefix):
                sys.modules.setdefault(name + "." + full[len(prefix) :], loaded)


_alias_submodules()


def __getattr__(name: str):
    try:
        return getattr(_torch_nn, name)
    except AttributeError:
        pass
    try:
        return importlib.import_module(f"{_torch_nn.__name__}.{name}")
    except ModuleNotFoundError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}, and neither has torch.nn") from None


def __dir__():
    return sorted({*__all__, *dir(_torch_nn)})


for _layer in LAYERS.values():
    _layer.forward = _outside_exchange(_layer.forward)
