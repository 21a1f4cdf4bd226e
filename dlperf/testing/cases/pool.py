from __future__ import annotations

import torch

from ._case import Case


def _pool(function: str, id: str, shape, *args, last: bool = False, view=None, terms: int = 9, **kwargs) -> Case:
    def arguments(make):
        x = make(*shape)
        if last:
            x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        return (x if view is None else view(x), *args), kwargs

    return Case(function, id, arguments, reduction=terms)


def _both(function: str, id: str, shape, *args, **kwargs) -> list[Case]:
    return [
        _pool(function, f"{id}-nchw", shape, *args, **kwargs),
        _pool(function, f"{id}-nhwc", shape, *args, last=True, **kwargs),
    ]


# Vectors of channels are 8 or 16 wide, four at a time; along rows, vectors of outputs.
CHANNELS = (1, 3, 15, 16, 17, 64, 100)
WIDTHS = (2, 8, 15, 16, 17, 33)

CASES = [
    *(case for c in CHANNELS for case in _both("max_pool2d", f"c{c}", (2, c, 7, 9), 3, 2, 1)),
    *(case for c in CHANNELS for case in _both("avg_pool2d", f"c{c}", (2, c, 7, 9), 3, 2, 1)),
    *(_pool("max_pool2d", f"w{w}", (2, 3, 5, w * 2 + 1), 3, 2, 1) for w in WIDTHS),
    *(_pool("avg_pool2d", f"w{w}", (2, 3, 5, w), 3, 1, 1) for w in WIDTHS),
    *_both("max_pool2d", "resnet", (2, 64, 28, 28), 3, 2, 1),
    *_both("max_pool2d", "tiles", (2, 20, 8, 8), 2),
    *_both("max_pool2d", "stride-3", (2, 5, 20, 50), 2, 3),
    *_both("max_pool2d", "dilated", (2, 20, 11, 40), (3, 2), (1, 2), (1, 1), (2, 3)),
    *_both("max_pool2d", "ceil", (2, 20, 8, 9), 3, 2, 1, ceil_mode=True),
    *_both("max_pool2d", "wide", (1, 4, 20, 40), 13, 1, 6),
    *_both("max_pool2d", "no-images", (0, 20, 8, 8), 2),
    *_both("avg_pool2d", "tiles", (2, 20, 8, 8), 2, terms=4),
    *_both("avg_pool2d", "no-padding-counted", (2, 20, 8, 9), 3, 2, 1, count_include_pad=False),
    *_both("avg_pool2d", "ceil", (2, 20, 8, 9), (2, 3), (3, 2), (1, 0), ceil_mode=True),
    *_both("avg_pool2d", "divisor", (2, 20, 8, 9), 3, divisor_override=5),
    *_both("avg_pool2d", "wide", (1, 4, 20, 40), 17, 1, 8, terms=289),
    *_both("avg_pool2d", "no-images", (0, 20, 8, 8), 2),
    *_both("adaptive_avg_pool2d", "global", (2, 100, 7, 7), 1, terms=49),
    *_both("adaptive_avg_pool2d", "even", (2, 20, 8, 12), (4, 3), terms=8),
    *_both("adaptive_avg_pool2d", "uneven", (2, 20, 9, 11), (4, 7), terms=9),
    *_both("adaptive_avg_pool2d", "larger", (2, 20, 3, 4), (5, 9), terms=6),
    *_both("adaptive_avg_pool2d", "one-axis", (2, 20, 5, 6), (None, 2), terms=3),
    *_both("adaptive_avg_pool2d", "one-pixel", (2, 20, 1, 1), 1, terms=1),
    *_both("adaptive_avg_pool2d", "large-plane", (1, 5, 60, 61), 1, terms=3660),
    *_both("adaptive_max_pool2d", "uneven", (2, 20, 9, 11), (4, 7)),
    *_both("adaptive_max_pool2d", "global", (2, 20, 7, 7), 1),
    *_both("max_pool2d", "sliced", (2, 20, 8, 18), 2, view=lambda x: x[..., ::2]),
    *_both("avg_pool2d", "offset", (3, 20, 8, 8), 2, view=lambda x: x[1:]),
    _pool("max_pool2d", "expanded", (2, 20, 8, 1), 3, 2, 1, view=lambda x: x.expand(2, 20, 8, 9)),
    _pool("max_pool2d", "unbatched", (20, 8, 9), 2),
    _pool("avg_pool2d", "unbatched", (20, 8, 9), 2),
    _pool("max_pool1d", "lines", (2, 20, 33), 3, 2, 1),
    _pool("max_pool1d", "unbatched", (20, 33), 2, dilation=2),
    _pool("avg_pool1d", "lines", (2, 20, 33), 4, 2, 1, count_include_pad=False),
    _pool("adaptive_avg_pool1d", "lines", (2, 20, 33), 5),
    _pool("adaptive_max_pool1d", "lines", (2, 20, 33), 5),
]
