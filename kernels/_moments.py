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
from ._launch import cdiv
from .batch_norm import join_moments_kernel


@triton.jit
def store_moments(means, squares, value, row_there, columns, width, tile, rows, BLOCK_M: tl.constexpr):
    """Of a tile [BLOCK_M, columns] of the values as they are stored, float32; ``rows`` of the whole product."""
    count = tl.minimum(rows - tile * BLOCK_M, BLOCK_M).to(tl.float32)
    mean = tl.sum(tl.where(row_there, value, 0.0), 0) / count
    delta = tl.where(row_there, value - mean[None, :], 0.0)
    at = tile.to(tl.int64) * width + columns
    tl.store(means + at, mean, mask=columns < width)
    tl.store(squares + at, tl.sum(delta * delta, 0), mask=columns < width)


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
