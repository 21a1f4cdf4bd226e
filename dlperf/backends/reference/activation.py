from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_FORWARD = {
    "none": lambda x, p: x.clone(),
    "relu": lambda x, p: F.relu(x),
    "relu6": lambda x, p: F.relu6(x),
    "leaky_relu": lambda x, p: F.leaky_relu(x, p),
    "elu": lambda x, p: F.elu(x, p),
    "gelu": lambda x, p: F.gelu(x),
    "gelu_tanh": lambda x, p: F.gelu(x, approximate="tanh"),
    "silu": lambda x, p: F.silu(x),
    "sigmoid": lambda x, p: torch.sigmoid(x),
    "tanh": lambda x, p: torch.tanh(x),
    "hardsigmoid": lambda x, p: F.hardsigmoid(x),
    "hardswish": lambda x, p: F.hardswish(x),
    "softplus": lambda x, p: F.softplus(x, beta=p),
    "mish": lambda x, p: F.mish(x),
}


def _between(x: Tensor, low: float, high: float) -> Tensor:
    return ((x > low) & (x < high)).to(x.dtype)


def _silu_grad(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def _gelu_grad(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _gelu_tanh_grad(x: Tensor) -> Tensor:
    c = math.sqrt(2 / math.pi)
    t = torch.tanh(c * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)


def _mish_grad(x: Tensor) -> Tensor:
    t = torch.tanh(F.softplus(x))
    return t + x * (1 - t * t) * torch.sigmoid(x)


# act'(x), in terms that autograd can differentiate again
_DERIVATIVE = {
    "none": lambda x, p: torch.ones_like(x),
    "relu": lambda x, p: (x > 0).to(x.dtype),
    "relu6": lambda x, p: _between(x, 0, 6),
    "leaky_relu": lambda x, p: torch.where(x > 0, 1.0, torch.full_like(x, p)),
    "elu": lambda x, p: torch.where(x > 0, 1.0, p * torch.exp(x.clamp(max=0))),
    "gelu": lambda x, p: _gelu_grad(x),
    "gelu_tanh": lambda x, p: _gelu_tanh_grad(x),
    "silu": lambda x, p: _silu_grad(x),
    "sigmoid": lambda x, p: torch.sigmoid(x) * (1 - torch.sigmoid(x)),
    "tanh": lambda x, p: 1 - torch.tanh(x) ** 2,
    "hardsigmoid": lambda x, p: _between(x, -3, 3) / 6,
    "hardswish": lambda x, p: torch.where(x >= 3, 1.0, torch.where(x <= -3, 0.0, x / 3 + 0.5)),
    "softplus": lambda x, p: torch.where(x * p > 20, 1.0, torch.sigmoid(x * p)),
    "mish": lambda x, p: _mish_grad(x),
}


def activation(x: Tensor, kind: str, param: float) -> Tensor:
    return _FORWARD[kind](x, param)


def activation_(x: Tensor, kind: str, param: float) -> None:
    x.copy_(_FORWARD[kind](x, param))


def activation_bwd(gy: Tensor, x: Tensor, kind: str, param: float) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    return (gy.to(wide) * _DERIVATIVE[kind](x.to(wide), param)).to(x.dtype)
