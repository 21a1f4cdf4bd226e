"""Diffusion: noise schedules, schedulers with diffusers' interface whose step is one kernel, and sampling loops."""

from .dpm_solver import DPMSolverMultistepScheduler
from .functional import add_noise, ddim_step, ddpm_step, initial_noise, velocity
from .sampling import sample
from .schedulers import DDIMScheduler, DDPMScheduler

__all__ = [
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "add_noise",
    "ddim_step",
    "ddpm_step",
    "initial_noise",
    "sample",
    "velocity",
]
