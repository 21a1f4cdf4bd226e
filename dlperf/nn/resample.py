"""Upsampling, pixel shuffle and embedding layers, as torch.nn's."""

from __future__ import annotations

import torch
from torch import Tensor

from . import functional as F


def _resize(self, input: Tensor) -> Tensor:
    return F.interpolate(
        input,
        self.size,
        self.scale_factor,
        self.mode,
        self.align_corners,
        recompute_scale_factor=self.recompute_scale_factor,
    )


class Upsample(torch.nn.Upsample):
    forward = _resize


class UpsamplingNearest2d(torch.nn.UpsamplingNearest2d):
    forward = _resize


class UpsamplingBilinear2d(torch.nn.UpsamplingBilinear2d):
    forward = _resize


class PixelShuffle(torch.nn.PixelShuffle):
    def forward(self, input: Tensor) -> Tensor:
        return F.pixel_shuffle(input, self.upscale_factor)


class PixelUnshuffle(torch.nn.PixelUnshuffle):
    def forward(self, input: Tensor) -> Tensor:
        return F.pixel_unshuffle(input, self.downscale_factor)


class Embedding(torch.nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(
            input,
            self.weight,
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.sparse,
        )
