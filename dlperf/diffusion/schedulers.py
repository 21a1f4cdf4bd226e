"""DDPMScheduler and DDIMScheduler: diffusers' interface and numbers, each step one fused kernel call.

    pipe.scheduler = dlperf.diffusion.DDIMScheduler.from_config(pipe.scheduler.config)

Beyond diffusers' arguments ``step`` takes ``seed`` (noise made inside the kernel by Philox, the same for a sample
whatever its batch), ``first_sample``, and ``uncond`` with ``guidance_scale`` (guidance inside the kernel).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import functional as D
from . import schedules
from .scheduler_base import Scheduler, SchedulerOutput, previous_level

VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range")


class DDPMScheduler(Scheduler):
    """Ancestral sampling (Ho, Jain & Abbeel 2020) with diffusers' DDPMScheduler's constructor.

    Raises ValueError for unknown choices. ``variance_type="fixed_large_log"`` is one: diffusers' step is NaN for it.
    """

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas=None,
        variance_type: str = "fixed_small",
        clip_sample: bool = True,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
    ):
        super().__init__(locals())
        D._check_choice(type(self).__name__, "variance_type", variance_type, VARIANCES)
        self.variance_type = variance_type
        self.custom_timesteps = False

    def set_timesteps(self, num_inference_steps: int | None = None, device=None, timesteps: list[int] | None = None):
        """The timesteps to visit: evenly spaced ones, or those in ``timesteps`` (descending)."""
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("set_timesteps(): expected one of 'num_inference_steps' and 'timesteps'")
        self.custom_timesteps = timesteps is not None
        if timesteps is not None:
            self._visit(timesteps, device)
            return
        self.num_inference_steps = num_inference_steps
        self._visit(self._spaced(num_inference_steps), device)

    def previous_timestep(self, timestep: int | Tensor) -> int:
        """The timestep visited after this one; -1 after the last."""
        index = self._index(timestep)
        return self._visited[index + 1] if index + 1 < len(self._visited) else -1

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        *,
        seed: int | Tensor | None = None,
        first_sample: int = 0,
        uncond: Tensor | None = None,
        guidance_scale: float = 1.0,
    ) -> SchedulerOutput:
        """x at the next timestep, as ``.prev_sample`` or ``[0]``; the predicted x_0 is computed if asked for.

        Args:
            model_output: the prediction, (N, C, ...); (N, 2 C, ...) with a learned variance.
            timestep: one of ``timesteps``. A view of ``timesteps`` on a GPU is recognised without waiting for it.
            sample: x_t, (N, C, ...).
            generator: gives torch.randn's noise, as diffusers does; so does None, from torch's default generator.
            seed: an int, or {seed, offset} as two int64, instead of a generator.

        Raises ValueError for a timestep that is not visited, RuntimeError where shapes or devices disagree.
        """
        index = self._index(timestep)
        t = self._visited[index]
        now, before = self._alpha_bars[t], previous_level(self._alpha_bars, self.previous_timestep(t), 1.0)
        kind, clip = self.config.prediction_type, self._clip
        model_output, log_variance = self._split(model_output, sample, now, before)
        if self.config.thresholding:
            model_output = self._thresholded_x0(model_output, sample, now, uncond, guidance_scale)
            uncond, kind, clip = None, "sample", math.inf
        large = "fixed_large" if self.variance_type == "fixed_large" else "fixed_small"
        coefficients = list(D._ddpm_coefficients(kind, now, before, clip, large, float(guidance_scale)))
        noise = None
        if t == 0:
            coefficients[7] = 0.0
        else:
            if large == "fixed_large":  # diffusers adds noise wherever t > 0, even before the last level
                coefficients[7] = math.sqrt(1.0 - now / before)
            noise = self._draw(model_output, generator, seed)
            if log_variance is not None:
                if noise is None:
                    noise = D.normals(sample, seed, step=index, first_sample=first_sample)
                noise, seed = (0.5 * log_variance).exp() * noise, None
                coefficients[7] = 1.0
        return self._output(
            coefficients, model_output, sample, uncond, noise, seed, index, first_sample, x0_of=(kind, now, clip)
        )

    def _split(self, model_output, sample, now: float, before: float):
        """The prediction, and the logarithm of its variance where that is learned (Nichol & Dhariwal 2021, eq. 15)."""
        learned = self.variance_type in ("learned", "learned_range")
        if not learned or model_output.ndim < 2 or sample.ndim < 2 or model_output.shape[1] != 2 * sample.shape[1]:
            if learned:
                raise RuntimeError(
                    f"step(): expected 'model_output' to have twice the {sample.shape[1:2]} channels of 'sample' for "
                    f"variance_type={self.variance_type!r}, got {tuple(model_output.shape)}"
                )
            return model_output, None
        model_output, variance = model_output.split(sample.shape[1], 1)
        if self.variance_type == "learned":
            return model_output, variance.log()
        beta = 1.0 - now / before
        lowest = math.log(max((1.0 - before) / (1.0 - now) * beta, 1e-20))
        share = (variance + 1) / 2
        return model_output, share * math.log(beta) + (1 - share) * lowest


class DDIMScheduler(Scheduler):
    """Deterministic sampling, or with noise between DDIM's and DDPM's (Song, Meng & Ermon 2020)."""

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas=None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        rescale_betas_zero_snr: bool = False,
    ):
        super().__init__(locals())
        self.final_alpha_cumprod = torch.tensor(1.0) if set_alpha_to_one else self.alphas_cumprod[0]
        self._final_level = 1.0 if set_alpha_to_one else self._alpha_bars[0]

    def set_timesteps(self, num_inference_steps: int, device=None):
        schedules.check_steps(num_inference_steps, self.config.num_train_timesteps)
        self.num_inference_steps = num_inference_steps
        self._visit(self._spaced(num_inference_steps), device)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
        *,
        seed: int | Tensor | None = None,
        first_sample: int = 0,
        uncond: Tensor | None = None,
        guidance_scale: float = 1.0,
    ) -> SchedulerOutput:
        """As :meth:`DDPMScheduler.step`; ``eta`` scales the noise, ``variance_noise`` gives it.

        ``use_clipped_model_output`` derives epsilon from the clipped x_0.
        """
        self._needs_timesteps()
        if not eta >= 0.0:
            raise ValueError(f"step(): expected 'eta' to be at least 0, got {eta}")
        index = self._index(timestep)
        t = self._visited[index]
        before = t - self.config.num_train_timesteps // self.num_inference_steps
        now, before = self._alpha_bars[t], previous_level(self._alpha_bars, before, self._final_level)
        kind, clip, history = self.config.prediction_type, self._clip, None
        original = (model_output, uncond)
        if self.config.thresholding:
            history = self._thresholded_x0(model_output, sample, now, uncond, guidance_scale)
            if use_clipped_model_output:
                model_output, uncond, history, kind = history, None, None, "sample"
                use_clipped_model_output = False
            clip = math.inf
        coefficients = D._ddim_coefficients(
            kind, now, before, clip, float(eta), bool(use_clipped_model_output), float(guidance_scale)
        )
        if history is not None:  # the thresholded x_0 takes the place of the one that the kernel predicts
            coefficients = [*coefficients[:3], 0.0, *coefficients[4:6], coefficients[3], *coefficients[7:]]
        noise = None
        if eta > 0:
            noise = self._draw(model_output, generator, seed, variance_noise)
        return self._output(
            coefficients,
            model_output,
            sample,
            uncond,
            noise,
            seed,
            index,
            first_sample,
            history,
            x0_of=(self.config.prediction_type, now, self._clip, *original),
        )
