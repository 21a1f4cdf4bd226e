from __future__ import annotations

import torch

from ._case import Case

# Around one vector of each instruction set (8, 16 lanes) and of the unrolled loop.
SIZES = (0, 1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 1000)


def _sized(function: str, n: int) -> Case:
    return Case(function, f"n{n}", lambda make: ((make(n, scale=3),), {}))


CASES = [_sized("silu", n) for n in SIZES] + [
    Case("relu", "nchw", lambda make: ((make(2, 5, 7, 3),), {})),
    Case(
        "silu",
        "channels_last",
        lambda make: ((make(2, 5, 7, 3, memory_format=torch.channels_last),), {}),
    ),
]
