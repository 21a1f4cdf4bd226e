"""Layer norm and RMS norm over the last dimensions. Formulas and sources: docs/math/layer_norm.md."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..memory import new_empty
from ._checks import check_floating, describe
from ._frame import Operator, backward_through_reference, save_inputs


def _stats_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def rows_of(x: Tensor, dims: int):
    """How many rows x has when its last ``dims`` dimensions are one row."""
    rows = 1
    for size in x.shape[: x.ndim - dims]:
        rows = rows * size
    return rows


def layer_norm_empty(x: Tensor, weight, bias, dims: int, eps: float) -> tuple[Tensor, Tensor]:
    """y, contiguous as torch's, and stats: [mean; 1 / sqrt(variance + eps)] of each row."""
    return new_empty(x, x.shape), x.new_empty((2, rows_of(x, dims)), dtype=_stats_dtype(x))


def rms_norm_empty(x: Tensor, weight, dims: int, eps: float) -> tuple[Tensor, Tensor]:
    """y, contiguous as torch's, and stats: [1 / sqrt(mean square + eps)] of each row."""
    return new_empty(x, x.shape), x.new_empty((1, rows_of(x, dims)), dtype=_stats_dtype(x))


def _grad_empty(x: Tensor, wanted: bool) -> Tensor:
    return new_empty(x, x.shape) if wanted else x.new_empty(0)


def layer_norm_bwd_empty(gy, x, weight, bias, stats, dims, eps, wanted) -> tuple[Tensor, Tensor, Tensor]:
    """gx, gweight, gbias; those that are not wanted have no elements."""
    return (
        _grad_empty(x, wanted[0]),
        _grad_empty(x if weight is None else weight, wanted[1]),
        _grad_empty(x if bias is None else bias, wanted[2]),
    )


def rms_norm_bwd_empty(gy, x, weight, stats, dims, eps, wanted) -> tuple[Tensor, Tensor]:
    """gx, gweight; those that are not wanted have no elements."""
    return _grad_empty(x, wanted[0]), _grad_empty(x if weight is None else weight, wanted[1])


def _setup(ctx, args, output):
    tensors = [a for a in args if a is None or isinstance(a, Tensor)]
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.rest = args[len(tensors) :]


def _layer_norm_backward(ctx, gy, _):
    x, weight, bias, stats = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:3])
    grads = layer_norm_bwd(gy, x, weight, bias, stats, *ctx.rest, wanted)
    return tuple(g if w else None for g, w in zip(grads, wanted, strict=True))


def _rms_norm_backward(ctx, gy, _):
    x, weight, stats = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:2])
    grads = rms_norm_bwd(gy, x, weight, stats, *ctx.rest, wanted)
    return tuple(g if w else None for g, w in zip(grads, wanted, strict=True))


layer_norm_op = Operator(
    "layer_norm(Tensor x, Tensor? weight, Tensor? bias, int dims, float eps) -> (Tensor, Tensor)",
    fake=layer_norm_empty,
    setup=_setup,
    backward=_layer_norm_backward,
)

layer_norm_bwd = Operator(
    "layer_norm_bwd(Tensor gy, Tensor x, Tensor? weight, Tensor? bias, Tensor stats, int dims, float eps, "
    "bool[] wanted) -> (Tensor, Tensor, Tensor)",
    fake=layer_norm_bwd_empty,
    setup=save_inputs,
    backward=backward_through_reference("layer_norm_bwd"),
)

rms_norm_op = Operator(
    "rms_norm(Tensor x, Tensor? weight, int dims, float eps) -> (Tensor, Tensor)",
    fake=rms_norm_empty,
    setup=_setup,
    backward=_rms_norm_backward,
)

rms_norm_bwd = Operator(
    "rms_norm_bwd(Tensor gy, Tensor x, Tensor? weight, Tensor stats, int dims, float eps, bool[] wanted) "
    "-> (Tensor, Tensor)",
    fake=rms_norm_bwd_empty,
    setup=save_inputs,
    backward=backward_through_reference("rms_norm_bwd"),
)


def _check_shapes(op: str, input: Tensor, normalized_shape, **affine) -> int:
    if isinstance(normalized_shape, int):
        raise TypeError(f"{op}(): argument 'normalized_shape' must be tuple of ints, not int")
    dims, shape = len(normalized_shape), tuple(normalized_shape)
    if dims == 0:
        raise RuntimeError(f"{op}(): expected 'normalized_shape' to have at least one element, got ()")
    if tuple(input.shape[-dims:]) != shape:
        wanted = ", ".join(map(str, ("*", *shape)))
        raise RuntimeError(f"{op}(): expected 'input' to have the shape [{wanted}], got {describe(input)}")
    for name, x in affine.items():
        if x is not None and tuple(x.shape) != shape:
            raise RuntimeError(f"{op}(): expected '{name}' to have the normalized_shape {shape}, got {describe(x)}")
    return dims


def check_affine_dtypes(op: str, input: Tensor, **affine) -> None:
    """Weight and bias have the input's dtype, or are float32 beside a 16-bit input; both the same."""
    dtypes = {x.dtype for x in affine.values() if x is not None}
    if not dtypes or dtypes == {input.dtype}:
        return
    if dtypes == {torch.float32} and input.dtype in (torch.bfloat16, torch.float16):
        return
    name, x = next((n, a) for n, a in affine.items() if a is not None and a.dtype is not input.dtype)
    raise RuntimeError(
        f"{op}(): expected '{name}' to have the dtype of 'input' ({str(input.dtype).removeprefix('torch.')}), or all "
        f"affine parameters to be float32 beside a 16-bit input, got {describe(x)}"
    )


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(input - mean) / sqrt(variance + eps) * weight + bias over the last dimensions (Ba, Kiros & Hinton 2016).

    weight and bias have the shape ``normalized_shape`` and the input's dtype, or float32 beside a 16-bit input.
    Raises RuntimeError where shapes or dtypes disagree.
    """
    check_floating("layer_norm", input=input, weight=weight, bias=bias)
    dims = _check_shapes("layer_norm", input, normalized_shape, weight=weight, bias=bias)
    if weight is not None or bias is not None:
        check_affine_dtypes("layer_norm", input, weight=weight, bias=bias)
    return layer_norm_op(input, weight, bias, dims, eps)[0]


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """input / sqrt(mean(input^2) + eps) * weight over the last dimensions (Zhang & Sennrich 2019).

    ``eps`` None is the epsilon of the dtype that the statistics are computed in. A weight of a wider dtype than the
    input's does not widen the result, except that float32 input with a 16-bit weight stays float32.
    """
    check_floating("rms_norm", input=input, weight=weight)
    dims = _check_shapes("rms_norm", input, normalized_shape, weight=weight)
    if eps is None:
        eps = torch.finfo(_stats_dtype(input)).eps
    if weight is not None and weight.dtype is not input.dtype and weight.dtype is not torch.float32:
        weight = weight.to(_stats_dtype(input))
    return rms_norm_op(input, weight, dims, eps)[0]
