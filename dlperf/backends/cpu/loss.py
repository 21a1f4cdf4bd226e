from __future__ import annotations

import math
from functools import lru_cache

import torch

from ...memory import new_empty
from ...ops.loss import KINDS, nll_loss_empty, pair_loss_bwd_empty, pair_loss_empty
from ._library import FLOATS, C


def _scale(n: int, reduction: int) -> float:
    if reduction != 1:
        return 1.0
    return 1.0 / n if n else math.inf


def pair_loss(x, target, kind, param, reduction):
    out = pair_loss_empty(x, target, kind, param, reduction)
    x, target = x.contiguous(), target.contiguous()
    n = x.numel()
    workspace = torch.empty(C.loss_workspace(), dtype=torch.uint8)
    C.loss_forward(
        KINDS.index(kind),
        param,
        n,
        FLOATS[x.dtype],
        reduction == 0,
        _scale(n, reduction),
        x.data_ptr(),
        target.data_ptr(),
        out.data_ptr(),
        workspace.data_ptr(),
    )
    return out


def pair_loss_bwd(gy, x, target, kind, param, reduction, wanted):
    grads = pair_loss_bwd_empty(gy, x, target, kind, param, reduction, wanted)
    n = x.numel()
    if n == 0:
        return grads
    gy, x, target = gy.contiguous(), x.contiguous(), target.contiguous()
    C.loss_backward(
        KINDS.index(kind),
        param,
        n,
        FLOATS[x.dtype],
        reduction == 0,
        _scale(n, reduction),
        x.data_ptr(),
        target.data_ptr(),
        gy.data_ptr(),
        *(g.data_ptr() if w else 0 for g, w in zip(grads, wanted, strict=True)),
    )
    return grads


@lru_cache(maxsize=256)
def _nll_shape(size: tuple[int, ...], ignore_index: int, dtype: torch.dtype, mean: bool):
    return C.NllShape(size[0], size[1], math.prod(size[2:]), ignore_index, FLOATS[dtype], mean)


def nll_loss(x, target, weight, ignore_index, reduction):
    losses, total = nll_loss_empty(x, target, weight, ignore_index, reduction)
    x, target = x.contiguous(), target.contiguous()
    weight = None if weight is None else weight.contiguous()
    outside = C.nll_forward(
        _nll_shape(tuple(x.shape), ignore_index, x.dtype, reduction == 1),
        reduction == 0,
        x.data_ptr(),
        target.data_ptr(),
        0 if weight is None else weight.data_ptr(),
        losses.data_ptr(),
        total.data_ptr(),
    )
    if outside >= 0:
        value = int(target.flatten()[outside])
        raise IndexError(f"nll_loss(): expected the classes of 'target' to lie in [0, {x.shape[1]}), got {value}")
    return losses, total


def nll_loss_bwd(gy, target, weight, total_weight, x_size, ignore_index, reduction):
    gx = new_empty(gy, x_size)
    gy, target = gy.contiguous(), target.contiguous()
    weight = None if weight is None else weight.contiguous()
    C.nll_backward(
        _nll_shape(tuple(x_size), ignore_index, gx.dtype, reduction == 1),
        reduction == 0,
        gy.data_ptr(),
        target.data_ptr(),
        0 if weight is None else weight.data_ptr(),
        total_weight.data_ptr(),
        gx.data_ptr(),
    )
    return gx


def _why_not_nll(values, target, weight):
    if values.dtype not in FLOATS:
        return f"the kernels have no {str(values.dtype).removeprefix('torch.')}"
    if not (values.is_cpu and target.is_cpu):
        return "a tensor is not on the CPU"
    return None if weight is None or weight.dtype is values.dtype else "the dtypes of weight and input differ"


LOSS_RULES = {
    "nll_loss": lambda x, target, weight, *_: _why_not_nll(x, target, weight),
    "nll_loss_bwd": lambda gy, target, weight, *_: _why_not_nll(gy, target, weight),
}
