from __future__ import annotations

import torch

from ._case import Case
from .activation import SIZES


def _joined(make, memory_format=None):
    return (make(2, 5, 7, 3, memory_format=memory_format), make(2, 5, 7, 3, memory_format=memory_format))


CASES = [
    *(Case("add", f"n{n}", lambda make, n=n: ((make(n), make(n)), {"activation": "relu"})) for n in SIZES),
    Case("add", "plain", lambda make: (_joined(make), {})),
    Case("add", "alpha", lambda make: (_joined(make), {"alpha": -0.5})),
    Case("add", "channels_last", lambda make: (_joined(make, torch.channels_last), {"activation": "relu"})),
    Case(
        "add", "two-layouts", lambda make: ((make(2, 5, 7, 3, memory_format=torch.channels_last), make(2, 5, 7, 3)), {})
    ),
    Case("add", "broadcast", lambda make: ((make(4, 1, 6), make(3, 1)), {"activation": "relu"}), grad_reduction=24),
    Case("add", "positions", lambda make: ((make(3, 5, 19), make(1, 5, 19)), {}), grad_reduction=3),
    Case(
        "add",
        "timestep",
        lambda make: (
            (make(2, 17, 5, 7, memory_format=torch.channels_last), make(2, 17, 1, 1)),
            {"activation": "relu"},
        ),
        grad_reduction=35,
    ),
    Case("add", "shared-row", lambda make: ((make(4, 3, 40), make(40)), {"alpha": -0.5}), grad_reduction=12),
    Case("add", "sliced", lambda make: ((make(4, 6).detach()[:, 1:5].requires_grad_(), make(4, 4)), {})),
    Case("add", "scalar", lambda make: ((make(), make()), {})),
]
