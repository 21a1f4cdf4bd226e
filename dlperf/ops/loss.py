"""Loss functions. Formulas: docs/math/loss.md."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..memory import new_empty
from ._checks import check_floating, check_same_device, check_tensor, describe
from ._frame import Operator, autocast_dtype, backward_through_reference, save_inputs
from .activation import softplus

# In the order of csrc/cpu/loss.h. `param` is what the comment names, else unused.
KINDS = ("mse", "l1", "smooth_l1", "huber", "bce_logits", "kl_div", "kl_div_log")  # smooth_l1: beta; huber: delta

REDUCTIONS = ("none", "mean", "sum")
_WARNS = ("mse", "l1", "smooth_l1", "huber")  # of a target of another shape, as torch does


def pair_loss_empty(x: Tensor, target: Tensor, kind, param, reduction) -> Tensor:
    return new_empty(x, x.shape if reduction == 0 else ())


def pair_loss_bwd_empty(gy, x, target, kind, param, reduction, wanted) -> tuple[Tensor, Tensor]:
    """The gradients of x and target; the one that is not wanted has no elements."""
    return tuple(new_empty(x, x.shape if w else (0,)) for w in wanted)


def _pair_backward(ctx, gy):
    x, target = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:2])
    grads = pair_loss_bwd(gy, x, target, *ctx.rest[2:], wanted)
    return tuple(g if w else None for g, w in zip(grads, wanted, strict=True))


# reduction: an index into REDUCTIONS
pair_loss = Operator(
    "pair_loss(Tensor x, Tensor target, str kind, float param, int reduction) -> Tensor",
    fake=pair_loss_empty,
    setup=save_inputs,
    backward=_pair_backward,
)

pair_loss_bwd = Operator(
    "pair_loss_bwd(Tensor gy, Tensor x, Tensor target, str kind, float param, int reduction, bool[] wanted) "
    "-> (Tensor, Tensor)",
    fake=pair_loss_bwd_empty,
    setup=save_inputs,
    backward=backward_through_reference("pair_loss_bwd"),
)


def nll_loss_empty(x: Tensor, target: Tensor, weight, ignore_index, reduction) -> tuple[Tensor, Tensor]:
    """The losses, or their sum or mean; and the sum of the targets' weights."""
    return x.new_empty(target.shape if reduction == 0 else ()), x.new_empty((), dtype=torch.float64)


