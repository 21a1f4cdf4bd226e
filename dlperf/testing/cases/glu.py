from __future__ import annotations

import torch

from ._case import Case


def _halved(function: str, id: str, *shape: int, dim: int = -1, last: bool = False) -> Case:
    def arguments(make):
        x = make(*shape, scale=2)
        if last:
            x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        return (x, dim), {}

    return Case(function, f"{function}-{id}", arguments)


CASES = [
    *(_halved("glu", f"half{n}", 3, 2 * n) for n in (1, 7, 8, 9, 15, 16, 17, 64, 65, 4097)),
    *(_halved(f, "vit", 2, 19, 96) for f in ("geglu", "swiglu", "reglu")),
    _halved("glu", "rows", 6, 5, dim=0),
    _halved("glu", "nchw", 2, 8, 5, 3, dim=1),
    _halved("swiglu", "nhwc", 2, 8, 5, 3, dim=1, last=True),
    _halved("glu", "nhwc-rows", 2, 3, 6, 5, dim=2, last=True),
    _halved("glu", "empty", 0, 8),
    Case("glu", "strided", lambda make: ((make(8, 5).t(),), {})),
]
