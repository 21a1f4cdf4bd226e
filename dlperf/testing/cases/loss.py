from __future__ import annotations

import torch

from ._case import Case


def _pair(function: str, id: str, *shape: int, target: str = "normal", **kwargs) -> Case:
    def arguments(make):
        x = make(*shape, scale=2)
        if target == "normal":
            return (x, make(*shape)), kwargs
        # Probabilities, or their logarithms.
        t = make.positive(*shape, grad=True)
        with torch.no_grad():
            t.copy_((t / 2).log() if target == "log" else t / 2)
        return (x, t), kwargs

    n = torch.Size(shape).numel()
    reduced = kwargs.get("reduction") != "none"
    return Case(function, f"{function}-{id}", arguments, reduction=n if reduced else 1, grad_reduction=1)


def _nll(id: str, *shape: int, weighted: bool = False, **kwargs) -> Case:
    def arguments(make):
        target = make.integers(0, shape[1], shape[0], *shape[2:])
        given = dict(kwargs)
        if weighted:
            given["weight"] = make.positive(shape[1])
        return (make(*shape), target), given

    return Case("nll_loss", f"nll_loss-{id}", arguments, reduction=torch.Size(shape).numel())


_PAIRS = {
    "mse_loss": {},
    "l1_loss": {},
    "smooth_l1_loss": {"beta": 0.7},
    "huber_loss": {"delta": 1.3},
    "binary_cross_entropy_with_logits": {"target": "probability"},
    "kl_div": {"target": "probability"},
}

CASES = [
    *(_pair(f, f"{how}", 3, 37, reduction=how, **kw) for f, kw in _PAIRS.items() for how in ("none", "mean", "sum")),
    *(_pair("mse_loss", f"n{n}", n) for n in (1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 4097, 70_000)),
    _pair("mse_loss", "no-elements", 0, 3, reduction="sum"),
    _pair("kl_div", "log", 4, 33, target="log", log_target=True),
    _pair("kl_div", "batchmean", 4, 33, target="probability", reduction="batchmean"),
    Case("mse_loss", "mse_loss-strided", lambda make: ((make(6, 5).t(), make(5, 6)), {})),
    Case("mse_loss", "mse_loss-images", lambda make: ((make(2, 3, 4, 4), make(2, 3, 4, 4, grad=False)), {})),
    *(_nll(how, 6, 10, reduction=how) for how in ("none", "mean", "sum")),
    *(_nll(f"images-{how}", 2, 5, 4, 3, reduction=how, weighted=True) for how in ("none", "mean", "sum")),
    _nll("ignored", 40, 4, ignore_index=2),
]
