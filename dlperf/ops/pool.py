"""Max, average and adaptive pooling, 1-d as 2-d of height 1. Formulas and sources: docs/math/pool.md."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..memory import new_empty
from ._checks import check_tensor, describe
from ._frame import Operator
from .conv import keeps_channels_last

# Of both axes: kernel, stride, padding, dilation. Adaptive pooling has no window: the sizes tell.
Window = tuple[int, ...]
_LARGEST_INT32 = 2**31 - 1
_PLAIN = (Tensor, torch.nn.Parameter)


def channels_last(x: Tensor) -> bool:
    """Whether the result is laid out channels last; where x's memory could be either, x's strides tell."""
    if x.is_contiguous() != x.is_contiguous(memory_format=torch.channels_last):
        return not x.is_contiguous()
    return keeps_channels_last(x)


def _empty(x: Tensor, size, channels_last: bool, dtype: torch.dtype | None = None) -> Tensor:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return new_empty(x, size, memory_format, dtype)


def _pooled(x: Tensor, output_size) -> tuple:
    return (x.shape[0], x.shape[1], *output_size)


def max_pool_empty(x: Tensor, window, output_size, want_indices) -> tuple[Tensor, Tensor]:
    """y, and indices laid out alike: h * width + w of each window's winner; no elements where not wanted."""
    dtype = torch.int64 if x.shape[2] * x.shape[3] > _LARGEST_INT32 else torch.int32
    size, last = _pooled(x, output_size), channels_last(x)
    y = _empty(x, size, last)
    return y, _empty(x, size, last, dtype) if want_indices else x.new_empty(0, dtype=dtype)


def max_pool_bwd_empty(gy: Tensor, indices, input_size, window, channels_last) -> Tensor:
    return _empty(gy, input_size, channels_last)


def avg_pool_empty(x: Tensor, window, output_size, *_) -> Tensor:
    return _empty(x, _pooled(x, output_size), channels_last(x))


def avg_pool_bwd_empty(gy: Tensor, input_size, window, count_include_pad, divisor, channels_last) -> Tensor:
    return _empty(gy, input_size, channels_last)


def _max_setup(ctx, args, output):
    x, ctx.window, _, want_indices = args
    if not want_indices:
        raise RuntimeError("max_pool: a gradient takes want_indices=True")
    ctx.input_size, ctx.channels_last = x.shape, channels_last(x)
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _max_backward(ctx, gy, _):
    (indices,) = ctx.saved_tensors
    return (max_pool_bwd(gy, indices, ctx.input_size, ctx.window, ctx.channels_last),)


max_pool = Operator(
    "max_pool(Tensor x, SymInt[] window, SymInt[] output_size, bool want_indices) -> (Tensor, Tensor)",
    fake=max_pool_empty,
    setup=_max_setup,
    backward=_max_backward,
)


def _max_bwd_setup(ctx, args, output):
    ctx.save_for_backward(args[1])


def _max_bwd_backward(ctx, ggx):
    (indices,) = ctx.saved_tensors
    return ggx.flatten(2).gather(2, indices.long().flatten(2)).view(indices.shape), None


max_pool_bwd = Operator(
    "max_pool_bwd(Tensor gy, Tensor indices, SymInt[] input_size, SymInt[] window, bool channels_last) -> Tensor",
    fake=max_pool_bwd_empty,
    setup=_max_bwd_setup,
    backward=_max_bwd_backward,
)


def _avg_setup(ctx, args, output):
    x, ctx.window, _, ctx.count_include_pad, ctx.divisor = args
    ctx.input_size, ctx.channels_last = x.shape, channels_last(x)


def _avg_backward(ctx, gy):
    return (avg_pool_bwd(gy, ctx.input_size, ctx.window, ctx.count_include_pad, ctx.divisor, ctx.channels_last),)


# divisor: 0 for the window's own
avg_pool = Operator(
    "avg_pool(Tensor x, SymInt[] window, SymInt[] output_size, bool count_include_pad, SymInt divisor) -> Tensor",
    fake=avg_pool_empty,
    setup=_avg_setup,
    backward=_avg_backward,
)


