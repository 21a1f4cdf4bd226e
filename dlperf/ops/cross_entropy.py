"""Cross entropy from logits, with class numbers or probabilities as targets. Formulas: docs/math/cross_entropy.md."""

from __future__ import annotations

import torch
from torch import Tensor

from ..memory import empty_like
from ._checks import check_floating, check_same_device, check_tensor, describe
from ._frame import Operator, backward_through_reference, save_inputs

REDUCTIONS = ("none", "mean", "sum")  # in the order of csrc/cpu/cross_entropy.h


def class_dim(x: Tensor) -> int:
    """Logits are [C], [N, C] or [N, C, d1, ...]."""
    return 0 if x.dim() == 1 else 1


def cross_entropy_empty(x: Tensor, target: Tensor, weight, reduction: int, *_) -> tuple[Tensor, Tensor]:
    """The loss, and what backward needs: each row's maximum, each row's log-sum-exp over it, and the mean's divisor."""
    rows_shape = list(x.shape)
    del rows_shape[class_dim(x)]
    loss = x.new_empty(rows_shape if reduction == 0 else [])
    rows = 1
    for size in rows_shape:
        rows = rows * size
    return loss, x.new_empty([2 * rows + 1], dtype=torch.promote_types(x.dtype, torch.float32))


def _setup(ctx, args, output):
    x, target, weight, *ctx.rest = args
    ctx.save_for_backward(x, target, weight, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, gloss, _):
    x, target, weight, saved = ctx.saved_tensors
    gx, gt = cross_entropy_bwd(gloss, x, target, weight, saved, *ctx.rest, ctx.needs_input_grad[1])
    return gx, gt if ctx.needs_input_grad[1] else None, None


# `target` is int64 class numbers, or probabilities of x's shape and dtype; `weight` is float32, one per class.
cross_entropy_op = Operator(
    "cross_entropy(Tensor x, Tensor target, Tensor? weight, int reduction, int ignore_index, float label_smoothing)"
    " -> (Tensor, Tensor)",
    fake=cross_entropy_empty,
    setup=_setup,
    backward=_backward,
)


def cross_entropy_bwd_empty(gloss, x, target, weight, saved, reduction, ignore, smoothing, to_target):
    gx = empty_like(x, memory_format=torch.contiguous_format)
    return gx, empty_like(gx) if to_target else x.new_empty([0])


cross_entropy_bwd = Operator(
    "cross_entropy_bwd(Tensor gloss, Tensor x, Tensor target, Tensor? weight, Tensor saved, int reduction,"
    " int ignore_index, float label_smoothing, bool to_target) -> (Tensor, Tensor)",
    fake=cross_entropy_bwd_empty,
    setup=save_inputs,
    backward=backward_through_reference("cross_entropy_bwd"),
)


def _reduction(reduction, size_average, reduce) -> str:
    if size_average is not None or reduce is not None:
        reduction = torch.nn._reduction.legacy_get_string(size_average, reduce)
    if reduction not in REDUCTIONS:
        raise ValueError(f"{reduction} is not a valid value for reduction: expected one of {', '.join(REDUCTIONS)}")
    return reduction


def _check(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float) -> None:
    name = "cross_entropy"
    check_floating(name, input=input, weight=weight)
    check_tensor(name, target=target)
    check_same_device(name, input=input, target=target, weight=weight)
    if input.dim() == 0:
        raise RuntimeError(f"{name}(): expected 'input' of at least one dimension, got {describe(input)}")
    classes = input.shape[class_dim(input)]
    if weight is not None and tuple(weight.shape) != (classes,):
        raise RuntimeError(f"{name}(): expected 'weight' of shape ({classes},), got {describe(weight)}")
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"{name}(): expected 'label_smoothing' in [0, 1], got {label_smoothing}")
    if target.is_floating_point():
        if target.shape != input.shape:
            raise RuntimeError(
                f"{name}(): expected probabilities in 'target' of the input's shape {tuple(input.shape)}, "
                f"got {describe(target)}"
            )
        if ignore_index >= 0:
            raise RuntimeError(f"{name}(): 'ignore_index' can't be used with probabilities, got {ignore_index}")
        return
    if target.dtype not in (torch.int64, torch.uint8):
        raise RuntimeError(
            f"{name}(): expected 'target' of int64 class numbers or probabilities, got {describe(target)}"
        )
    expected = tuple(s for i, s in enumerate(input.shape) if i != class_dim(input))
    if tuple(target.shape) != expected:
        error = ValueError if input.dim() <= 2 and target.dim() == len(expected) else RuntimeError
        raise error(f"{name}(): expected 'target' of shape {expected} for {describe(input)}, got {describe(target)}")


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average=None,
    ignore_index: int = -100,
    reduce=None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(input)[target], as torch.nn.functional.cross_entropy.

    Args:
        input: logits [C], [N, C] or [N, C, d1, ...].
        target: int64 class numbers of input's shape without C, or probabilities of input's shape.
        weight: one per class, or None.
        reduction: "mean" (weighted), "sum" or "none".

    Raises:
        IndexError: a target that is no class and not ignore_index.
        ValueError, RuntimeError: shapes, dtypes or values that don't fit, as torch's.
    """
    reduction = _reduction(reduction, size_average, reduce)
    _check(input, target, weight, ignore_index, label_smoothing)
    if torch.is_autocast_enabled(input.device.type) and input.dtype is not torch.float64:
        input = input.float()
    if target.is_floating_point():
        target = target.to(input.dtype)
    elif target.dtype is not torch.int64:
        target = target.long()
    if weight is not None:
        weight = weight.to(torch.promote_types(input.dtype, torch.float32))
    index = REDUCTIONS.index(reduction)
    return cross_entropy_op(input, target, weight, index, ignore_index, float(label_smoothing))[0]