def _nll_setup(ctx, args, output):
    x, target, weight, *ctx.rest = args
    ctx.save_for_backward(target, weight, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.size = list(x.shape)


def _nll_backward(ctx, gy, _):
    return nll_loss_bwd(gy, *ctx.saved_tensors, ctx.size, *ctx.rest), None, None


def _nll_bwd_setup(ctx, args, output):
    _, target, weight, _, _, *ctx.rest = args
    ctx.save_for_backward(target, weight)


def _nll_bwd_backward(ctx, gg):
    # Linear in gy: the loss of the gradient.
    target, weight = ctx.saved_tensors
    return nll_loss_op(gg, target, weight, *ctx.rest)[0], None, None, None


nll_loss_op = Operator(
    "nll_loss(Tensor x, Tensor target, Tensor? weight, int ignore_index, int reduction) -> (Tensor, Tensor)",
    fake=nll_loss_empty,
    setup=_nll_setup,
    backward=_nll_backward,
)

nll_loss_bwd = Operator(
    "nll_loss_bwd(Tensor gy, Tensor target, Tensor? weight, Tensor total_weight, SymInt[] x_size, int ignore_index, "
    "int reduction) -> Tensor",
    fake=lambda gy, target, weight, total_weight, x_size, ignore_index, reduction: new_empty(gy, x_size),
    setup=_nll_bwd_setup,
    backward=_nll_bwd_backward,
)


def _reduction(op: str, reduction: str, size_average, reduce) -> int:
    if size_average is not None or reduce is not None:
        reduction = torch.nn._reduction.legacy_get_string(size_average, reduce)
    if reduction not in REDUCTIONS:
        raise ValueError(f"{op}(): expected 'reduction' to be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    return REDUCTIONS.index(reduction)


def _wide(x: Tensor) -> Tensor:
    """Losses are computed in float32 under autocast."""
    return x.float() if autocast_dtype(x) is not None and x.dtype is not torch.float32 else x


def _pair(op: str, input: Tensor, target: Tensor, kind: str, param: float, reduction: int) -> Tensor:
    check_tensor(op, input=input, target=target)
    if not (input.is_floating_point() or target.is_floating_point()):
        raise RuntimeError(f"{op}(): expected 'input' to have a floating dtype, got {describe(input)}")
    check_same_device(op, input=input, target=target)
    if input.shape != target.shape:
        try:
            x, t = torch.broadcast_tensors(input, target)
        except RuntimeError:
            raise RuntimeError(
                f"{op}(): expected 'target' to broadcast with 'input' {tuple(input.shape)}, got {describe(target)}"
            ) from None
        if kind in _WARNS:
            warnings.warn(
                f"{op}(): 'target' of shape {tuple(target.shape)} is broadcast with 'input' of shape "
                f"{tuple(input.shape)}: the loss may not be what is meant",
                stacklevel=4,
            )
        input, target = x, t
    input, target = _wide(input), _wide(target)
    if input.dtype is not target.dtype:
        dtype = torch.promote_types(input.dtype, target.dtype)
        input, target = input.to(dtype), target.to(dtype)
    return pair_loss(input, target, kind, param, reduction)


def _weighted(op: str, input: Tensor, target: Tensor, kind: str, param: float, weight: Tensor, reduction: int):
    """torch's weighting: the mean of mse and l1 is over the weights, huber's over the elements."""
    if weight.shape != input.shape:
        raise ValueError(f"{op}(): expected 'weight' to have the shape {tuple(input.shape)}, got {describe(weight)}")
    loss = _pair(op, input, target, kind, param, 0) * weight
    if reduction == 0:
        return loss
    total = loss.sum()
    if reduction == 1:
        return loss.mean() if kind == "huber" else total / weight.sum()
    return total


def mse_loss(input, target, size_average=None, reduce=None, reduction: str = "mean", weight=None) -> Tensor:
    """(input - target)^2, reduced."""
    how = _reduction("mse_loss", reduction, size_average, reduce)
    if weight is not None:
        return _weighted("mse_loss", input, target, "mse", 0.0, weight, how)
    return _pair("mse_loss", input, target, "mse", 0.0, how)


def l1_loss(input, target, size_average=None, reduce=None, reduction: str = "mean", weight=None) -> Tensor:
    """|input - target|, reduced."""
    how = _reduction("l1_loss", reduction, size_average, reduce)
    if weight is not None:
        return _weighted("l1_loss", input, target, "l1", 0.0, weight, how)
    return _pair("l1_loss", input, target, "l1", 0.0, how)


def smooth_l1_loss(input, target, size_average=None, reduce=None, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """Quadratic below beta, linear above (Girshick 2015). Raises RuntimeError for a negative beta."""
    if beta < 0:
        raise RuntimeError(f"smooth_l1_loss(): expected 'beta' to be at least 0, got {beta}")
    how = _reduction("smooth_l1_loss", reduction, size_average, reduce)
    return _pair("smooth_l1_loss", input, target, "smooth_l1" if beta > 0 else "l1", float(beta), how)


def huber_loss(input, target, reduction: str = "mean", delta: float = 1.0, weight=None) -> Tensor:
    """Quadratic up to delta, linear above (Huber 1964). Raises RuntimeError where delta is not positive."""
    if delta <= 0:
        raise RuntimeError(f"huber_loss(): expected 'delta' to be greater than 0, got {delta}")
    how = _reduction("huber_loss", reduction, None, None)
    if weight is not None:
        return _weighted("huber_loss", input, target, "huber", float(delta), weight, how)
    return _pair("huber_loss", input, target, "huber", float(delta), how)


def binary_cross_entropy_with_logits(
    input, target, weight=None, size_average=None, reduce=None, reduction: str = "mean", pos_weight=None
) -> Tensor:
    """-t log sigmoid(x) - (1 - t) log(1 - sigmoid(x)), without overflow; pos_weight multiplies the first term.

    weight and pos_weight broadcast to input's shape. Raises ValueError where target's shape is another.
    """
    op = "binary_cross_entropy_with_logits"
    how = _reduction(op, reduction, size_average, reduce)
    check_floating(op, input=input, target=target)
    if input.shape != target.shape:
        raise ValueError(f"{op}(): expected 'target' to have the shape {tuple(input.shape)}, got {describe(target)}")
    if weight is None and pos_weight is None:
        return _pair(op, input, target, "bce_logits", 0.0, how)
    if pos_weight is None:
        loss = _pair(op, input, target, "bce_logits", 0.0, 0)
    else:
        check_floating(op, pos_weight=pos_weight)
        input, target = _wide(input), _wide(target)
        # -log sigmoid(x) = softplus(-x)
        loss = (1 - target) * input + (1 + (pos_weight - 1) * target) * softplus(-input)
    if weight is not None:
        loss = loss * weight
    return loss if how == 0 else loss.mean() if how == 1 else loss.sum()


def kl_div(input, target, size_average=None, reduce=None, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """target (log target - input); input holds log probabilities, and target too with ``log_target``."""
    batchmean = reduction == "batchmean" and size_average is None and reduce is None
    how = _reduction("kl_div", "sum" if batchmean else reduction, size_average, reduce)
    check_floating("kl_div", input=input, target=target)
    loss = _pair("kl_div", input, target, "kl_div_log" if log_target else "kl_div", 0.0, how)
    return loss / input.shape[0] if batchmean and input.ndim else loss


def nll_loss(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index: int = -100,
    reduce=None,
    reduction: str = "mean",
) -> Tensor:
    """-weight[target] input[target]: input (N, C, *) or (C,) of log probabilities, target (N, *) or () of classes.

    The mean is over the targets' weights. Raises IndexError where a CPU target is no class.
    """
    how = _reduction("nll_loss", reduction, size_average, reduce)
    check_floating("nll_loss", input=input, weight=weight)
    check_tensor("nll_loss", target=target)
    if target.is_floating_point():
        raise RuntimeError(f"nll_loss(): expected 'target' to hold int64 classes, got {describe(target)}")
    check_same_device("nll_loss", input=input, target=target, weight=weight)
    if input.ndim == 0:
        raise RuntimeError(f"nll_loss(): expected 'input' to have at least 1 dimension, got {describe(input)}")
    x = input.unsqueeze(0) if input.ndim == 1 else input
    t = target.unsqueeze(0) if input.ndim == 1 else target
    if x.shape[0] != t.shape[0]:
        raise ValueError(
            f"nll_loss(): expected 'target' to have the batch of {describe(input)}, got {describe(target)}"
        )
    if (x.shape[0], *x.shape[2:]) != tuple(t.shape):
        raise RuntimeError(
            f"nll_loss(): expected 'target' to have the shape {(x.shape[0], *x.shape[2:])}, got {describe(target)}"
        )
    if weight is not None and tuple(weight.shape) != (x.shape[1],):
        raise RuntimeError(
            f"nll_loss(): expected 'weight' to have one value for each of {x.shape[1]} classes, got {describe(weight)}"
        )
    x = _wide(x)
    if weight is not None and weight.dtype is not x.dtype:
        weight = weight.to(x.dtype)
    loss = nll_loss_op(x, t.to(torch.int64), weight, ignore_index, how)[0]
    return loss.squeeze(0) if input.ndim == 1 and how == 0 else loss