def _avg_bwd_setup(ctx, args, output):
    gy, _, ctx.window, ctx.count_include_pad, ctx.divisor, _ = args
    ctx.output_size = gy.shape[2:]


def _avg_bwd_backward(ctx, ggx):
    return (avg_pool(ggx, ctx.window, ctx.output_size, ctx.count_include_pad, ctx.divisor),)


avg_pool_bwd = Operator(
    "avg_pool_bwd(Tensor gy, SymInt[] input_size, SymInt[] window, bool count_include_pad, SymInt divisor, "
    "bool channels_last) -> Tensor",
    fake=avg_pool_bwd_empty,
    setup=_avg_bwd_setup,
    backward=_avg_bwd_backward,
)


# --- arguments ------------------------------------------------------------------------------------


def _is_int(value) -> bool:
    if isinstance(value, Tensor):
        return value.dim() == 0 and not value.is_floating_point()
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def _per_axis(op: str, name: str, value, rank: int) -> tuple:
    """The argument as one number for each axis; a single number, or a sequence of one, goes for all."""
    if type(value) is int:
        return (value,) * rank
    if _is_int(value):
        return (int(value),) * rank if isinstance(value, Tensor) else (value,) * rank
    if not isinstance(value, (tuple, list)) or not all(_is_int(v) for v in value):
        wanted = "an int" if rank == 1 else "an int or a tuple of ints"
        raise TypeError(f"{op}(): argument '{name}' must be {wanted}, not {value!r} ({type(value).__name__})")
    value = tuple(int(v) if isinstance(v, Tensor) else v for v in value)
    if len(value) == 1:
        return value * rank
    if len(value) != rank:
        raise RuntimeError(f"{op}(): expected '{name}' to be a single int or a tuple of {rank}, got {value}")
    return value


def _check_input(op: str, input: Tensor, rank: int, empty_channels: bool = False) -> None:
    """rank + 1 or rank + 2 dimensions, of which the batch alone may be empty."""
    if not isinstance(input, Tensor):
        check_tensor(op, input=input)
    dims = input.dim()
    if dims != rank + 1 and dims != rank + 2:
        raise RuntimeError(
            f"{op}(): expected 'input' to have {rank + 1} dimensions, or {rank + 2} with a batch, got {describe(input)}"
        )
    if input.numel() == 0:
        for size in input.shape[dims - rank - (not empty_channels) :]:
            if size == 0:
                raise RuntimeError(f"{op}(): expected 'input' to be empty in the batch alone, got {describe(input)}")


def _check_dtype(op: str, input: Tensor, *integers: torch.dtype) -> None:
    if not input.is_floating_point() and input.dtype not in integers:
        raise NotImplementedError(f"{op}(): expected 'input' to have a floating dtype, got {describe(input)}")


def _check_window(op: str, kernel, stride, padding, dilation) -> None:
    for name, values in (("kernel_size", kernel), ("stride", stride), ("dilation", dilation)):
        for v in values:
            if v <= 0:
                raise RuntimeError(f"{op}(): expected '{name}' to be greater than zero, got {v}")
    for p, k, d in zip(padding, kernel, dilation, strict=True):
        if p < 0 or p > ((k - 1) * d + 1) // 2:
            raise RuntimeError(
                f"{op}(): expected 'padding' to be non-negative and at most half of the effective kernel size, "
                f"got padding={p} with kernel_size={k} and dilation={d}"
            )


def _geometry(op: str, sizes, kernel, stride, padding, dilation, ceil_mode: bool) -> tuple[Window, tuple]:
    """The window and the output size of both axes, checked."""
    _check_window(op, kernel, stride, padding, dilation)
    out = []
    for size, k, s, p, d in zip(sizes, kernel, stride, padding, dilation, strict=True):
        room = size + 2 * p - d * (k - 1) - 1
        o = (room + (s - 1 if ceil_mode else 0)) // s + 1
        # The last window starts inside the input or the padding before it.
        if ceil_mode and (o - 1) * s >= size + p:
            o -= 1
        if o < 1:
            raise RuntimeError(
                f"{op}(): expected the window to fit into 'input': size {tuple(sizes)} with kernel_size={kernel}, "
                f"stride={stride}, padding={padding}, dilation={dilation} gives an output of size {o}"
            )
        out.append(o)
    if len(out) == 1:
        return (1, *kernel, 1, *stride, 0, *padding, 1, *dilation), (1, *out)
    return (*kernel, *stride, *padding, *dilation), tuple(out)


