from __future__ import annotations

from functools import lru_cache

import torch

from ...ops.pixel_shuffle import pixel_shuffle_empty, pixel_unshuffle_empty
from ._library import C


@lru_cache(maxsize=256)
def _shape(large: torch.Size, r: int, channels_last: bool, element_size: int):
    n, c, h, w = large
    return C.ShuffleShape(n, c, h // r, w // r, r, channels_last, element_size)


def _call(function, source, target, large, r):
    if target.numel() == 0:
        return target
    contiguous = target.is_contiguous()
    source = source.contiguous(memory_format=torch.contiguous_format if contiguous else torch.channels_last)
    shape = _shape(large, r, not contiguous, target.element_size())
    function(shape, source.data_ptr(), target.data_ptr())
    return target


def pixel_shuffle(x, r):
    y = pixel_shuffle_empty(x, r)
    return _call(C.pixel_shuffle, x, y, y.shape, r)


def pixel_unshuffle(y, r):
    x = pixel_unshuffle_empty(y, r)
    return _call(C.pixel_unshuffle, y, x, y.shape, r)
