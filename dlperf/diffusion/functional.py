"""One step of a diffusion sampler as one kernel call, and the forward process. Formulas: docs/math/diffusion.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..ops._checks import check_floating, check_same_device, describe
from ..ops.diffusion import add_noise as _add_noise
from ..ops.diffusion import diffusion_step as _diffusion_step

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
VARIANCES = ("fixed_small", "fixed_large")
INITIAL_STEP = 2**32 - 1  # no sampler gets there, so x_T shares no random number with a step


def _remembered(function):
    """lru_cache, which torch.compile can't trace."""
    cached = lru_cache(maxsize=4096)(function)

    def call(*args):
        return function(*args) if torch.compiler.is_compiling() else cached(*args)

    return call


def _prediction(prediction_type: str, alpha_bar: float) -> tuple[float, float, float, float]:
    """x0 = a x + b m and epsilon = c x + d m, as (a, b, c, d)."""
    signal, spread = math.sqrt(alpha_bar), math.sqrt(1.0 - alpha_bar)
    if prediction_type == "epsilon":
        return 1.0 / signal, -spread / signal, 0.0, 1.0
    if prediction_type == "sample":
        return 0.0, 1.0, 1.0 / spread, -signal / spread
    return signal, -spread, spread, signal


@_remembered
def _ddpm_coefficients(prediction_type, alpha_bar, alpha_bar_prev, clip, variance, guidance) -> list[float]:
    from_x, from_m, _, _ = _prediction(prediction_type, alpha_bar)
    alpha = alpha_bar / alpha_bar_prev
    beta, beta_bar, beta_bar_prev = 1.0 - alpha, 1.0 - alpha_bar, 1.0 - alpha_bar_prev
    large = variance == "fixed_large" and alpha_bar_prev < 1.0
    sigma = math.sqrt(beta if large else beta_bar_prev / beta_bar * beta)
    mean_x0, mean_x = math.sqrt(alpha_bar_prev) * beta / beta_bar, math.sqrt(alpha) * beta_bar_prev / beta_bar
    return [from_x, from_m, clip, mean_x0, mean_x, 0.0, 0.0, sigma, guidance]


@_remembered
def _ddim_coefficients(prediction_type, alpha_bar, alpha_bar_prev, clip, eta, from_clipped, guidance) -> list[float]:
    x0_x, x0_m, eps_x, eps_m = _prediction(prediction_type, alpha_bar)
    sigma = eta * math.sqrt((1.0 - alpha_bar_prev) / (1.0 - alpha_bar) * (1.0 - alpha_bar / alpha_bar_prev))
    direction = math.sqrt(max(0.0, 1.0 - alpha_bar_prev - sigma * sigma))
    from_x0 = math.sqrt(alpha_bar_prev)
    if from_clipped:
        spread = math.sqrt(1.0 - alpha_bar)
        from_x0, eps_x, eps_m = from_x0 - direction * math.sqrt(alpha_bar) / spread, 1.0 / spread, 0.0
    return [x0_x, x0_m, clip, from_x0, direction * eps_x, direction * eps_m, 0.0, sigma, guidance]


def _check_levels(op: str, alpha_bar, alpha_bar_prev) -> tuple[float, float]:
    now, before = float(alpha_bar), float(alpha_bar_prev)
    if not 0.0 < now < 1.0:
        raise ValueError(f"{op}(): expected 'alpha_bar' to lie strictly between 0 and 1, got {now}")
    if not now <= before <= 1.0:
        raise ValueError(f"{op}(): expected 'alpha_bar_prev' to lie between alpha_bar={now} and 1, got {before}")
    return now, before


