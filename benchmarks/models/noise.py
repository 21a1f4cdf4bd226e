"""What a denoiser gets: pictures with the noise of DDPM's forward process (Ho et al. 2020, equation 4) in them."""

from collections.abc import Callable

import torch

STEPS = 1000
BETAS = (1e-4, 0.02)  # the first and the last of the paper's linear schedule


def _epsilon(like: torch.Tensor) -> torch.Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(2))


def noised(source: Callable, batch: int) -> tuple[tuple[torch.Tensor, torch.Tensor], str]:
    """((x_t, t), what): pictures in -1..1 from `source`, each at a timestep of its own, spread over the schedule."""
    x, what = source(batch)
    timesteps = (torch.arange(batch) * 2 + 1) * STEPS // (2 * batch)
    alpha_bar = (1 - torch.linspace(*BETAS, STEPS)).cumprod(0)[timesteps].view(-1, 1, 1, 1)
    return (alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * _epsilon(x), timesteps), f"{what}, noise added"


def noised_target(source: Callable, batch: int) -> torch.Tensor:
    """The noise in `noised`'s pictures: what the model learns to predict."""
    return _epsilon(source(batch)[0])
