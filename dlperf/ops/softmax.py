"""Softmax and log-softmax over one dimension. Formulas: docs/math/softmax.md."""

from __future__ import annotations

import torch
from torch import Tensor

from ..memory import empty_like
from ._checks import check_floating
from ._frame import Operator, backward_through_reference, save_inputs


def softmax_empty(x: Tensor, *_) -> Tensor:
    """Contiguous, of x's shape."""
    return empty_like(x, memory_format=torch.contiguous_format)


def _setup(ctx, args, output):
    _, ctx.dim, ctx.logarithm = args
    ctx.save_for_backward(output)


def _backward(ctx, gy):
    (y,) = ctx.saved_tensors
    return (softmax_bwd(gy, y, ctx.dim, ctx.logarithm),)


# `dim` is not negative; `logarithm` chooses log-softmax.
softmax_op = Operator(
    "softmax(Tensor x, int dim, bool logarithm) -> Tensor",
    fake=softmax_empty,
    setup=_setup,
    backward=_backward,
)

softmax_bwd = Operator(
    "softmax_bwd(Tensor gy, Tensor y, int dim, bool logarithm) -> Tensor",
    fake=lambda gy, y, dim, logarithm: softmax_empty(y),
    setup=save_inputs,
    backward=backward_through_reference("softmax_bwd"),
)


def _along(name: str, input: Tensor, dim: int | None, dtype: torch.dtype | None, logarithm: bool) -> Tensor:
    if dtype is not None and isinstance(input, Tensor):
        input = input.to(dtype)
    check_floating(name, input=input)
    if dim is None:  # torch's implicit choice
        dim = 0 if input.dim() in (0, 1, 3) else 1
    if not isinstance(dim, int) or isinstance(dim, bool):
        raise TypeError(f"{name}(): argument 'dim' must be int, not {type(dim).__name__}")
    rank = max(input.dim(), 1)
    if not -rank <= dim < rank:
        raise IndexError(
            f"{name}(): expected 'dim' in [{-rank}, {rank - 1}] for an input of shape {tuple(input.shape)}, got {dim}"
        )
    return softmax_op(input, dim % rank, logarithm)


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    """exp(input) / sum(exp(input)) along ``dim``; any shape. ``dtype`` converts the input first."""
    return _along("softmax", input, dim, dtype, False)


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """log(softmax(input)) along ``dim``, computed without overflow; any shape."""
    return _along("log_softmax", input, dim, dtype, True)
