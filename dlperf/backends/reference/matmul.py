from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .activation import _FORWARD


def _finish(y: Tensor, residual: Tensor | None, kind: str) -> Tensor:
    if residual is not None:
        y = y + residual
    return y if kind == "none" else _FORWARD[kind](y, 0.0)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str) -> Tensor:
    return _finish(F.linear(x, weight, bias), residual, activation)


def bmm(
    a: Tensor, b: Tensor, bias: Tensor | None, input: Tensor | None, beta: float, alpha: float, activation: str
) -> Tensor:
    # Integer products take integer factors only.
    if not (a.is_floating_point() or a.is_complex()):
        beta, alpha = int(beta), int(alpha)
    if a.dim() == 2 and input is not None:
        y = torch.addmm(input, a, b, beta=beta, alpha=alpha)
    elif a.dim() == 3 and input is not None:
        y = torch.baddbmm(input, a, b, beta=beta, alpha=alpha)
    else:
        y = torch.matmul(a, b)
        if alpha != 1:
            y = y * alpha
        if input is not None and beta != 0:
            y = y + (input if beta == 1 else input * beta)
    return _finish(y, bias, activation)
