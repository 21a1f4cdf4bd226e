"""Where interpolation reads: the tables that every backend's kernels follow. docs/math/resampling.md."""

from __future__ import annotations

import numpy as np


def index_and_weight(n_in: int, n_out: int, mode: str, align_corners: bool, scale: float):
    """Of an axis: every output's first input, and the weight of the next (None where mode has none).

    torch's float32 arithmetic, so that the same pixels are taken.
    """
    one = np.float32(1.0)
    o = np.arange(n_out, dtype=np.float32)
    if mode == "bilinear" and align_corners:
        ratio = np.float32(n_in - 1) / np.float32(n_out - 1) if n_out > 1 else np.float32(0.0)
        place = o * ratio
    else:
        ratio = np.float32(1.0 / scale) if scale > 0 else np.float32(n_in) / np.float32(n_out)
        if mode == "nearest":
            # torch keeps and doubles exactly, whatever scale factor was given
            place = o if n_out == n_in else np.floor(o / 2) if n_out == 2 * n_in else o * ratio
        elif mode == "nearest-exact":
            place = (o + np.float32(0.5)) * ratio
        else:
            place = np.maximum((o + np.float32(0.5)) * ratio - np.float32(0.5), np.float32(0.0))
    index = np.minimum(np.floor(place).astype(np.int64), n_in - 1)
    if mode != "bilinear":
        return index, None
    return index, np.clip(place - index.astype(np.float32), np.float32(0.0), one)
