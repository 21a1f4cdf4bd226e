"""Embedding lookup: rows of a table. docs/math/embedding.md."""

from __future__ import annotations

import torch
from torch import Tensor

from ._checks import check_floating, check_same_device, check_tensor, describe
from ._frame import Operator


def embedding_empty(indices: Tensor, weight: Tensor, padding_idx, by_frequency) -> Tensor:
    return weight.new_empty((*indices.shape, weight.shape[1]))


def embedding_bwd_empty(gy: Tensor, indices: Tensor, rows, padding_idx, by_frequency) -> Tensor:
    return gy.new_empty((rows, gy.shape[-1]))


def _setup(ctx, args, output):
    indices, weight, *ctx.rest = args
    ctx.save_for_backward(indices)
    ctx.rows = weight.shape[0]


def _backward(ctx, gy):
    (indices,) = ctx.saved_tensors
    return None, embedding_bwd(gy, indices, ctx.rows, *ctx.rest)


def _bwd_setup(ctx, args, output):
    _, indices, _, *ctx.rest = args
    ctx.save_for_backward(indices)


def _bwd_backward(ctx, gg):
    (indices,) = ctx.saved_tensors
    padding_idx, by_frequency = ctx.rest
    rows = embedding_op(indices, gg, padding_idx, False)
    if by_frequency:
        counts = torch.bincount(indices.flatten(), minlength=gg.shape[0])
        rows = rows / counts[indices].unsqueeze(-1)
    if padding_idx >= 0:
        rows = rows * (indices != padding_idx).unsqueeze(-1)
    return rows.to(gg.dtype), None


# padding_idx: the row that gets no gradient, or -1.
embedding_op = Operator(
    "embedding(Tensor indices, Tensor weight, int padding_idx, bool by_frequency) -> Tensor",
    fake=embedding_empty,
    setup=_setup,
    backward=_backward,
)

embedding_bwd = Operator(
    "embedding_bwd(Tensor gy, Tensor indices, SymInt rows, int padding_idx, bool by_frequency) -> Tensor",
    fake=embedding_bwd_empty,
    setup=_bwd_setup,
    backward=_bwd_backward,
)


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """weight[input]: int32 or int64 indices of any shape into a (rows, features) table.

    ``max_norm`` (which changes the table) and ``sparse`` gradients are torch's own. Raises IndexError where a CPU index
    lies outside the table, RuntimeError for other index dtypes or a table that is not 2-D.
    """
    check_tensor("embedding", input=input)
    check_floating("embedding", weight=weight)
    if max_norm is not None or sparse:
        return torch.nn.functional.embedding(
            input, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse
        )
    if input.dtype is not torch.int64 and input.dtype is not torch.int32:
        raise RuntimeError(f"embedding(): expected 'input' to have dtype int64 or int32, got {describe(input)}")
    if weight.ndim != 2:
        raise RuntimeError(f"embedding(): expected 'weight' to have 2 dimensions, got {describe(weight)}")
    check_same_device("embedding", input=input, weight=weight)
    rows = weight.shape[0]
    if padding_idx is None:
        padding_idx = -1
    elif not -rows <= padding_idx < rows:
        raise AssertionError(f"embedding(): expected 'padding_idx' to be within {rows} rows, got {padding_idx}")
    elif padding_idx < 0:
        padding_idx += rows
    return embedding_op(input, weight, padding_idx, scale_grad_by_freq)
