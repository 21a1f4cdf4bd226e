from __future__ import annotations

from functools import lru_cache

import torch

from ...ops.diffusion import add_noise_empty, diffusion_step_empty
from ._layout import dense_like
from ._library import FLOATS, C

_STREAM = 2  # csrc/cpu/philox.h: RandomStream::diffusion


@lru_cache(maxsize=4096)
def _coefficients(values: tuple[float, ...]):
    return C.DiffusionCoefficients(*values)


def _noise_of(x, seed_offset, first_sample: int, step: int):
    """The noise in logical order, for samples whose memory has another."""
    n = x.shape[0]
    noise = torch.empty(x.shape, dtype=torch.float32)
    fill = C.RandomFill(n, x.numel() // n, first_sample, step, _STREAM)
    C.random_normal(0, fill, seed_offset.data_ptr(), noise.data_ptr())
    return noise.to(x.dtype)


def _laid_out(t, pattern):
    return None if t is None else dense_like(t, pattern)


def diffusion_step(x, model, uncond, noise, history, seed_offset, coefficients, first_sample, step, wants_x0):
    out, x0 = diffusion_step_empty(
        x, model, uncond, noise, history, seed_offset, coefficients, first_sample, step, wants_x0
    )
    if x.numel() == 0:
        return out, x0
    if seed_offset is not None and not out.is_contiguous():
        noise, seed_offset = _noise_of(x, seed_offset.contiguous(), first_sample, step), None
    x, model = dense_like(x, out), dense_like(model, out)
    uncond, noise, history = _laid_out(uncond, out), _laid_out(noise, out), _laid_out(history, out)
    C.diffusion_step(
        _coefficients(tuple(coefficients)),
        x.shape[0] if x.ndim else 1,
        x.numel() // x.shape[0] if x.ndim else 1,
        FLOATS[x.dtype],
        FLOATS[model.dtype],
        x.data_ptr(),
        model.data_ptr(),
        0 if uncond is None else uncond.data_ptr(),
        0 if noise is None else noise.data_ptr(),
        0 if history is None else history.data_ptr(),
        0 if seed_offset is None else seed_offset.data_ptr(),
        first_sample,
        step,
        out.data_ptr(),
        x0.data_ptr() if wants_x0 else 0,
    )
    return out, x0


def add_noise(x, noise, alpha_bar, timesteps, velocity):
    out = add_noise_empty(x, noise, alpha_bar, timesteps, velocity)
    if x.numel() == 0:
        return out
    x, noise = dense_like(x, out), dense_like(noise, out)
    alpha_bar, timesteps = alpha_bar.contiguous(), timesteps.contiguous()
    samples = x.shape[0]
    C.add_noise(
        samples,
        x.numel() // samples,
        FLOATS[x.dtype],
        x.data_ptr(),
        noise.data_ptr(),
        alpha_bar.data_ptr(),
        timesteps.data_ptr(),
        velocity,
        out.data_ptr(),
    )
    return out


def _why_not_step(x, model, uncond, noise, history, seed_offset, *_):
    if x.dtype not in FLOATS or model.dtype not in FLOATS:
        return "the kernels store float32, bfloat16 and float16 alone"
    if x.dtype is not torch.float32 and model.dtype is not x.dtype:
        return "the model's dtype differs from a 16-bit sample's"
    for t in (x, model, uncond, noise, history, seed_offset):
        if t is not None and not t.is_cpu:
            return f"a tensor is on {t.device}"
    if uncond is not None and uncond.dtype is not model.dtype:
        return "the two predictions' dtypes differ"
    if any(t is not None and t.dtype is not x.dtype for t in (noise, history)):
        return "the dtypes of noise or history and sample differ"
    return None


def _why_not_add_noise(x, noise, alpha_bar, timesteps, velocity):
    if x.dtype not in FLOATS:
        return f"the kernels have no {str(x.dtype).removeprefix('torch.')}"
    if not (x.is_cpu and noise.is_cpu and alpha_bar.is_cpu and timesteps.is_cpu):
        return "a tensor is not on the CPU"
    return None if noise.dtype is x.dtype else "the dtypes of noise and sample differ"


DIFFUSION_RULES = {"diffusion_step": _why_not_step, "add_noise": _why_not_add_noise}
