"""How good sampled digits are: the share that a classifier recognises, and how far their features are from real ones.

    python -m dlperf.diffusion.quality --out docs/diffusion_digits.png     # draws docs/diffusion.md's figure

The classifier (a perceptron with two hidden layers, scikit-learn) is trained on real digits alone and never sees a
sample.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import pictures
from .models import load_model
from .sampling import sample
from .schedulers import DDIMScheduler

STEPS = 50
WANTED_SHARE = 0.9
HIDDEN = (128, 64)


@dataclass(frozen=True)
class Judge:
    """A classifier of digits 8x8 in -1..1, and how it does on real digits that it was not trained on."""

    network: object
    held_out: float  # share recognised
    real: Tensor  # every real digit, (1797, 64)

    def read(self, x: Tensor) -> np.ndarray:
        """The digits (N,) that it takes samples for, clipped as a picture would be."""
        return self.network.predict(_rows(x))

    def share(self, x: Tensor, labels: Tensor) -> float:
        """Of samples that were asked to be ``labels``: the share recognised as such."""
        return float(np.mean(self.read(x) == labels.numpy()))

    def features(self, x: Tensor) -> np.ndarray:
        """The last hidden layer, (N, 64) float64."""
        h = _rows(x)
        for weight, bias in zip(self.network.coefs_[:-1], self.network.intercepts_[:-1], strict=True):
            h = np.maximum(h @ weight + bias, 0)
        return h

    def distance(self, x: Tensor) -> float:
        """The Fréchet distance between the features of samples and of all real digits."""
        return frechet_distance(self.features(x), self.features(self.real))

    def distance_of_halves(self, seed: int = 0) -> float:
        """The same between two random halves of the real digits: what perfect samples, about 900, would have."""
        order = torch.randperm(len(self.real), generator=torch.Generator().manual_seed(seed))
        return frechet_distance(*(self.features(half) for half in self.real[order].tensor_split(2)))


def _rows(x: Tensor) -> np.ndarray:
    return x.clamp(-1, 1).flatten(1).double().numpy()


@lru_cache(maxsize=4)
def judge(seed: int = 0) -> Judge:
    """The classifier, trained on three quarters of the real digits: a second's work."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    digits = load_digits()
    x = digits.data / 8 - 1
    fit_x, held_x, fit_y, held_y = train_test_split(x, digits.target, test_size=0.25, random_state=seed)
    network = MLPClassifier(HIDDEN, random_state=seed).fit(fit_x, fit_y)
    return Judge(network, float(network.score(held_x, held_y)), torch.from_numpy(x))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Between the normal distributions with the means and covariances of two sets of features (N, D), N > 1.

    |mean a - mean b|^2 + trace(A + B - 2 (A B)^(1/2)): Dowson & Landau 1982; for generated pictures Heusel et al. 2017.
    """
    mean = a.mean(0) - b.mean(0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # A B and its symmetric twin A^(1/2) B A^(1/2) have the same eigenvalues
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(mean @ mean + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def sampled_digits(
    count: int, seed: int = 0, checkpoint: str | Path | None = None, steps: int = STEPS, guidance: float = 1.0
) -> tuple[Tensor, Tensor]:
    """``count`` samples, every class in turn, and their labels, by DDIM."""
    model, info = load_model(checkpoint)
    return digits_from(model, info["schedule"], count, seed, steps, guidance)


def digits_from(
    model, schedule: dict, count: int, seed: int = 0, steps: int = STEPS, guidance: float = 1.0
) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 10
    scheduler = DDIMScheduler.from_config(schedule)
    x = sample(model, (count, 1, 8, 8), steps, scheduler, guidance, labels, seed=seed, progress=False)
    return x, labels


def draw(x: Tensor, labels: Tensor, judge: Judge, path: Path) -> None:
    from matplotlib.figure import Figure

    right = judge.read(x) == labels.numpy()
    figure = Figure(figsize=(9.6, 4.2))
    left, axis = figure.subplots(1, 2, width_ratios=(1.2, 1))
    left.imshow(pictures.grid(x[:80], 10), cmap="gray", vmin=0, vmax=255)
    left.set_axis_off()
    left.set_title("samples, one column a class", loc="left", fontsize=10)
    shares = [right[labels.numpy() == c].mean() for c in range(10)]
    axis.bar(range(10), shares, 0.65, color="#2e6f95")
    axis.axhline(WANTED_SHARE, color="#444444", linewidth=0.8, linestyle="--")
    held_out = judge.held_out
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
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--checkpoint")
    parser.add_argument("--out", type=Path, default=Path("diffusion_digits.png"))
    args = parser.parse_args()
    one = judge()
    x, labels = sampled_digits(args.n, args.seed, args.checkpoint, guidance=args.guidance)
    draw(x, labels, one, args.out)
    print(
        f"recognised {one.share(x, labels):.1%} of {args.n} samples, of real held-out digits {one.held_out:.1%}; "
        f"Fréchet distance {one.distance(x):.2f}, of halves of the real digits {one.distance_of_halves():.2f}"
    )


if __name__ == "__main__":
    main()
