"""A sampler's step and the forward process, each one launch, noise made inside. Formulas: docs/math/diffusion.md."""

from __future__ import annotations

import triton.language as tl

from dlperf.ops.diffusion import add_noise_empty, diffusion_step_empty

from ._launch import cdiv, kernel
from ._layout import dense, dense_like
from ._philox import DIFFUSION_STREAM, four_by_four, normal_pair, philox

BLOCK = 1024


@kernel()
def step_kernel(
    x, model, uncond, noise, history, seed_offset, out, x0, elements, channels, positions, first_sample, step,
    x0_from_x, x0_from_m, clip, from_x0, from_x, from_m, from_history, sigma, guidance, LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One sample's block of elements, in memory order; LAST: memory is [positions, channels], draws count the other
    way."""
    blocks = tl.cdiv(elements, BLOCK)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    start = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    inside = at < tl.minimum(elements - start, BLOCK).to(tl.int32)
    base = sample * elements + start
    value = tl.load(x + base + at, mask=inside, other=0.0).to(tl.float32)
    m = tl.load(model + base + at, mask=inside, other=0.0).to(tl.float32)
    if uncond is not None:
        u = tl.load(uncond + base + at, mask=inside, other=0.0).to(tl.float32)
        m = u + guidance * (m - u)
    clean = x0_from_x * value + x0_from_m * m
    # NaN stays
    clean = tl.where(clean < -clip, -clip, tl.where(clean > clip, clip, clean))
    result = from_x0 * clean + from_x * value + from_m * m
    if history is not None:
        result += from_history * tl.load(history + base + at, mask=inside, other=0.0).to(tl.float32)
    if noise is not None:
        result += sigma * tl.load(noise + base + at, mask=inside, other=0.0).to(tl.float32)
    if seed_offset is not None:
        who = sample + first_sample
        if LAST:
            memory = start + at
            element = (memory % channels) * positions + memory // channels
            w0, w1, w2, w3 = philox(seed_offset, element >> 2, who, step, DIFFUSION_STREAM)
            i = (element & 3).to(tl.int32)
            z0, z1 = normal_pair(tl.where(i < 2, w0, w2), tl.where(i < 2, w1, w3))
            z = tl.where((i & 1) == 0, z0, z1)
        else:
            block = (start >> 2) + tl.arange(0, BLOCK // 4)
            w0, w1, w2, w3 = philox(seed_offset, block, who, step, DIFFUSION_STREAM)
            z0, z1 = normal_pair(w0, w1)
            z2, z3 = normal_pair(w2, w3)
            z = four_by_four(z0, z1, z2, z3)
        result += sigma * z
    tl.store(out + base + at, result.to(out.dtype.element_ty), mask=inside)
    if x0 is not None:
        tl.store(x0 + base + at, clean.to(x0.dtype.element_ty), mask=inside)


@kernel()
def add_noise_kernel(x, noise, alpha_bar, timesteps, out, elements, steps, VELOCITY: tl.constexpr, BLOCK: tl.constexpr):
    """A timestep outside the table of ``steps`` makes its sample NaN: raising would wait for the GPU."""
    blocks = tl.cdiv(elements, BLOCK)
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    start = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK
    at = tl.arange(0, BLOCK)
    inside = at < tl.minimum(elements - start, BLOCK).to(tl.int32)
    base = sample * elements + start
    t = tl.load(timesteps + sample)
    level = tl.load(alpha_bar + t, mask=(t >= 0) & (t < steps), other=float("nan"))
    signal = tl.sqrt(level).to(tl.float32)
    spread = tl.sqrt(1.0 - level).to(tl.float32)
    value = tl.load(x + base + at, mask=inside, other=0.0).to(tl.float32)
    z = tl.load(noise + base + at, mask=inside, other=0.0).to(tl.float32)
    if VELOCITY:
        result = signal * z - spread * value
    else:
        result = signal * value + spread * z
    tl.store(out + base + at, result.to(out.dtype.element_ty), mask=inside)


def diffusion_step(x, model, uncond, noise, history, seed_offset, coefficients, first_sample, step, wants_x0):
    out, x0 = diffusion_step_empty(
        x, model, uncond, noise, history, seed_offset, coefficients, first_sample, step, wants_x0
    )
    if out.numel() == 0:
        return out, x0
    inputs = [None if t is None else dense_like(t, out) for t in (x, model, uncond, noise, history)]
    samples = x.shape[0] if x.dim() else 1
    elements = x.numel() // samples
    channels = x.shape[1] if x.dim() > 1 else 1
    last = not out.is_contiguous()
    tensors = (*inputs, dense(seed_offset), out, x0 if wants_x0 else None)
    numbers = (elements, channels, elements // channels, first_sample, step)
    step_kernel((samples * cdiv(elements, BLOCK),), *tensors, *numbers, *coefficients, LAST=last, BLOCK=BLOCK)
    return out, x0


def add_noise(x, noise, alpha_bar, timesteps, velocity):
    out = add_noise_empty(x, noise, alpha_bar, timesteps, velocity)
    if out.numel() == 0:
        return out
    elements = x.numel() // x.shape[0]
    tensors = (dense_like(x, out), dense_like(noise, out), dense(alpha_bar), dense(timesteps), out)
    grid = (x.shape[0] * cdiv(elements, BLOCK),)
    add_noise_kernel(grid, *tensors, elements, alpha_bar.shape[0], VELOCITY=velocity, BLOCK=BLOCK)
    return out
