from __future__ import annotations

import torch

from .activation import activation as _act
from .activation import activation_bwd as _act_bwd


def _wide(x):
    return x.to(torch.promote_types(x.dtype, torch.float32))


def glu(x, dim, kind):
    a, b = _wide(x).chunk(2, dim)
    return (a * _act(b, kind, 0.0)).to(x.dtype)


def glu_bwd(gy, x, dim, kind):
    a, b = _wide(x).chunk(2, dim)
    g = _wide(gy)
    return torch.cat((g * _act(b, kind, 0.0), _act_bwd(g * a, b, kind, 0.0)), dim).to(x.dtype)
