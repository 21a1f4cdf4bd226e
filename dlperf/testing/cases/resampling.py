from __future__ import annotations

import torch

from ._case import Case


def _image(make, shape, last: bool):
    x = make(*shape)
    return x.detach().contiguous(memory_format=torch.channels_last).requires_grad_() if last else x


def _resize(id: str, shape, last: bool = False, **kwargs) -> Case:
    return Case("interpolate", id, lambda make: ((_image(make, shape, last),), kwargs), reduction=16)


def _both(id: str, shape, **kwargs) -> list[Case]:
    return [_resize(f"{id}-nchw", shape, **kwargs), _resize(f"{id}-nhwc", shape, last=True, **kwargs)]


def _shuffle(function: str, id: str, shape, factor: int, last: bool = False) -> Case:
    return Case(function, f"{function}-{id}", lambda make: ((_image(make, shape, last), factor), {}))


CASES = [
    *_both("nearest-double", (2, 19, 5, 7), scale_factor=2),
    *_both("nearest-size", (2, 3, 5, 7), size=(13, 4)),
    *_both("nearest-down", (1, 17, 9, 12), scale_factor=0.5),
    *_both("nearest-exact", (2, 4, 6, 5), size=(9, 3), mode="nearest-exact"),
    *_both("bilinear-double", (2, 19, 5, 7), scale_factor=2, mode="bilinear"),
    *_both("bilinear-corners", (2, 5, 6, 8), size=(11, 17), mode="bilinear", align_corners=True),
    *_both("bilinear-down", (2, 16, 16, 33), size=(7, 10), mode="bilinear"),
    *_both("bilinear-uneven", (1, 8, 5, 6), scale_factor=(1.5, 3.0), mode="bilinear"),
    *_both("bilinear-from-one", (2, 8, 1, 1), size=(4, 6), mode="bilinear"),
    *_both("bilinear-to-one", (2, 8, 4, 6), size=(1, 1), mode="bilinear", align_corners=True),
    *_both("no-images", (0, 8, 4, 6), scale_factor=2),
    _resize("nearest-1d", (2, 3, 9), scale_factor=2),
    _resize("linear-1d", (2, 3, 9), size=14, mode="linear"),
    Case("interpolate", "sliced", lambda make: ((make(2, 6, 5, 8)[:, ::2, :, 1:],), {"scale_factor": 2})),
    *(_shuffle("pixel_shuffle", f"r{r}", (2, 3 * r * r, 4, 5), r) for r in (1, 2, 3)),
    _shuffle("pixel_shuffle", "nhwc", (2, 20, 4, 5), 2, last=True),
    _shuffle("pixel_shuffle", "leading", (2, 3, 8, 4, 5), 2),
    _shuffle("pixel_unshuffle", "nchw", (2, 3, 6, 9), 3),
    _shuffle("pixel_unshuffle", "nhwc", (2, 3, 6, 8), 2, last=True),
    _shuffle("pixel_unshuffle", "no-batch", (3, 6, 8), 2),
]
