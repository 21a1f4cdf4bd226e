from __future__ import annotations

import math

import torch

from ._case import Case


def _norm(
    id: str,
    shape,
    *,
    training: bool = True,
    last: bool = False,
    affine: bool = True,
    running: bool = True,
    residual: bool = False,
    shift: float = 0.0,
    parameters: torch.dtype | None = None,
    view=None,
    gradients: bool = True,
    **given,
) -> Case:
    """view: makes x from a tensor of ``shape``, strided."""

    def arguments(make):
        x = make(*shape, scale=2, shift=shift)
        if last:
            format = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
            x = x.detach().contiguous(memory_format=format).requires_grad_()
        if view is not None:
            x = view(x)
        c = x.shape[1]
        kwargs = {"training": training, **given}
        kwargs["running_mean"] = make(c, grad=False, shift=shift, dtype=parameters) if running else None
        kwargs["running_var"] = make.positive(c, dtype=parameters) if running else None
        if affine:
            kwargs["weight"] = make.positive(c, grad=True, dtype=parameters)
            kwargs["bias"] = make(c, dtype=parameters)
        if residual:
            kwargs["residual"] = make(*x.shape)
        if not gradients:
            x, kwargs = x.detach(), {k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()}
        return (x,), kwargs

    dtypes = {}
    if parameters is not None:
        dtypes["dtypes"] = (torch.bfloat16, torch.float16)
    elif shift:  # a narrow type has no digits left for the deviations
        dtypes["dtypes"] = (torch.float32,)
    return Case(
        "batch_norm", id, arguments, reduction=math.prod(shape) // max(1, shape[1]), gradients=gradients, **dtypes
    )


def _both(id: str, shape, **given) -> list[Case]:
    return [_norm(f"{id}-nchw", shape, **given), _norm(f"{id}-nhwc", shape, last=True, **given)]


def behind_conv(id: str, size, weight_size, *, last: bool = True, residual: bool = False, **given) -> Case:
    """conv2d_batch_norm: input of ``size``, weight of ``weight_size``; given: the convolution's numbers, activation."""
    terms = math.prod(weight_size[1:])

    def arguments(make):
        x = make(*size)
        if last:
            x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        weight, k = make(*weight_size, scale=terms**-0.5), weight_size[0]
        kwargs = {"running_mean": make(k, grad=False), "running_var": make.positive(k), **given}
        kwargs |= {"norm_weight": make.positive(k, grad=True), "norm_bias": make(k)}
        if residual:
            with torch.no_grad():
                numbers = [given.get(name, default) for name, default in (("stride", 1), ("padding", 0))]
                shape = torch.nn.functional.conv2d(x, weight, None, *numbers, groups=given.get("groups", 1)).shape
            kwargs["residual"] = make(*shape)
        return (x, weight), kwargs

    pixels = size[0] * size[2] * size[3]
    return Case(
        "conv2d_batch_norm", id, arguments, reduction=pixels + terms, grad_reduction=2 * pixels * weight_size[0]
    )


# Vectors are 8 or 16 wide; narrow rows are folded below 64 channels, and below 256 where no multiple of 16.
CHANNELS = (1, 3, 15, 16, 17, 63, 64, 65, 100, 256, 300)
# Rows are summed in chunks of 64; planes in chunks of 1024 values, taken 4096 at a time.
ROWS = (3, 63, 64, 65, 130)
PLANES = (1023, 1025, 4096, 9001)

CASES = [
    *(case for c in CHANNELS for case in _both(f"c{c}", (2, c, 5, 7), residual=True, activation="relu")),
    *(_norm(f"rows{n}", (n, 24)) for n in ROWS),
    *(_norm(f"plane{s}", (1, 3, s)) for s in PLANES),
    _norm("two-rows", (2, 70), gradients=False),
    *_both("few-rows", (1, 640, 2, 2)),
    *_both("threads", (4, 48, 24, 24), residual=True, activation="relu"),
    *_both("plain", (3, 20, 6, 5)),
    *_both("relu", (3, 20, 6, 5), activation="relu"),
    *_both("residual", (3, 20, 6, 5), residual=True),
    *_both("no-affine", (3, 20, 6, 5), affine=False, activation="relu"),
    *_both("no-running", (3, 20, 6, 5), running=False),
    *_both("momentum", (3, 20, 6, 5), momentum=0.75, eps=1e-3),
    *_both("far-from-zero", (3, 20, 9, 9), shift=1000.0),
    *_both("eval", (3, 20, 6, 5), training=False),
    *_both("eval-fused", (3, 20, 6, 5), training=False, residual=True, activation="relu"),
    *_both("eval-no-affine", (3, 20, 6, 5), training=False, affine=False),
    *_both("float32-parameters", (3, 20, 6, 5), residual=True, activation="relu", parameters=torch.float32),
    *_both("float32-parameters-eval", (3, 20, 6, 5), training=False, parameters=torch.float32),
    *_both("one-position", (5, 20, 1, 1)),
    *_both("no-images", (0, 20, 3, 3)),
    *_both("volumes", (2, 20, 3, 4, 5), activation="relu"),
    _norm("lines", (3, 20, 17), residual=True, activation="relu"),
    _norm("sliced", (3, 20, 6, 10), view=lambda x: x[..., ::2]),
    _norm("sliced-nhwc", (3, 20, 6, 10), last=True, view=lambda x: x[:, :, ::2]),
    _norm("offset", (4, 20, 6, 5), view=lambda x: x[1:]),
    _norm("transposed", (3, 17, 20), view=lambda x: x.transpose(1, 2)),
    behind_conv("conv-3x3", (2, 12, 9, 9), (20, 12, 3, 3), padding=1, residual=True, activation="relu"),
    behind_conv("conv-3x3-nchw", (2, 12, 9, 9), (20, 12, 3, 3), last=False, padding=1),
    behind_conv("conv-1x1", (3, 24, 10, 7), (70, 24, 1, 1), activation="relu"),
    behind_conv("conv-1x1-split", (1, 256, 6, 6), (40, 256, 1, 1), residual=True),
    behind_conv("conv-strided", (2, 8, 11, 11), (17, 8, 3, 3), stride=2, padding=1),
    behind_conv("conv-split", (1, 64, 6, 6), (32, 64, 3, 3), padding=1, activation="relu"),
    behind_conv("conv-stem", (2, 3, 17, 17), (16, 3, 7, 7), stride=2, padding=3),
    behind_conv("conv-grouped", (2, 24, 8, 8), (36, 12, 3, 3), groups=2, padding=1),
    behind_conv("conv-depthwise", (2, 24, 8, 8), (24, 1, 3, 3), groups=24, padding=1, activation="relu"),
    behind_conv("conv-no-images", (0, 8, 5, 5), (16, 8, 3, 3)),
    _norm("expanded", (3, 20, 6, 1), view=lambda x: x.expand(3, 20, 6, 5)),
    *(
        _norm(f"eval-{kind}", (2, 37, 4, 4), training=False, residual=True, activation=kind, gradients=False)
        for kind in ("silu", "gelu", "relu6", "hardswish")
    ),
]
