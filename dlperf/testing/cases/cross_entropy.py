from __future__ import annotations

from math import prod

from ._case import Case, Maker


def _numbers(id: str, shape: tuple[int, ...], **kwargs) -> Case:
    """Class numbers as targets. ``weighted=True`` adds class weights, ``ignored=True`` marks some targets."""
    weighted, ignored = kwargs.pop("weighted", False), kwargs.pop("ignored", False)
    dim = 0 if len(shape) == 1 else 1
    rows = tuple(s for i, s in enumerate(shape) if i != dim)

    def make(maker: Maker):
        target = maker.integers(0, shape[dim], *rows)
        if ignored:
            target.view(-1)[::3] = kwargs.get("ignore_index", -100)
        extra = {"weight": maker.positive(shape[dim])} if weighted else {}
        return (maker(*shape, scale=3), target), {**kwargs, **extra}

    return Case("cross_entropy", id, make, reduction=prod(shape))


def _probabilities(id: str, shape: tuple[int, ...], **kwargs) -> Case:
    weighted = kwargs.pop("weighted", False)

    def make(maker: Maker):
        extra = {"weight": maker.positive(shape[1])} if weighted else {}
        return (maker(*shape, scale=3), maker.positive(*shape, grad=True)), {**kwargs, **extra}

    return Case("cross_entropy", id, make, reduction=prod(shape))


CASES = [
    *(_numbers(f"classes{c}", (5, c)) for c in (1, 2, 10, 15, 16, 17, 1000)),
    _numbers("one-row", (10,)),
    _numbers("images", (2, 7, 4, 5)),
    _numbers("sum", (9, 13), reduction="sum"),
    _numbers("none", (9, 13), reduction="none"),
    _numbers("none-images", (2, 7, 4, 5), reduction="none", weighted=True),
    _numbers("weighted", (9, 13), weighted=True),
    _numbers("ignored", (9, 13), ignored=True),
    _numbers("ignored-7-weighted-smoothed", (9, 13), ignored=True, weighted=True, ignore_index=7, label_smoothing=0.1),
    _numbers("smoothed", (9, 13), label_smoothing=0.2),
    _numbers("smoothed-images", (2, 7, 4, 5), label_smoothing=0.2, weighted=True, reduction="sum"),
    _probabilities("probabilities", (6, 11)),
    _probabilities("probabilities-weighted", (6, 11), weighted=True, label_smoothing=0.1),
    _probabilities("probabilities-images", (2, 5, 3, 4), reduction="none"),
    _probabilities("probabilities-sum", (6, 17), reduction="sum"),
]
