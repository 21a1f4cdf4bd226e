from __future__ import annotations

import torch
from torch import Tensor

from .philox import philox_normals


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def diffusion_step(x, model, uncond, noise, history, seed_offset, coefficients, first_sample, step, wants_x0):
    x0_from_x, x0_from_m, clip, from_x0, from_x, from_m, from_history, sigma, guidance = coefficients
    wide, m = _wide(x), _wide(model).to(_wide(x).dtype)
    if uncond is not None:
        base = uncond.to(m.dtype)
        m = base + guidance * (m - base)
    x0 = (x0_from_x * wide + x0_from_m * m).clamp(-clip, clip)
    out = from_x0 * x0 + from_x * wide + from_m * m
    if history is not None:
        out = out + from_history * _wide(history)
    if seed_offset is not None:
        n = x.shape[0]
        drawn = philox_normals(seed_offset, n, x.numel() // n if n else 0, first_sample, step, "diffusion")
        out = out + sigma * drawn.reshape(x.shape).to(wide.dtype)
    elif noise is not None:
        out = out + sigma * _wide(noise)
    return out.to(x.dtype), x0.to(x.dtype) if wants_x0 else x.new_empty(0)


def add_noise(x, noise, alpha_bar, timesteps, velocity):
    t = alpha_bar.to(x.device)[timesteps].reshape(-1, *(1,) * (x.ndim - 1))
    wide = _wide(x)
    signal, spread = t.sqrt().to(wide.dtype), (1 - t).sqrt().to(wide.dtype)
    eps = _wide(noise)
    return (signal * eps - spread * wide if velocity else signal * wide + spread * eps).to(x.dtype)
