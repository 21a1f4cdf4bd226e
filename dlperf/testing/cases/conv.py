from __future__ import annotations

import torch

from ._case import Case

LAST = torch.channels_last


def conv2d_case(
    name: str,
    x: tuple,
    w: tuple,
    *,
    last: bool = True,
    weight_last: bool = False,
    bias: bool = False,
    residual: bool = False,
    **arguments,
) -> Case:
    """x [N, C, H, W] and w [K, C / groups, R, S]; `arguments` are conv2d's own."""
    reach = w[1] * w[2] * w[3]

    def make(maker):
        kwargs = dict(arguments)
        given = [
            maker(*x, memory_format=LAST if last else None),
            maker(*w, scale=reach**-0.5, memory_format=LAST if weight_last else None),
        ]
        if bias:
            given.append(maker(w[0]))
        if residual:
            kwargs["residual"] = maker(*_size(x, w, arguments), memory_format=LAST if last else None)
        return tuple(given), kwargs

    return Case("conv2d", name, make, reach, max(w[0] * w[2] * w[3], x[0] * x[2] * x[3]))


def _size(x: tuple, w: tuple, arguments: dict) -> tuple:
    stride, padding = arguments.get("stride", 1), arguments.get("padding", 0)
    return (x[0], w[0], *((x[i] + 2 * padding - w[i]) // stride + 1 for i in (2, 3)))


def _conv1d(name: str, x: tuple, w: tuple, **arguments) -> Case:
    reach = w[1] * w[2]
    return Case(
        "conv1d",
        name,
        lambda make: ((make(*x), make(*w, scale=reach**-0.5), make(w[0])), arguments),
        reach,
        max(w[0] * w[2], x[0] * x[2]),
    )


def _transposed(name: str, x: tuple, w: tuple, *, last: bool = True, bias: bool = True, **arguments) -> Case:
    """x [N, C, P, Q] and w [C, K / groups, R, S], or one dimension less."""
    groups = arguments.get("groups", 1)
    reach = w[0] // groups * torch.Size(w[2:]).numel()
    function = "conv_transpose2d" if len(x) == 4 else "conv_transpose1d"

    def make(maker):
        given = [maker(*x, memory_format=LAST if last and len(x) == 4 else None), maker(*w, scale=reach**-0.5)]
        if bias:
            given.append(maker(w[1] * groups))
        return tuple(given), arguments

    area = x[0] * torch.Size(x[2:]).numel() * arguments.get("stride", 1) ** (len(x) - 2)
    return Case(function, name, make, reach, max(w[1] * torch.Size(w[2:]).numel(), 2 * area))


def _sliced(make):
    x = make(3, 20, 9, 12, grad=False)[1:, 3:11, 1:8, ::2].detach().requires_grad_()
    w = make(11, 9, 4, 4, grad=False, scale=0.1)[2:9, :8, 1:, :3].detach().requires_grad_()
    return (x, w, make(14, grad=False)[::2].detach().requires_grad_()), {"padding": 1}


def _sliced_channels(make):
    """Half of the channels of a channels_last tensor."""
    x = make(2, 32, 6, 5, grad=False, memory_format=LAST)[:, 16:].detach().requires_grad_()
    return (x, make(24, 16, 3, 3, scale=0.1)), {"padding": 1}


def _expanded(make):
    x = make(1, 8, 1, 6, grad=False).expand(3, 8, 5, 6).detach().requires_grad_()
    w = make(1, 8, 1, 1, grad=False, scale=0.1).expand(6, 8, 3, 3).detach().requires_grad_()
    return (x, w), {"padding": 1}


def _unbatched(make):
    return (make(8, 7, 6), make(12, 8, 3, 3, scale=0.1), make(12)), {"padding": 1}


def _channels_last_layout_of_one_channel(make):
    return (make(2, 1, 7, 6, memory_format=LAST), make(5, 1, 3, 3, scale=0.3, memory_format=LAST)), {}


CASES = [
    # Around the register tiles: pixels in rows of the tile, output channels in its columns, C * R * S its depth.
    *(
        conv2d_case(f"1x1-tile-{m}-{n}-{k}", (1, k, 1, m), (n, k, 1, 1))
        for m, n, k in ((5, 63, 127), (6, 64, 128), (7, 65, 129))
    ),
    *(
        conv2d_case(f"3x3-tile-{n}-{c}", (1, c, 3, n), (n + 9, c, 3, 3), padding=1)
        for n, c in ((5, 15), (6, 16), (7, 17))
    ),
    *(conv2d_case(f"avx2-tile-{k}", (1, 9, 5, 5), (k, 9, 3, 3), bias=True) for k in (15, 16, 17, 31, 33)),
    # ResNet's layers with fewer pixels and channels.
    conv2d_case("resnet-stem", (2, 3, 17, 19), (64, 3, 7, 7), stride=2, padding=3),
    conv2d_case("resnet-stem-nchw", (1, 3, 23, 22), (64, 3, 7, 7), last=False, stride=2, padding=3),
    conv2d_case("resnet-3x3", (2, 64, 7, 7), (64, 64, 3, 3), padding=1),
    conv2d_case("resnet-3x3-stride", (2, 32, 9, 8), (64, 32, 3, 3), stride=2, padding=1, weight_last=True),
    conv2d_case("resnet-1x1", (2, 64, 4, 5), (128, 64, 1, 1), weight_last=True),
    conv2d_case("resnet-downsample", (2, 64, 7, 8), (128, 64, 1, 1), stride=2),
    conv2d_case("resnet-1x1-nchw", (2, 64, 4, 5), (128, 64, 1, 1), last=False),
    conv2d_case("resnet-3x3-nchw", (2, 32, 7, 6), (32, 32, 3, 3), last=False, padding=1, weight_last=True),
    # Epilogues.
    conv2d_case("relu", (2, 16, 5, 6), (24, 16, 3, 3), padding=1, bias=True, activation="relu"),
    conv2d_case("add-relu", (2, 16, 5, 6), (24, 16, 3, 3), padding=1, residual=True, activation="relu"),
    conv2d_case(
        "add-relu-nchw", (2, 16, 5, 6), (24, 16, 3, 3), last=False, padding=1, residual=True, activation="relu"
    ),
    conv2d_case("add-bias", (2, 16, 5, 6), (24, 16, 1, 1), bias=True, residual=True),
    conv2d_case("silu", (2, 16, 5, 6), (24, 16, 3, 3), bias=True, activation="silu"),
    # Geometry.
    conv2d_case("dilated", (2, 16, 9, 10), (20, 16, 3, 3), padding=2, dilation=2),
    conv2d_case("uneven", (2, 6, 11, 9), (7, 6, 2, 5), stride=(3, 2), padding=(0, 4), dilation=(2, 1), bias=True),
    conv2d_case("padding-beyond-kernel", (1, 5, 3, 4), (6, 5, 2, 2), padding=3, bias=True),
    conv2d_case("stride-beyond-kernel", (1, 5, 10, 11), (6, 5, 2, 1), stride=4),
    conv2d_case("unread-border", (1, 8, 8, 8), (8, 8, 3, 3), stride=3),
    conv2d_case("same", (2, 8, 6, 7), (8, 8, 3, 5), padding="same"),
    conv2d_case("same-even-kernel", (2, 8, 6, 7), (8, 8, 4, 2), padding="same", dilation=(1, 3)),
    conv2d_case("valid", (2, 8, 6, 7), (8, 8, 3, 3), padding="valid", bias=True),
    conv2d_case("whole-image", (2, 8, 5, 4), (12, 8, 5, 4), bias=True),
    conv2d_case("one-pixel", (3, 20, 1, 1), (24, 20, 1, 1), bias=True),
    conv2d_case("one-pixel-nchw", (3, 20, 1, 1), (24, 20, 3, 3), last=False, padding=1),
    conv2d_case("one-output-channel", (2, 20, 5, 5), (1, 20, 3, 3), bias=True, padding=1),
    conv2d_case("patches", (2, 3, 8, 12), (48, 3, 4, 4), stride=4, bias=True, last=False),
    conv2d_case("empty-batch", (0, 8, 6, 7), (8, 8, 3, 3), bias=True),
    # Groups.
    conv2d_case("groups", (2, 24, 6, 5), (36, 8, 3, 3), groups=3, padding=1, bias=True),
    conv2d_case("groups-1x1-nchw", (2, 24, 6, 5), (12, 6, 1, 1), groups=4, last=False),
    conv2d_case("groups-of-16", (2, 32, 6, 5), (32, 16, 3, 3), groups=2, padding=1, stride=2),
    *(conv2d_case(f"depthwise-{c}", (2, c, 7, 6), (c, 1, 3, 3), groups=c, padding=1) for c in (1, 15, 16, 17, 33)),
    conv2d_case(
        "depthwise-relu6", (2, 24, 7, 6), (24, 1, 3, 3), groups=24, stride=2, padding=1, bias=True, activation="relu6"
    ),
    conv2d_case("depthwise-multiplier", (2, 10, 7, 6), (30, 1, 3, 3), groups=10, padding=1, bias=True),
    conv2d_case("depthwise-7x7-nchw", (1, 20, 8, 9), (20, 1, 7, 7), groups=20, padding=3, bias=True, last=False),
    conv2d_case("depthwise-dilated", (1, 18, 9, 9), (18, 1, 3, 3), groups=18, padding=2, dilation=2),
    # Views and formats.
    Case("conv2d", "sliced", _sliced, 72, 120),
    Case("conv2d", "sliced-channels", _sliced_channels, 144, 216),
    Case("conv2d", "expanded", _expanded, 72, 90),
    Case("conv2d", "unbatched", _unbatched, 72, 108),
    Case("conv2d", "one-channel", _channels_last_layout_of_one_channel, 9, 45),
    # One dimension.
    _conv1d("plain", (2, 9, 20), (17, 9, 3), padding=1),
    _conv1d("strided", (2, 9, 21), (12, 9, 4), stride=3, padding=2, dilation=2),
    _conv1d("depthwise", (2, 20, 15), (20, 1, 5), groups=20, padding=2),
    _conv1d("same", (2, 8, 11), (8, 8, 4), padding="same", activation="relu"),
    Case("conv1d", "unbatched", lambda make: ((make(6, 12), make(8, 6, 3)), {}), 18, 24),
    Case(
        "conv1d",
        "sequence-last",
        lambda make: ((make(2, 12, 6, grad=False).transpose(1, 2).detach().requires_grad_(), make(8, 6, 3)), {}),
        *(18, 24),
    ),
    # Transposed.
    _transposed("plain", (2, 12, 5, 4), (12, 17, 3, 3)),
    _transposed("upsample", (2, 24, 5, 4), (24, 16, 2, 2), stride=2),
    _transposed("upsample-4x4", (2, 16, 5, 4), (16, 12, 4, 4), stride=2, padding=1, activation="relu"),
    _transposed("output-padding", (2, 10, 5, 4), (10, 9, 3, 3), stride=2, padding=1, output_padding=1),
    _transposed("output-padding-by-dilation", (1, 6, 5, 4), (6, 5, 3, 3), stride=2, dilation=3, output_padding=2),
    _transposed("groups-nchw", (2, 12, 5, 4), (12, 4, 3, 3), last=False, stride=2, groups=3),
    _transposed("depthwise", (2, 18, 5, 4), (18, 1, 3, 3), stride=2, padding=1, groups=18, bias=False),
    _transposed("empty-batch", (0, 6, 5, 4), (6, 5, 3, 3)),
    _transposed("1d", (2, 9, 7), (9, 8, 4), stride=2, padding=1),
    Case("conv_transpose2d", "unbatched", lambda make: ((make(6, 5, 4), make(6, 8, 3, 3)), {}), 54, 72),
]