_known_geometry = lru_cache(maxsize=1024)(_geometry)


def _sliding(op: str, rank: int, input: Tensor, kernel_size, stride, padding, dilation, ceil_mode):
    kernel = _per_axis(op, "kernel_size", kernel_size, rank)
    no_stride = stride is None or (isinstance(stride, (tuple, list)) and len(stride) == 0)
    stride = kernel if no_stride else _per_axis(op, "stride", stride, rank)
    padding = _per_axis(op, "padding", padding, rank)
    dilation = _per_axis(op, "dilation", dilation, rank)
    # Symbolic sizes can't be looked up.
    find = _geometry if torch.compiler.is_compiling() or type(input) not in _PLAIN else _known_geometry
    return find(op, input.shape[-rank:], kernel, stride, padding, dilation, bool(ceil_mode))


def _as_images(input: Tensor, rank: int) -> Tensor:
    """[N, C, H, W]"""
    if rank == 1:
        input = input.unsqueeze(-2)
    return input if input.dim() == 4 else input.unsqueeze(0)


def _restore(y: Tensor, rank: int, batched: bool) -> Tensor:
    """Without the dimensions that were added; what has fewer than four has no memory format to keep."""
    if rank == 2 and batched:
        return y
    if rank == 1:
        y = y.squeeze(-2)
    return (y if batched else y.squeeze(0)).contiguous()


def _max(rank: int, input: Tensor, window: Window, out: tuple, return_indices: bool):
    batched = input.dim() == rank + 2
    x = _as_images(input, rank)
    y, indices = max_pool(x, window, out, bool(return_indices) or (input.requires_grad and torch.is_grad_enabled()))
    y = _restore(y, rank, batched)
    return (y, _restore(indices.long(), rank, batched)) if return_indices else y


# --- functions ------------------------------------------------------------------------------------


