"""pixel_shuffle and its inverse: channels to positions and back. docs/math/resampling.md."""

from __future__ import annotations

from torch import Tensor

from ..memory import new_empty
from ._checks import check_tensor, describe
from ._frame import Operator
from .batch_norm import memory_format


def pixel_shuffle_empty(x: Tensor, r: int) -> Tensor:
    n, c, h, w = x.shape
    return new_empty(x, (n, c // (r * r), h * r, w * r), memory_format(x))


def pixel_unshuffle_empty(y: Tensor, r: int) -> Tensor:
    n, c, h, w = y.shape
    return new_empty(y, (n, c * r * r, h // r, w // r), memory_format(y))


def _setup(ctx, args, output):
    ctx.r = args[1]


# Each is the other's gradient.
pixel_shuffle_op = Operator(
    "pixel_shuffle(Tensor x, int r) -> Tensor",
    fake=pixel_shuffle_empty,
    setup=_setup,
    backward=lambda ctx, gy: (pixel_unshuffle_op(gy, ctx.r),),
)

pixel_unshuffle_op = Operator(
    "pixel_unshuffle(Tensor y, int r) -> Tensor",
    fake=pixel_unshuffle_empty,
    setup=_setup,
    backward=lambda ctx, gx: (pixel_shuffle_op(gx, ctx.r),),
)


def _as_batch(op: str, name: str, input: Tensor, factor: int) -> Tensor:
    """Checked, with all leading dimensions as one."""
    check_tensor(op, input=input)
    if input.ndim < 3:
        raise RuntimeError(f"{op}(): expected 'input' to have at least 3 dimensions, got {describe(input)}")
    if factor <= 0:
        raise RuntimeError(f"{op}(): expected '{name}' to be greater than 0, got {factor}")
    return input if input.ndim == 4 else input.reshape(-1, *input.shape[-3:])


def _unbatched(y: Tensor, input: Tensor) -> Tensor:
    return y if input.ndim == 4 else y.reshape(*input.shape[:-3], *y.shape[1:])


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    """(*, C r^2, H, W) to (*, C, H r, W r) (Shi et al. 2016). Raises RuntimeError where r^2 does not divide C r^2."""
    x = _as_batch("pixel_shuffle", "upscale_factor", input, upscale_factor)
    if x.shape[1] % (upscale_factor * upscale_factor) != 0:
        raise RuntimeError(
            f"pixel_shuffle(): expected the channels of 'input' to be divisible by upscale_factor^2 = "
            f"{upscale_factor * upscale_factor}, got {describe(input)}"
        )
    return _unbatched(pixel_shuffle_op(x, upscale_factor), input)


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    """(*, C, H r, W r) to (*, C r^2, H, W). Raises RuntimeError where r does not divide height and width."""
    y = _as_batch("pixel_unshuffle", "downscale_factor", input, downscale_factor)
    if y.shape[2] % downscale_factor != 0 or y.shape[3] % downscale_factor != 0:
        raise RuntimeError(
            f"pixel_unshuffle(): expected height and width of 'input' to be divisible by downscale_factor="
            f"{downscale_factor}, got {describe(input)}"
        )
    return _unbatched(pixel_unshuffle_op(y, downscale_factor), input)
