from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.cross_entropy import REDUCTIONS, class_dim


def _row_weights(x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """With class numbers: each row's share of the mean, 0 where ignored."""
    keep = target != ignore_index
    if weight is None:
        return keep.to(x.dtype)
    return weight.to(x.dtype)[torch.where(keep, target, 0)] * keep


def _divisor(x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int):
    if REDUCTIONS[reduction] != "mean":
        return torch.ones((), dtype=x.dtype, device=x.device)
    if target.is_floating_point():
        rows = x.numel() // max(x.shape[class_dim(x)], 1)
        return torch.full((), float(rows), dtype=x.dtype, device=x.device)
    return _row_weights(x, target, weight, ignore_index).sum()


def cross_entropy(
    x: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignore_index: int, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(x.dtype, torch.float32)
    ignore = {} if target.is_floating_point() else {"ignore_index": ignore_index}
    loss = F.cross_entropy(
        x,
        target,
        None if weight is None else weight.to(x.dtype),
        reduction=REDUCTIONS[reduction],
        label_smoothing=label_smoothing,
        **ignore,
    )
    logits = x.to(wide)
    top = logits.amax(class_dim(x)) if x.shape[class_dim(x)] else logits.sum(class_dim(x))
    rest = torch.logsumexp(logits - top.unsqueeze(class_dim(x)), class_dim(x))
    divisor = _divisor(logits, target, weight, reduction, ignore_index)
    return loss, torch.cat([top.flatten(), rest.flatten(), divisor.reshape(1)]).detach()


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
    dim = class_dim(x)
    wide = torch.promote_types(x.dtype, torch.float32)
    logits = x.to(wide)
    classes = x.shape[dim]
    shape = [1] * x.dim()
    shape[dim] = classes
    per_class = torch.ones(classes, dtype=wide, device=x.device) if weight is None else weight.to(wide)
    per_class = per_class.reshape(shape)
    g = gloss.to(wide) / _divisor(logits, target, weight, reduction, ignore_index)
    g = g.unsqueeze(dim) if g.dim() else g
    if target.is_floating_point():
        q = target.to(wide) * (1 - label_smoothing) + label_smoothing / max(classes, 1)
        q = q * per_class
        gt = -(g * per_class * (1 - label_smoothing)) * torch.log_softmax(logits, dim)
    else:
        keep = (target != ignore_index).unsqueeze(dim)
        hot = torch.zeros_like(logits).scatter(dim, torch.where(keep, target.unsqueeze(dim), 0), 1.0)
        q = (hot * (1 - label_smoothing) + label_smoothing / max(classes, 1)) * per_class * keep
        gt = x.new_empty([0])
    gx = g * (torch.softmax(logits, dim) * q.sum(dim, keepdim=True) - q)
    return gx.to(x.dtype), gt.to(x.dtype) if to_target else x.new_empty([0])
