from __future__ import annotations

import torch

from ._case import Case

# Around one vector of each instruction set (8, 16 lanes) and of the unrolled loop.
SIZES = (0, 1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 1000)

FUNCTIONS: dict[str, dict] = {
    "relu": {},
    "relu6": {},
    "leaky_relu": {"negative_slope": 0.1},
    "elu": {"alpha": 1.5},
    "gelu": {},
    "silu": {},
    "sigmoid": {},
    "tanh": {},
    "hardsigmoid": {},
    "hardswish": {},
    "softplus": {"beta": 2.0},
    "mish": {},
}


def _sized(function: str, n: int, **kwargs) -> Case:
    return Case(function, f"n{n}", lambda make: ((make(n, scale=3),), kwargs))


def _view(function: str, id: str, view, **kwargs) -> Case:
    return Case(function, id, lambda make: ((view(make(4, 6, 5, 3)),), kwargs))


CASES = [
    *(_sized("silu", n) for n in SIZES),
    *(_sized(function, 77, **kwargs) for function, kwargs in FUNCTIONS.items()),
    Case("gelu", "tanh-n77", lambda make: ((make(77, scale=3),), {"approximate": "tanh"})),
    Case("relu", "nchw", lambda make: ((make(2, 5, 7, 3),), {})),
    Case("silu", "channels_last", lambda make: ((make(2, 5, 7, 3, memory_format=torch.channels_last),), {})),
    Case("gelu", "scalar", lambda make: ((make(),), {})),
    _view("relu", "sliced", lambda x: x.detach()[:, 1:5, ::2].requires_grad_()),
    _view("gelu", "transposed", lambda x: x.detach().transpose(1, 3).requires_grad_()),
    _view("silu", "expanded", lambda x: x.detach()[:1].expand(3, 6, 5, 3).requires_grad_()),
    _view("tanh", "offset", lambda x: x.detach().flatten()[3:].requires_grad_()),
]
