"""Nearest and (bi)linear interpolation. Formulas and sources: docs/math/resampling.md."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..memory import new_empty
from ._checks import check_tensor
from ._frame import Operator
from .batch_norm import memory_format

# torch's modes by the number of spatial dimensions, and the operator's name for them.
MODES = {
    (1, "nearest"): "nearest",
    (2, "nearest"): "nearest",
    (1, "nearest-exact"): "nearest-exact",
    (2, "nearest-exact"): "nearest-exact",
    (1, "linear"): "bilinear",
    (2, "bilinear"): "bilinear",
}


def upsample_empty(x: Tensor, size, mode, align_corners, scale_h, scale_w) -> Tensor:
    """(n, c, *size), in x's memory format."""
    shape = (x.shape[0], x.shape[1], size[0], size[1])
    return new_empty(x, shape, memory_format(x))


def upsample_bwd_empty(gy: Tensor, x_size, mode, align_corners, scale_h, scale_w) -> Tensor:
    shape = (gy.shape[0], gy.shape[1], x_size[0], x_size[1])
    return new_empty(gy, shape, memory_format(gy))


def _setup(ctx, args, output):
    ctx.sizes = args[0].shape[2:], output.shape[2:]
    ctx.rest = args[2:]


def _backward(ctx, gy):
    return (upsample_bwd(gy, list(ctx.sizes[0]), *ctx.rest),)


def _bwd_backward(ctx, gg):
    return (upsample(gg, list(ctx.sizes[0]), *ctx.rest),)


# scale_h, scale_w: the scale factors that the caller gave, or 0: then the sizes tell them.
upsample = Operator(
    "upsample(Tensor x, SymInt[] size, str mode, bool align_corners, float scale_h, float scale_w) -> Tensor",
    fake=upsample_empty,
    setup=_setup,
    backward=_backward,
)

upsample_bwd = Operator(
    "upsample_bwd(Tensor gy, SymInt[] x_size, str mode, bool align_corners, float scale_h, float scale_w) -> Tensor",
    fake=upsample_bwd_empty,
    setup=_setup,
    backward=_bwd_backward,
)


def _served(input: Tensor, size, scale_factor, mode, align_corners, antialias) -> bool:
    """Well-formed, and of the modes that dlperf has: torch answers the rest, with its own errors."""
    spatial = input.ndim - 2
    if (spatial, mode) not in MODES or antialias or not input.is_floating_point():
        return False
    if (size is None) == (scale_factor is None) or (align_corners is not None and "nearest" in mode):
        return False
    given = size if size is not None else scale_factor
    if isinstance(given, (list, tuple)) and len(given) != spatial:
        return False
    return input.shape[1] > 0 and all(s > 0 for s in input.shape[2:])


def interpolate(
    input: Tensor,
    size: int | tuple[int, ...] | None = None,
    scale_factor: float | tuple[float, ...] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Resizes (N, C, W) or (N, C, H, W): nearest, nearest-exact, linear and bilinear; the other modes are torch's.

    Memory format is kept. Index and weight of every output row and column are torch's own float32 ones.
    """
    check_tensor("interpolate", input=input)
    if not _served(input, size, scale_factor, mode, align_corners, antialias):
        return torch.nn.functional.interpolate(
            input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias
        )
    spatial = input.ndim - 2
    scales = [0.0] * spatial
    if size is not None:
        sizes = list(size) if isinstance(size, (list, tuple)) else [size] * spatial
    else:
        factors = list(scale_factor) if isinstance(scale_factor, (list, tuple)) else [scale_factor] * spatial
        sizes = [math.floor(float(n) * f) for n, f in zip(input.shape[2:], factors, strict=True)]
        if not recompute_scale_factor:
            scales = [float(f) for f in factors]
    if min(sizes) <= 0:
        raise RuntimeError(f"interpolate(): expected output sizes greater than 0, got {tuple(sizes)}")
    kind, corners = MODES[spatial, mode], bool(align_corners)
    if spatial == 1:
        return upsample(input.unsqueeze(2), [1, *sizes], kind, corners, 0.0, scales[0]).squeeze(2)
    return upsample(input, sizes, kind, corners, *scales)
