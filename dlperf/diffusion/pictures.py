"""Grids, strips and moving pictures of samples, by Pillow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SMALLEST_SIDE = 48  # smaller pictures are enlarged to about this, each pixel a square


def to_bytes(x: Tensor) -> np.ndarray:
    """[N, C, H, W] in -1..1 to uint8 [N, H, W, C]; what is outside is clipped."""
    x = ((x.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return x.permute(0, 2, 3, 1).numpy()


def grid(x: Tensor, columns: int, gap: int = 2):
    """A PIL image of the samples [N, C, H, W], row by row. C is 1 or 3."""
    from PIL import Image

    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"grid(): expected pictures (N, 1 or 3, H, W), got {tuple(x.shape)}")
    pixels = to_bytes(x)
    zoom = max(1, SMALLEST_SIDE // pixels.shape[1])
    pixels = pixels.repeat(zoom, 1).repeat(zoom, 2)
    n, h, w, c = pixels.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (h + gap) + gap, columns * (w + gap) + gap, c), 255, np.uint8)
    for i in range(n):
        top, left = (i // columns) * (h + gap) + gap, (i % columns) * (w + gap) + gap
        sheet[top : top + h, left : left + w] = pixels[i]
    return Image.fromarray(sheet[:, :, 0] if c == 1 else sheet)


def save(image, path: str | Path, **options) -> None:
    """Writes a PIL image, whole or not at all."""
    path = Path(path)
    part = path.with_name(f".{path.name}.part{path.suffix}")
    try:
        image.save(part, **options)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def save_path(path: str | Path, states: Sequence[Tensor], columns: int) -> None:
    """The way from noise to pictures: a GIF of grids, or for any other ending a strip, one row a state."""
    path = Path(path)
    if path.suffix.lower() != ".gif":
        save(grid(torch.cat([x[:columns] for x in states]), min(columns, len(states[0]))), path)
        return
    frames = [grid(x, columns).convert("L" if x.shape[1] == 1 else "P") for x in states]
    durations = [60] * (len(frames) - 1) + [1500]
    save(frames[0], path, save_all=True, append_images=frames[1:], duration=durations, loop=0)


def plot_losses(losses: Sequence[float], path: str | Path, window: int = 100) -> None:
    """The loss of every step and its running mean, by matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axis = figure.add_subplot()
    values = np.asarray(losses)
    axis.plot(np.arange(1, len(values) + 1), values, color="#9dbbd0", linewidth=0.6, label="loss of a step")
    if len(values) >= 2 * window:
        mean = np.convolve(values, np.full(window, 1 / window), "valid")
        axis.plot(np.arange(window, len(values) + 1), mean, color="#d1495b", label=f"mean of {window} steps")
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_title("mean squared error of the predicted noise", loc="left", fontsize=10)
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    path = Path(path)
    part = path.with_name(f".{path.name}.part{path.suffix}")
    figure.savefig(part, dpi=120)
    os.replace(part, path)
