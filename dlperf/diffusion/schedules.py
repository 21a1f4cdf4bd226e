"""Noise schedules: how beta grows over the steps of training, and which of those steps sampling visits.

Formulas and sources: docs/math/diffusion.md. The tables are float32, as in diffusers: both read the same levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

MAX_BETA = 0.999


def _cosine(t: float) -> float:
    """alpha_bar at t in [0, 1] (Nichol & Dhariwal 2021, equation 17)."""
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


def _laplace(t: float) -> float:
    """Square root of alpha_bar where log-SNR is Laplace-distributed (Hang et al. 2024)."""
    log_snr = -0.5 * math.copysign(1.0, 0.5 - t) * math.log(1 - 2 * abs(0.5 - t) + 1e-6)
    snr = math.exp(log_snr)
    return math.sqrt(snr / (1 + snr))


def _from_alpha_bar(alpha_bar: Callable[[float], float], steps: int) -> Tensor:
    levels = [alpha_bar(i / steps) for i in range(steps + 1)]
    return torch.tensor([min(1 - levels[i + 1] / levels[i], MAX_BETA) for i in range(steps)], dtype=torch.float32)


def linear(steps: int, beta_start: float, beta_end: float) -> Tensor:
    """Ho, Jain & Abbeel 2020, section 4."""
    return torch.linspace(beta_start, beta_end, steps, dtype=torch.float32)


def scaled_linear(steps: int, beta_start: float, beta_end: float) -> Tensor:
    """Linear in sqrt(beta): latent diffusion (Rombach et al. 2022)."""
    return torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float32) ** 2


def cosine(steps: int, beta_start: float = 0.0, beta_end: float = MAX_BETA) -> Tensor:
    """Nichol & Dhariwal 2021. It has no end points to choose: the last two arguments are not used."""
    return _from_alpha_bar(_cosine, steps)


def laplace(steps: int, beta_start: float = 0.0, beta_end: float = MAX_BETA) -> Tensor:
    """Hang et al. 2024. It has no end points to choose: the last two arguments are not used."""
    return _from_alpha_bar(_laplace, steps)


def sigmoid(steps: int, beta_start: float, beta_end: float) -> Tensor:
    """A sigmoid from -6 to 6 between the end points (Xu et al. 2022)."""
    return torch.sigmoid(torch.linspace(-6, 6, steps)) * (beta_end - beta_start) + beta_start


SCHEDULES = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "squaredcos_cap_v2": cosine,
    "cosine": cosine,
    "laplace": laplace,
    "sigmoid": sigmoid,
}
SPACINGS = ("linspace", "leading", "trailing")


def betas(
    beta_schedule: str = "linear",
    num_train_timesteps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    trained_betas: Sequence[float] | np.ndarray | None = None,
    rescale_betas_zero_snr: bool = False,
) -> Tensor:
    """The table of beta, float32, (num_train_timesteps,).

    Args:
        beta_schedule: "linear", "scaled_linear", "squaredcos_cap_v2" (or "cosine"), "laplace" or "sigmoid".
        trained_betas: the table itself, instead of a schedule.
        rescale_betas_zero_snr: shifts the table so that the last step holds noise alone (Lin et al. 2023, algorithm 1).

    Raises ValueError for an unknown schedule and for betas outside (0, 1).
    """
    if trained_betas is not None:
        table = torch.as_tensor(np.asarray(trained_betas), dtype=torch.float32)
    elif beta_schedule not in SCHEDULES:
        raise ValueError(f"expected 'beta_schedule' to be one of {', '.join(SCHEDULES)}, got {beta_schedule!r}")
    elif isinstance(num_train_timesteps, bool) or not isinstance(num_train_timesteps, int) or num_train_timesteps < 1:
        raise ValueError(f"expected 'num_train_timesteps' to be an int of at least 1, got {num_train_timesteps!r}")
    else:
        table = SCHEDULES[beta_schedule](num_train_timesteps, beta_start, beta_end)
    if table.ndim != 1 or not bool(((table > 0) & (table < 1)).all()):
        raise ValueError("expected every beta to lie strictly between 0 and 1; look at 'beta_start' and 'beta_end'")
    return rescale_zero_terminal_snr(table) if rescale_betas_zero_snr else table


def rescale_zero_terminal_snr(table: Tensor) -> Tensor:
    """Betas whose last alpha_bar is 0 and whose first is kept (Lin et al. 2023, algorithm 1)."""
    signal = torch.cumprod(1.0 - table, 0).sqrt()
    first, last = signal[0].clone(), signal[-1].clone()
    alpha_bar = ((signal - last) * (first / (first - last))) ** 2
    return 1 - torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])


def check_steps(steps: int, most: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= most:
        raise ValueError(
            f"set_timesteps(): expected 'num_inference_steps' to be an int from 1 to {most}, got {steps!r}"
        )


def check_spacing(spacing: str) -> None:
    if spacing not in SPACINGS:
        raise ValueError(f"expected 'timestep_spacing' to be one of {', '.join(SPACINGS)}, got {spacing!r}")


def spaced_timesteps(spacing: str, steps: int, train_steps: int, offset: int = 0) -> np.ndarray:
    """The timesteps that sampling visits, descending int64, (steps,) (Lin et al. 2023, table 2)."""
    check_steps(steps, train_steps)
    check_spacing(spacing)
    if spacing == "linspace":
        return np.linspace(0, train_steps - 1, steps).round()[::-1].astype(np.int64)
    if spacing == "leading":
        return np.arange(steps, dtype=np.int64)[::-1] * (train_steps // steps) + offset
    return np.round(np.arange(train_steps, 0, -train_steps / steps)).astype(np.int64) - 1
