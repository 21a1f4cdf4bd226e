"""Means and variances of a product's columns, gathered where its tiles are still in registers: what a batch norm
behind a convolution needs, without another reading of the result.

Each tile writes the mean and the squared deviations of its rows, float32 [tiles, columns]; they are joined in order,
as batch norm's own parts are.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._channels import Grid, moments_kernel
from ._launch import cdiv, kernel
from .batch_norm import join_moments_kernel

MOST_PARTS = 256  # that one program joins; tiles above them are merged first, on all processors
GROUP = 32


@triton.jit
def store_moments(means, squares, value, row_there, columns, width, tile, rows, BLOCK_M: tl.constexpr):
    """Of a tile [BLOCK_M, columns] of the values as they are stored, float32; ``rows`` of the whole product."""
    count = tl.minimum(rows - tile * BLOCK_M, BLOCK_M).to(tl.float32)
    mean = tl.sum(tl.where(row_there, value, 0.0), 0) / count
    delta = tl.where(row_there, value - mean[None, :], 0.0)
    at = tile.to(tl.int64) * width + columns
    tl.store(means + at, mean, mask=columns < width)
    tl.store(squares + at, tl.sum(delta * delta, 0), mask=columns < width)


@kernel()
def merge_kernel(
    means, squares, to_means, to_squares, channels, tiles, rows, step, GROUP: tl.constexpr, COLS: tl.constexpr
):
    """GROUP neighbouring tiles of ``step`` rows as one, by the pairwise rule of Chan, Golub & LeVeque (1979)."""
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    tile = tl.program_id(1) * GROUP + tl.arange(0, GROUP)
    inside = (tile < tiles)[:, None] & (c < channels)[None, :]
    at = tile[:, None].to(tl.int64) * channels + c[None, :]
    count = tl.maximum(tl.minimum(rows - tile * step, step), 0).to(tl.float32)[:, None]
    mean = tl.load(means + at, mask=inside, other=0.0)
    center = tl.sum(count * mean, 0) / tl.sum(count, 0)
    delta = tl.where(inside, mean - center[None, :], 0.0)
    square = tl.load(squares + at, mask=inside, other=0.0) + count * delta * delta
    at = tl.program_id(1).to(tl.int64) * channels + c
    tl.store(to_means + at, center, mask=c < channels)
    tl.store(to_squares + at, tl.sum(square, 0), mask=c < channels)


class Moments:
    """Collects one product's: ``mean`` and ``var``, float32 of [columns], are written by :meth:`join` or :meth:`of`."""

    def __init__(self, mean: Tensor, var: Tensor):
        self.mean, self.var = mean, var

    def parts(self, rows: int, block_m: int) -> tuple[Tensor, Tensor]:
        """Where the tiles write."""
        self.rows, self.block_m, self.tiles = rows, block_m, cdiv(rows, block_m)
        self.means, self.squares = self.mean.new_empty((2, self.tiles, self.mean.shape[0]))
        return self.means, self.squares

    def join(self) -> None:
        c = self.mean.shape[0]
        while self.tiles > MOST_PARTS:
            means, squares, tiles, step = self.means, self.squares, self.tiles, self.block_m
            merged = self.parts(self.rows, step * GROUP)
            numbers = (c, tiles, self.rows, step)
            grid = (cdiv(c, 32), self.tiles)
            merge_kernel(grid, means, squares, *merged, *numbers, GROUP=GROUP, COLS=32)
        numbers = (c, c, self.tiles, self.tiles, self.rows, self.block_m)
        arguments = (self.means, self.squares, self.mean, self.var, *numbers)
        join_moments_kernel((cdiv(c, 32),), *arguments, ROWS=32, COLS=32)

    def of(self, y: Tensor, rows: int) -> None:
        """From memory [rows, columns], where the tiles could not: their parts were of the reduction."""
        g = Grid(y.device, 1, self.mean.shape[0], rows, True, reduces=True)
        means, squares = g.partial(self.mean), g.partial(self.mean)
        moments_kernel(g.grid, y, means, squares, *g.numbers, **g.constants, num_warps=g.warps)
        self.means, self.squares, self.rows, self.block_m, self.tiles = means, squares, rows, g.step, g.parts
        self.join()
