"""A seed gives the same picture on the CPU kernels and on the Triton kernels."""

import pytest
import torch

import dlperf
from dlperf.backends import cpu
from dlperf.diffusion import DDIMScheduler, DDPMScheduler, sample


class Denoiser(torch.nn.Module):
    """Convolutions, a group norm and the timestep, from few kernels: each takes the interpreter milliseconds."""

    def __init__(self):
        super().__init__()
        self.enter = dlperf.nn.Conv2d(1, 8, 3, padding=1)
        self.time = dlperf.nn.Embedding(1000, 8)
        self.norm = dlperf.nn.GroupNorm(2, 8, activation="silu")
        self.leave = dlperf.nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x, t):
        return self.leave(self.norm(self.enter(x) + self.time(t)[:, :, None, None]))


@pytest.mark.parametrize("scheduler", [DDIMScheduler(), DDPMScheduler()], ids=["ddim", "ddpm"])
def test_a_seed_gives_the_same_picture(scheduler):
    model = Denoiser().eval()
    found = {}
    for backend in ("triton", "cpu" if cpu.available() is None else "reference"):
        with dlperf.backend(backend):
            # called as it is: the plan of dlperf.optimize is the CPU's
            found[backend] = sample(model.__call__, (2, 1, 8, 8), 50, scheduler, seed=11, progress=False)
    ours, theirs = found.values()
    assert ours.abs().max() > 0.1
    assert (ours - theirs).abs().max() < 2 / 255
