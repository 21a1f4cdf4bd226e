from __future__ import annotations

import torch

from ._case import Case


def _drop(id: str, *shape: int, p: float = 0.3, pair: tuple[int, int] = (123456789012345, 42), last: bool = False):
    """The operator itself, whose pair of numbers is given: every backend then keeps the same elements."""

    def arguments(make):
        x = make(*shape, memory_format=torch.channels_last if last else None)
        return (x, torch.tensor(pair, device=make.device), p), {}

    return Case("ops.dropout_op", id, arguments)


CASES = [
    *(_drop(f"n{n}", n) for n in (0, 1, 3, 4, 5, 63, 64, 65, 5001)),
    _drop("all", 77, p=1.0),
    _drop("negative-numbers", 77, pair=(-5, -7)),
    _drop("channels-last", 2, 3, 4, 5, last=True),
]
