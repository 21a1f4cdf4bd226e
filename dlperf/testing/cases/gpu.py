"""Cases beside the families' own, for ``dlperf check`` on a GPU alone: sizes that only its larger tiles meet.

Products of several waves and of split reductions, clusters, images large enough for im2col copies, heads of few keys
and of many.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ._case import Case
from .attention import attention_case
from .batch_norm import behind_conv
from .conv import conv2d_case
from .matmul import linear_case

_HALVES = (torch.bfloat16, torch.float16)

_CASES = {
    "matmul": [
        linear_case(1152, 2048, 72, bias=False),  # 128 x 256 tiles, by clusters on 9.0
        linear_case(1300, 2048, 72, residual=True, activation="gelu"),  # the same with a rest of rows
        linear_case(4100, 264, 520, activation="relu"),
        linear_case(96, 200, 8200),  # split
    ],
    "conv": [
        conv2d_case("large", (16, 64, 28, 28), (64, 64, 3, 3), padding=1, bias=True),
        conv2d_case("large-stride", (8, 72, 57, 28), (136, 72, 3, 3), padding=1, stride=2),
        conv2d_case("large-1x1", (8, 256, 28, 28), (128, 256, 1, 1), residual=True, activation="relu"),
        conv2d_case("wide", (8, 128, 28, 28), (512, 128, 3, 3), padding=1),  # by clusters
        conv2d_case("wide-dilated", (8, 512, 15, 14), (264, 512, 2, 2), dilation=2),
        *(
            conv2d_case(
                f"depthwise-{r}x{r}-{stride}", (4, 72, 29, 30), (72, 1, r, r), groups=72, padding=r // 2, stride=stride
            )
            for r, stride in ((3, 1), (3, 2), (5, 1), (5, 2), (7, 1))
        ),
    ],
    "batch_norm": [
        behind_conv("large-conv", (8, 32, 56, 56), (40, 32, 3, 3), padding=1, activation="relu"),
        behind_conv("large-1x1", (8, 64, 56, 56), (256, 64, 1, 1), residual=True),
        behind_conv("wide-conv", (8, 128, 28, 28), (512, 128, 3, 3), padding=1),
    ],
    "attention": [
        attention_case("vit-batch", 16, 12, 197, 197, 64),
        attention_case("text", 4, 8, 256, 77, 64),
        attention_case("long-64", 2, 3, 700, 1100, 64),
        attention_case("long-64-causal", 2, 3, 1100, 1100, 64, is_causal=True),
        attention_case("long-128", 1, 3, 700, 1100, 128),
        attention_case("long-128-causal", 2, 2, 640, 640, 128, is_causal=True),
    ],
}

GPU_CASES: dict[str, list[Case]] = {
    family: [replace(case, id=f"gpu-{case.id}", dtypes=_HALVES) for case in cases] for family, cases in _CASES.items()
}
