from __future__ import annotations

import math

import torch

from ._case import Case


def _group(
    id: str, shape, groups: int, *, last: bool = False, activation=None, affine=True, shift=0.0, **given
) -> Case:
    def arguments(make):
        x = make(*shape, scale=2, shift=shift)
        if last:
            x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        dtype = given.get("affine_dtype")
        weight = make.positive(shape[1], grad=True, dtype=dtype) if affine else None
        bias = make(shape[1], scale=0.5, dtype=dtype) if affine else None
        return (x, groups, weight, bias), {"activation": activation}

    per_group = math.prod(shape[1:]) // groups
    per_channel = math.prod(shape) // shape[1] if shape[1] else 1
    dtypes = {"dtypes": (torch.bfloat16, torch.float16)} if "affine_dtype" in given else {}
    return Case("group_norm", id, arguments, per_group, grad_reduction=max(per_group, per_channel), **dtypes)


def _both(id: str, shape, groups: int, **given) -> list[Case]:
    return [_group(f"{id}-nchw", shape, groups, **given), _group(f"{id}-nhwc", shape, groups, last=True, **given)]


def _instance(id: str, *shape: int, **given) -> Case:
    def arguments(make):
        kwargs = dict(given)
        if kwargs.pop("running", False):
            kwargs |= {"running_mean": make(shape[1], grad=False), "running_var": make.positive(shape[1])}
        if kwargs.pop("affine", False):
            kwargs |= {"weight": make.positive(shape[1], grad=True), "bias": make(shape[1])}
        return (make(*shape, scale=2),), kwargs

    per_channel = math.prod(shape) // shape[1]
    return Case("instance_norm", id, arguments, reduction=per_channel)


CASES = [
    *_both("unet", (2, 32, 8, 8), 8, activation="silu"),
    *_both("one-group", (2, 24, 5, 3), 1, activation="silu"),
    *_both("group-each", (2, 24, 5, 3), 24, activation="silu"),
    *_both("depth-3", (3, 33, 7, 5), 11),
    *_both("relu", (3, 16, 6, 6), 4, activation="relu"),
    *_both("gelu", (2, 16, 4, 4), 4, activation="gelu"),
    *_both("few-channels", (2, 3, 16, 16), 3, activation="silu"),
    *_both("one-channel", (2, 1, 9, 7), 1),
    *_both("no-affine", (2, 8, 6, 6), 2, affine=False, activation="silu"),
    *_both("far-from-zero", (2, 16, 9, 9), 4, shift=50.0),
    *_both("split", (1, 64, 40, 40), 1, activation="silu"),
    *_both("split-many", (3, 20, 70, 31), 5),
    *_both("large", (1, 72, 64, 64), 8, activation="silu"),
    *_both("one-position", (4, 20, 1, 1), 5, activation="silu"),
    *_both("no-images", (0, 8, 3, 3), 2),
    *_both("float32-affine", (2, 8, 6, 6), 2, activation="silu", affine_dtype=torch.float32),
    _group("two-dims", (5, 24), 6),
    _group("three-dims", (2, 24, 17), 6, activation="silu"),
    _group("five-dims", (2, 8, 3, 4, 5), 2),
    Case(
        "group_norm",
        "sliced",
        lambda make: ((make(2, 8, 6, 10)[..., ::2], 2, make.positive(8, grad=True), make(8)), {"activation": "silu"}),
        reduction=120,
    ),
    _instance("plain", 2, 5, 9, 7),
    _instance("affine", 2, 6, 33, affine=True),
    _instance("running", 3, 5, 4, 6, running=True, affine=True, momentum=0.3),
    _instance("fused", 2, 16, 8, 8, affine=True, activation="silu"),
]