def _check_choice(op: str, name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{op}(): expected '{name}' to be one of {', '.join(allowed)}, got {value!r}")


def _check_clip(op: str, clip_range: float | None) -> float:
    if clip_range is None:
        return math.inf
    if not clip_range > 0:
        raise ValueError(f"{op}(): expected 'clip_range' to be greater than 0 or None, got {clip_range}")
    return float(clip_range)


def _step(op, coefficients, model_output, sample, uncond, noise, seed, step, first_sample, return_x0, history=None):
    check_floating(op, model_output=model_output, sample=sample, uncond=uncond, noise=noise)
    for name, t in (("sample", sample), ("uncond", uncond), ("noise", noise), ("history", history)):
        if t is not None and t.shape != model_output.shape:
            raise RuntimeError(
                f"{op}(): expected '{name}' to have the shape of 'model_output' {tuple(model_output.shape)}, "
                f"got {describe(t)}"
            )
    check_same_device(op, sample=sample, model_output=model_output, uncond=uncond, noise=noise)
    if noise is not None and seed is not None:
        raise ValueError(f"{op}(): expected one of 'noise' and 'seed', got both")
    if coefficients[7] == 0.0:
        noise = seed = None
    elif noise is None and seed is None:
        raise ValueError(f"{op}(): expected 'noise' or 'seed': this step adds noise")
    if seed is not None:
        seed = seed_offset(seed, sample.device)
    if model_output.dtype is not sample.dtype and sample.dtype is not torch.float32:
        sample = sample.to(torch.promote_types(sample.dtype, model_output.dtype))
    if uncond is not None and uncond.dtype is not model_output.dtype:
        uncond = uncond.to(model_output.dtype)
    if noise is not None and noise.dtype is not sample.dtype:
        noise = noise.to(sample.dtype)
    if history is not None and history.dtype is not sample.dtype:
        history = history.to(sample.dtype)
    out, x0 = _diffusion_step(
        sample, model_output, uncond, noise, history, seed, coefficients, first_sample, step, return_x0
    )
    return (out, x0) if return_x0 else out


def normals(like: Tensor, seed: int | Tensor, *, step: int = 0, first_sample: int = 0) -> Tensor:
    """Standard normals of ``like``'s shape and dtype: the very noise that a step with this seed adds."""
    zeros = torch.zeros_like(like)
    coefficients = [0.0, 0.0, math.inf, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    return _step("normals", coefficients, zeros, zeros, None, None, seed, step, first_sample, False)


def initial_noise(shape: Sequence[int], seed: int | Tensor, *, device="cpu", first_sample: int = 0) -> Tensor:
    """x_T, float32, for the samples first_sample ... of a seed: the normals of the last step number there is."""
    return normals(torch.empty(shape, device=device), seed, step=INITIAL_STEP, first_sample=first_sample)


def seed_offset(seed: int | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """The pair {seed, offset} that the kernels read: an int seed with offset 0, or a pair of int64 as it is."""
    if isinstance(seed, Tensor):
        if seed.dtype is not torch.int64 or seed.shape != (2,):
            raise RuntimeError(f"expected 'seed' to be an int or two int64, got {describe(seed)}")
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"expected 'seed' to be an int or two int64, not {type(seed).__name__}")
    wrapped = (seed + 2**63) % 2**64 - 2**63
    return torch.tensor((wrapped, 0), device=device)


def ddpm_step(
    model_output: Tensor,
    sample: Tensor,
    alpha_bar: float,
    alpha_bar_prev: float,
    *,
    noise: Tensor | None = None,
    seed: int | Tensor | None = None,
    step: int = 0,
    first_sample: int = 0,
    prediction_type: str = "epsilon",
    clip_range: float | None = None,
    variance: str = "fixed_small",
    uncond: Tensor | None = None,
    guidance_scale: float = 1.0,
    return_x0: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """x_{t-1} from x_t: ancestral sampling (Ho, Jain & Abbeel 2020, algorithm 2 and equations 6, 7).

    Args:
        model_output: the network's prediction, (N, ...).
        sample: x_t, of the same shape. float32, or the prediction's dtype.
        alpha_bar: the product of 1 - beta up to this step; in (0, 1).
        alpha_bar_prev: the same for the step that is sampled; 1 at the last step, which adds no noise.
        noise: standard normals of the sample's shape.
        seed: instead of noise: an int, or {seed, offset} as two int64. The noise is made in the kernel by Philox; it
            depends on seed, ``step``, ``first_sample`` + the index in the batch, and the element alone.
        prediction_type: what the network predicts: "epsilon", "sample" (x_0) or "v_prediction" (Salimans & Ho 2022).
        clip_range: the predicted x_0 is clipped to [-clip_range, clip_range]; None: not at all.
        variance: "fixed_small", the posterior's, or "fixed_large", beta.
        uncond: the prediction without condition: classifier-free guidance takes
            uncond + guidance_scale * (model_output - uncond) (Ho & Salimans 2021).
        return_x0: also returns the predicted x_0.

    Raises RuntimeError where shapes or devices disagree, ValueError for levels, choices or missing noise.
    """
    _check_choice("ddpm_step", "prediction_type", prediction_type, PREDICTION_TYPES)
    _check_choice("ddpm_step", "variance", variance, VARIANCES)
    now, before = _check_levels("ddpm_step", alpha_bar, alpha_bar_prev)
    clip = _check_clip("ddpm_step", clip_range)
    coefficients = _ddpm_coefficients(prediction_type, now, before, clip, variance, float(guidance_scale))
    return _step("ddpm_step", coefficients, model_output, sample, uncond, noise, seed, step, first_sample, return_x0)


def ddim_step(
    model_output: Tensor,
    sample: Tensor,
    alpha_bar: float,
    alpha_bar_prev: float,
    *,
    eta: float = 0.0,
    noise: Tensor | None = None,
    seed: int | Tensor | None = None,
    step: int = 0,
    first_sample: int = 0,
    prediction_type: str = "epsilon",
    clip_range: float | None = None,
    use_clipped_model_output: bool = False,
    uncond: Tensor | None = None,
    guidance_scale: float = 1.0,
    return_x0: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """x at the level ``alpha_bar_prev`` from x at ``alpha_bar`` (Song, Meng & Ermon 2020, equations 12 and 16).

    ``eta`` scales the noise between none (0) and DDPM's (1). ``use_clipped_model_output`` derives epsilon from the
    clipped x_0. The other arguments, and what is raised, are :func:`ddpm_step`'s.
    """
    _check_choice("ddim_step", "prediction_type", prediction_type, PREDICTION_TYPES)
    now, before = _check_levels("ddim_step", alpha_bar, alpha_bar_prev)
    if not eta >= 0.0:
        raise ValueError(f"ddim_step(): expected 'eta' to be at least 0, got {eta}")
    clip = _check_clip("ddim_step", clip_range)
    coefficients = _ddim_coefficients(
        prediction_type, now, before, clip, float(eta), bool(use_clipped_model_output), float(guidance_scale)
    )
    return _step("ddim_step", coefficients, model_output, sample, uncond, noise, seed, step, first_sample, return_x0)


def _mix(op: str, sample: Tensor, noise: Tensor, alpha_bars: Tensor, timesteps: Tensor, velocity: bool) -> Tensor:
    check_floating(op, sample=sample, noise=noise, alpha_bars=alpha_bars)
    check_same_device(op, sample=sample, noise=noise)
    if noise.shape != sample.shape:
        raise RuntimeError(
            f"{op}(): expected 'noise' to have the shape of 'sample' {tuple(sample.shape)}, got {describe(noise)}"
        )
    if not isinstance(timesteps, Tensor) or timesteps.is_floating_point():
        raise TypeError(f"{op}(): expected 'timesteps' to be a Tensor of integers, got {describe(timesteps)}")
    if sample.ndim == 0 or timesteps.numel() not in (1, sample.shape[0]) or timesteps.ndim > 1:
        raise RuntimeError(
            f"{op}(): expected 'timesteps' to have one value for each of the samples in {tuple(sample.shape)}, "
            f"got {describe(timesteps)}"
        )
    # On a GPU the look would wait for it; there the table bounds the gather.
    if timesteps.is_cpu and timesteps.numel():
        lowest, highest = int(timesteps.min()), int(timesteps.max())
        if lowest < 0 or highest >= len(alpha_bars):
            raise IndexError(
                f"{op}(): expected 'timesteps' to lie in [0, {len(alpha_bars)}), got {lowest} to {highest}"
            )
    timesteps = timesteps.to(sample.device, torch.int64).expand(sample.shape[0])
    if noise.dtype is not sample.dtype:
        noise = noise.to(sample.dtype)
    return _add_noise(sample, noise, alpha_bars.to(sample.device, torch.float64), timesteps, velocity)


def add_noise(sample: Tensor, noise: Tensor, alpha_bars: Tensor, timesteps: Tensor) -> Tensor:
    """The forward process: sqrt(alpha_bar) sample + sqrt(1 - alpha_bar) noise (Ho, Jain & Abbeel 2020, equation 4).

    ``alpha_bars`` is the table over all steps, ``timesteps`` an index into it for each sample (or one for all). Raises
    IndexError where a CPU timestep is outside the table, RuntimeError where shapes disagree.
    """
    return _mix("add_noise", sample, noise, alpha_bars, timesteps, False)


def velocity(sample: Tensor, noise: Tensor, alpha_bars: Tensor, timesteps: Tensor) -> Tensor:
    """What v-prediction learns: sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) sample (Salimans & Ho 2022)."""
    return _mix("velocity", sample, noise, alpha_bars, timesteps, True)
