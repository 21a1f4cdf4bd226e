"""Dropout, the steps of diffusion samplers, the forward process (csrc/cuda/random.h)."""

from __future__ import annotations

from dlperf.ops.diffusion import add_noise_empty, diffusion_step_empty
from dlperf.ops.dropout import dropout_empty

from ._layout import dense, dense_like
from ._library import STORAGE, C, address, run

__all__ = ["add_noise", "diffusion_step", "dropout"]


def dropout(x, seed_offset, p):
    y = dropout_empty(x)
    if x.numel():
        x = dense_like(x, y)
        run(C.dropout, x, address(x), address(seed_offset), address(y), x.numel(), p, STORAGE[x.dtype])
    return y


def diffusion_step(x, model, uncond, noise, history, seed_offset, coefficients, first_sample, step, wants_x0):
    out, x0 = diffusion_step_empty(
        x, model, uncond, noise, history, seed_offset, coefficients, first_sample, step, wants_x0
    )
    if out.numel() == 0:
        return out, x0
    tensors = [dense_like(t, out) for t in (x, model, uncond, noise, history)]
    samples = x.shape[0] if x.dim() else 1
    channels = x.shape[1] if x.dim() > 1 else 1
    numbers = (samples, x.numel() // samples, channels, not out.is_contiguous(), STORAGE[x.dtype], STORAGE[model.dtype])
    inputs = map(address, (*tensors, dense(seed_offset)))
    outputs = (address(out), address(x0) if wants_x0 else 0)
    run(C.diffusion_step, x, *numbers, *inputs, first_sample, step, *outputs, coefficients)
    return out, x0


def add_noise(x, noise, alpha_bar, timesteps, velocity):
    out = add_noise_empty(x, noise, alpha_bar, timesteps, velocity)
    if out.numel() == 0:
        return out
    x, noise, alpha_bar, timesteps = dense_like(x, out), dense_like(noise, out), dense(alpha_bar), dense(timesteps)
    numbers = (x.shape[0], x.numel() // x.shape[0], STORAGE[x.dtype])
    tensors = map(address, (x, noise, alpha_bar, timesteps))
    run(C.add_noise, x, *numbers, *tensors, alpha_bar.shape[0], velocity, address(out))
    return out
