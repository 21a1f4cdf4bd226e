from __future__ import annotations

from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from ...ops.cross_entropy import class_dim, cross_entropy_bwd_empty, cross_entropy_empty
from ._library import FLOATS, C, why_not_dtype


def why_not_cross_entropy(x, target, weight, *_) -> str | None:
    for tensor in (x, target, weight):
        if tensor is not None and not tensor.is_cpu:
            return f"a tensor is on {tensor.device}"
    return why_not_dtype(x.dtype)


def why_not_cross_entropy_bwd(gloss, x, target, weight, *_) -> str | None:
    return why_not_cross_entropy(x, target, weight)


@lru_cache(maxsize=1024)
def _shape(sizes: tuple[int, ...], dim: int, ignore_index: int, smoothing: float, reduction: int):
    return C.CrossEntropyShape(
        prod(sizes[:dim]), sizes[dim], prod(sizes[dim + 1 :]), ignore_index, smoothing, reduction
    )


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def cross_entropy(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    loss, saved = cross_entropy_empty(x, target, weight, reduction)
    x, target = x.contiguous(), target.contiguous()
    weight = None if weight is None else weight.contiguous()
    shape = _shape(tuple(x.shape), class_dim(x), ignore_index, label_smoothing, reduction)
    row_loss = torch.empty(shape.rows, dtype=torch.float32)
    addresses = (_address(weight), row_loss.data_ptr(), saved.data_ptr(), loss.data_ptr())
    code = FLOATS[x.dtype]
    if target.is_floating_point():
        C.cross_entropy_soft_forward(code, shape, x.data_ptr(), target.data_ptr(), *addresses)
        return loss, saved
    wrong = C.cross_entropy_forward(code, shape, x.data_ptr(), target.data_ptr(), *addresses)
    if wrong >= 0:
        value = target.flatten()[wrong].item()
        raise IndexError(
            f"cross_entropy(): Target {value} is out of bounds: expected a class in [0, {x.shape[class_dim(x)] - 1}] "
            f"or ignore_index ({ignore_index})"
        )
    return loss, saved


def cross_entropy_bwd(
    gloss: Tensor,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    saved: Tensor,
    reduction: int,
    ignore_index: int,
    label_smoothing: float,
    to_target: bool,
) -> tuple[Tensor, Tensor]:
    gx, gt = cross_entropy_bwd_empty(
        gloss, x, target, weight, saved, reduction, ignore_index, label_smoothing, to_target
    )
    gloss, x, target = gloss.contiguous(), x.contiguous(), target.contiguous()
    weight = None if weight is None else weight.contiguous()
    shape = _shape(tuple(x.shape), class_dim(x), ignore_index, label_smoothing, reduction)
    code = FLOATS[x.dtype]
    addresses = (x.data_ptr(), target.data_ptr(), _address(weight), saved.data_ptr(), gloss.data_ptr(), gx.data_ptr())
    if target.is_floating_point():
        C.cross_entropy_soft_backward(code, shape, *addresses, gt.data_ptr() if to_target else 0)
    else:
        C.cross_entropy_backward(code, shape, *addresses)
    return gx, gt