def max_pool2d(
    input: Tensor,
    kernel_size,
    stride=None,
    padding=0,
    dilation=1,
    ceil_mode: bool = False,
    return_indices: bool = False,
):
    """The largest value of each window, as torch.nn.functional.max_pool2d: NaN wins, the first of equals wins.

    Args:
        input: [N, C, H, W] or [C, H, W], contiguous or channels_last: the result keeps the memory format.
        kernel_size, stride (None: kernel_size), padding, dilation: a number or one for each axis.
        ceil_mode: windows may run over the end.
        return_indices: also gives h * W + w of each winner, int64.

    Raises:
        RuntimeError: sizes that don't fit. TypeError: an argument of the wrong type.
        NotImplementedError: bool or complex input.
    """
    op = "max_pool2d"
    _check_input(op, input, 2)
    _check_dtype(op, input, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    window, out = _sliding(op, 2, input, kernel_size, stride, padding, dilation, ceil_mode)
    return _max(2, input, window, out, return_indices)


def max_pool1d(
    input: Tensor,
    kernel_size,
    stride=None,
    padding=0,
    dilation=1,
    ceil_mode: bool = False,
    return_indices: bool = False,
):
    """:func:`max_pool2d` of [N, C, L] or [C, L]; the result is contiguous."""
    op = "max_pool1d"
    _check_input(op, input, 1)
    _check_dtype(op, input)
    window, out = _sliding(op, 1, input, kernel_size, stride, padding, dilation, ceil_mode)
    return _max(1, input, window, out, return_indices)


def avg_pool2d(
    input: Tensor,
    kernel_size,
    stride=None,
    padding=0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window, as torch.nn.functional.avg_pool2d.

    Args:
        input: [N, C, H, W] or [C, H, W], contiguous or channels_last: the result keeps the memory format.
        kernel_size, stride (None: kernel_size), padding: a number or one for each axis.
        ceil_mode: windows may run over the end.
        count_include_pad: positions in the padding count in the divisor.
        divisor_override: divides each window's sum instead of its size.

    Raises:
        RuntimeError: sizes that don't fit. TypeError: an argument of the wrong type.
        NotImplementedError: an input neither floating nor int64.
    """
    op = "avg_pool2d"
    _check_input(op, input, 2)
    _check_dtype(op, input, torch.int64)
    if divisor_override is not None:
        if not _is_int(divisor_override):
            raise TypeError(f"{op}(): argument 'divisor_override' must be int, not {type(divisor_override).__name__}")
        if divisor_override == 0:
            raise RuntimeError(f"{op}(): expected 'divisor_override' not to be zero")
    window, out = _sliding(op, 2, input, kernel_size, stride, padding, 1, ceil_mode)
    y = avg_pool(_as_images(input, 2), window, out, bool(count_include_pad), divisor_override or 0)
    return _restore(y, 2, input.dim() == 4)


def avg_pool1d(
    input: Tensor, kernel_size, stride=None, padding=0, ceil_mode: bool = False, count_include_pad: bool = True
) -> Tensor:
    """:func:`avg_pool2d` of [N, C, L] or [C, L]; the result is contiguous."""
    op = "avg_pool1d"
    _check_input(op, input, 1)
    _check_dtype(op, input, torch.int64)
    window, out = _sliding(op, 1, input, kernel_size, stride, padding, 1, ceil_mode)
    y = avg_pool(_as_images(input, 1), window, out, bool(count_include_pad), 0)
    return _restore(y, 1, input.dim() == 3)


def _adaptive_size(op: str, rank: int, input: Tensor, output_size) -> tuple:
    if rank == 2 and isinstance(output_size, (tuple, list)):
        if len(output_size) != 2:
            raise RuntimeError(f"{op}(): expected 'output_size' to be a single int or a tuple of 2, got {output_size}")
        output_size = tuple(
            input.shape[input.dim() - 2 + i] if size is None else size for i, size in enumerate(output_size)
        )
    size = _per_axis(op, "output_size", output_size, rank)
    for o in size:
        if o < 0:
            raise RuntimeError(f"{op}(): expected 'output_size' not to be negative, got {size}")
    return size if rank == 2 else (1, *size)


def adaptive_avg_pool2d(input: Tensor, output_size) -> Tensor:
    """Means over windows that share the input out among output_size positions, as torch.nn.functional's.

    Args:
        input: [N, C, H, W] or [C, H, W], contiguous or channels_last: the result keeps the memory format.
        output_size: a number or one for each axis; None keeps the input's size.

    Raises:
        RuntimeError: sizes that don't fit. TypeError: an argument of the wrong type.
        NotImplementedError: an input that is not floating.
    """
    op = "adaptive_avg_pool2d"
    _check_input(op, input, 2, empty_channels=True)
    _check_dtype(op, input)
    y = avg_pool(_as_images(input, 2), (), _adaptive_size(op, 2, input, output_size), True, 0)
    return _restore(y, 2, input.dim() == 4)


def adaptive_avg_pool1d(input: Tensor, output_size) -> Tensor:
    """:func:`adaptive_avg_pool2d` of [N, C, L] or [C, L]; the result is contiguous."""
    op = "adaptive_avg_pool1d"
    _check_input(op, input, 1, empty_channels=True)
    _check_dtype(op, input)
    y = avg_pool(_as_images(input, 1), (), _adaptive_size(op, 1, input, output_size), True, 0)
    return _restore(y, 1, input.dim() == 3)


def adaptive_max_pool2d(input: Tensor, output_size, return_indices: bool = False):
    """Maxima over the windows of :func:`adaptive_avg_pool2d`; with return_indices also h * W + w of each winner."""
    op = "adaptive_max_pool2d"
    _check_input(op, input, 2)
    _check_dtype(op, input)
    return _max(2, input, (), _adaptive_size(op, 2, input, output_size), return_indices)


def adaptive_max_pool1d(input: Tensor, output_size, return_indices: bool = False):
    """:func:`adaptive_max_pool2d` of [N, C, L] or [C, L]; the result is contiguous."""
    op = "adaptive_max_pool1d"
    _check_input(op, input, 1)
    _check_dtype(op, input)
    return _max(1, input, (), _adaptive_size(op, 1, input, output_size), return_indices)
