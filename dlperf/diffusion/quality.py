"""How many class-conditional digits a classifier recognises: the proof that the samples are what was asked for.

    python -m dlperf.diffusion.quality --out docs/diffusion_digits.png     # draws docs/diffusion.md's figure

The classifier (a support vector machine, scikit-learn) is trained on the real digits alone and never sees a sample.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import pictures
from .models import load_model
from .sampling import sample
from .schedulers import DDIMScheduler

STEPS = 50


def classifier(seed: int = 0):
    """A fitted classifier of digits 8x8 in -1..1, flattened, and its accuracy on real digits that it has not seen."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.svm import SVC

    digits = load_digits()
    x = digits.data / 8 - 1
    fit_x, held_x, fit_y, held_y = train_test_split(x, digits.target, test_size=0.25, random_state=seed)
    model = SVC(gamma=0.02, C=10).fit(fit_x, fit_y)
    return model, float(model.score(held_x, held_y))


def sampled_digits(
    count: int, seed: int = 0, checkpoint: str | None = None, steps: int = STEPS
) -> tuple[Tensor, Tensor]:
    """``count`` samples, every class in turn, and their labels, by DDIM."""
    model, info = load_model(checkpoint)
    labels = torch.arange(count) % len(info["classes"])
    scheduler = DDIMScheduler.from_config(info["schedule"])
    x = sample(model, (count, *info["picture"]), steps, scheduler, 1.0, labels, seed=seed, progress=False)
    return x, labels


def guesses(model, x: Tensor) -> np.ndarray:
    """The classifier's reading of samples in -1..1, clipped as a picture would be."""
    return model.predict(x.clamp(-1, 1).flatten(1).numpy())


def draw(x: Tensor, labels: Tensor, read: np.ndarray, held_out: float, path: Path) -> None:
    from matplotlib.figure import Figure

    right = read == labels.numpy()
    figure = Figure(figsize=(9.6, 4.2))
    left, axis = figure.subplots(1, 2, width_ratios=(1.2, 1))
    left.imshow(pictures.grid(x[:80], 10), cmap="gray", vmin=0, vmax=255)
    left.set_axis_off()
    left.set_title("samples, one column a class", loc="left", fontsize=10)
    shares = [right[labels.numpy() == c].mean() for c in range(10)]
    axis.bar(range(10), shares, 0.65, color="#2e6f95")
    axis.axhline(0.9, color="#444444", linewidth=0.8, linestyle="--")
    axis.axhline(held_out, color="#d1495b", linewidth=1.2, label=f"real held-out digits: {held_out:.1%}")
    axis.set_ylim(0, 1.05)
    axis.set_xticks(range(10))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set_title(f"recognised: {right.mean():.1%} of {len(x)} samples", loc="left", fontsize=10)
    axis.legend(frameon=False, loc="lower right")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint")
    parser.add_argument("--out", type=Path, default=Path("diffusion_digits.png"))
    args = parser.parse_args()
    model, held_out = classifier()
    x, labels = sampled_digits(args.n, args.seed, args.checkpoint)
    read = guesses(model, x)
    draw(x, labels, read, held_out, args.out)
    print(f"recognised {np.mean(read == labels.numpy()):.1%} of {args.n} samples; real held-out digits {held_out:.1%}")


if __name__ == "__main__":
    main()
