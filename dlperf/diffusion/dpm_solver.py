"""DPM-Solver++ of order 1 and 2 (Lu et al. 2022, arXiv:2211.01095): diffusers' interface, one kernel call a step."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from . import functional as D
from . import schedules
from .scheduler_base import Scheduler, SchedulerOutput

ALGORITHMS = ("dpmsolver++", "sde-dpmsolver++")
SOLVERS = ("midpoint", "heun")
KARRAS_RHO = 7.0


class DPMSolverMultistepScheduler(Scheduler):
    """The multistep solver for few steps, with diffusers' constructor; order 2 ("2M") keeps one earlier x_0.

    Raises NotImplementedError for what diffusers has beyond it: ``solver_order=3``, the algorithms of the first paper
    ("dpmsolver", "sde-dpmsolver"), flow matching, beta sigmas, and a learned variance.
    """

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas=None,
        solver_order: int = 2,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        algorithm_type: str = "dpmsolver++",
        solver_type: str = "midpoint",
        lower_order_final: bool = True,
        euler_at_final: bool = False,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        use_lu_lambdas: bool = False,
        use_flow_sigmas: bool = False,
        flow_shift: float = 1.0,
        final_sigmas_type: str = "zero",
        lambda_min_clipped: float = -float("inf"),
        variance_type: str | None = None,
        timestep_spacing: str = "linspace",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
    ):
        super().__init__(locals())
        name = type(self).__name__
        for argument, served in (
            ("solver_order", (1, 2)),
            ("algorithm_type", ALGORITHMS),
            ("solver_type", SOLVERS),
            ("use_beta_sigmas", (False,)),
            ("use_flow_sigmas", (False,)),
            ("use_dynamic_shifting", (False,)),
            ("variance_type", (None, "fixed_small", "fixed_large", "fixed_small_log")),
        ):
            if self.config[argument] not in served:
                raise NotImplementedError(
                    f"{name}(): expected {argument!r} to be one of {', '.join(map(str, served))}, "
                    f"got {self.config[argument]!r}"
                )
        D._check_choice(name, "final_sigmas_type", final_sigmas_type, ("zero", "sigma_min"))
        if use_karras_sigmas + use_exponential_sigmas + use_lu_lambdas > 1:
            raise ValueError(
                f"{name}(): expected one at most of use_karras_sigmas, use_exponential_sigmas, use_lu_lambdas"
            )
        if rescale_betas_zero_snr:
            self.alphas_cumprod[-1] = 2**-24  # the solver divides by it
            self._refresh_levels()
        self.alpha_t = self.alphas_cumprod.sqrt()
        self.sigma_t = (1 - self.alphas_cumprod).sqrt()
        self.lambda_t = self.alpha_t.log() - self.sigma_t.log()
        self.sigmas = ((1 - self.alphas_cumprod) / self.alphas_cumprod) ** 0.5
        self._sigmas: list[float] = []
        self._restart()

    # --- timesteps ---

    def _restart(self) -> None:
        self._history: Tensor | None = None
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._coefficients: dict = {}
        self.lower_order_nums = 0

    @property
    def step_index(self) -> int | None:
        """How many of ``timesteps`` have been visited; None before the first step."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """The place of the first timestep that will be visited, for a loop that starts in the middle."""
        self._begin_index = begin_index

    def set_timesteps(
        self, num_inference_steps: int | None = None, device=None, mu: None = None, timesteps: list[int] | None = None
    ):
        """The timesteps to visit: spaced as configured, or those in ``timesteps``. It starts the solver anew."""
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("set_timesteps(): expected one of 'num_inference_steps' and 'timesteps'")
        if mu is not None:
            raise NotImplementedError("set_timesteps(): 'mu' goes with dynamic shifting, which is not supported")
        config = self.config
        table = (((1 - self.alphas_cumprod) / self.alphas_cumprod) ** 0.5).numpy()
        reshaped = config.use_karras_sigmas or config.use_exponential_sigmas or config.use_lu_lambdas
        if timesteps is not None:
            if reshaped:
                raise ValueError("set_timesteps(): 'timesteps' can't go with sigmas that the configuration spaces")
            timesteps = np.asarray(timesteps, dtype=np.int64)
        else:
            schedules.check_steps(num_inference_steps, config.num_train_timesteps)
            timesteps = self._solver_timesteps(num_inference_steps)
        if reshaped:
            sigmas, timesteps = self._reshaped(table, num_inference_steps)
        else:
            sigmas = np.interp(timesteps, np.arange(len(table)), table)
        last = table[0] if config.final_sigmas_type == "sigma_min" else 0.0
        sigmas = np.concatenate([sigmas, [last]]).astype(np.float32)
        self._visit(np.asarray(timesteps).astype(np.int64), device, repeats=True)
        self.sigmas = torch.from_numpy(sigmas)
        self._sigmas = sigmas.astype(np.float64).tolist()
        self.num_inference_steps = len(self._visited)
        self._restart()

    def _solver_timesteps(self, steps: int) -> np.ndarray:
        """One more interval than a sampler's: the last timestep's level is followed by the end."""
        config = self.config
        clipped = int(torch.searchsorted(torch.flip(self.lambda_t, [0]), config.lambda_min_clipped))
        last = config.num_train_timesteps - clipped
        if config.timestep_spacing == "linspace":
            return np.linspace(0, last - 1, steps + 1).round()[::-1][:-1].astype(np.int64)
        if config.timestep_spacing == "leading":
            return np.arange(steps + 1, dtype=np.int64)[::-1][:-1] * (last // (steps + 1)) + config.steps_offset
        return np.arange(last, 0, -config.num_train_timesteps / steps).round().astype(np.int64) - 1

    def _reshaped(self, table: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Sigmas spaced by Karras et al. 2022 (equation 5), evenly in log-SNR, or Lu's; and their timesteps."""
        low, high = float(table[0]), float(table[-1])
        ramp = np.linspace(0, 1, steps)
        if self.config.use_karras_sigmas:
            ends = high ** (1 / KARRAS_RHO), low ** (1 / KARRAS_RHO)
            sigmas = (ends[0] + ramp * (ends[1] - ends[0])) ** KARRAS_RHO
        else:  # Lu et al. 2022 with rho = 1 spaces log-SNR, which is evenly spaced log-sigma
            sigmas = np.exp(np.log(high) + ramp * (np.log(low) - np.log(high)))
        timesteps = np.interp(np.log(sigmas), np.log(table), np.arange(len(table)))
        if not self.config.use_exponential_sigmas and self.config.beta_schedule not in ("squaredcos_cap_v2", "cosine"):
            timesteps = timesteps.round()
        return sigmas, timesteps

    def _start(self, timestep) -> int:
        """The place of the first timestep: the second of two equal ones, so that a loop in the middle skips nothing."""
        if self._begin_index is not None:
            return self._begin_index
        place = self._index(timestep)
        places = [i for i, t in enumerate(self._visited) if t == self._visited[place]]
        return places[1] if len(places) > 1 else places[0]

    # --- the step ---

    def _order(self, index: int) -> int:
        config, steps = self.config, len(self._visited)
        final = index == steps - 1 and (
            config.euler_at_final or (config.lower_order_final and steps < 15) or config.final_sigmas_type == "zero"
        )
        return 1 if config.solver_order == 1 or self.lower_order_nums < 1 or final else 2

    def _coefficients_of(self, index: int, order: int, kind: str, guidance: float) -> list[float]:
        """The solver's update at this place as the kernel's coefficients (equations 4.1 and 4.2, SDE: appendix B)."""
        key = (index, order, kind, guidance)
        if key in self._coefficients:
            return self._coefficients[key]
        (alpha_s, sigma_s), (alpha_t, sigma_t) = (_alpha_sigma(self._sigmas[i]) for i in (index, index + 1))
        h = _log_snr(alpha_t, sigma_t) - _log_snr(alpha_s, sigma_s)
        sde = self.config.algorithm_type == "sde-dpmsolver++"
        decay = math.exp(-2 * h if sde else -h)
        from_x = sigma_t / sigma_s * (math.exp(-h) if sde else 1.0)
        from_x0, from_history = alpha_t * (1 - decay), 0.0
        if order == 2 and h > 0:  # two equal levels, as "sigma_min" may end on, leave the sample as it is
            share = h / (_log_snr(alpha_s, sigma_s) - _log_snr(*_alpha_sigma(self._sigmas[index - 1])))
            if self.config.solver_type == "midpoint":
                slope = 0.5 * alpha_t * (1 - decay)
            else:
                span = 2 * h if sde else h
                slope = alpha_t * (1.0 - (1 - decay) / span)
            from_x0, from_history = from_x0 + slope * share, -slope * share
        noise = sigma_t * math.sqrt(1 - decay) if sde else 0.0
        x0_x, x0_m = _prediction_from_levels(kind, alpha_s, sigma_s)
        found = [x0_x, x0_m, math.inf, from_x0, from_x, 0.0, from_history, noise, guidance]
        self._coefficients[key] = found
        return found

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
        *,
        seed: int | Tensor | None = None,
        first_sample: int = 0,
        uncond: Tensor | None = None,
        guidance_scale: float = 1.0,
    ) -> SchedulerOutput:
        """As :meth:`DDPMScheduler.step`. The solver keeps state: call set_timesteps before each loop.

        Raises ValueError for a timestep out of turn.
        """
        self._needs_timesteps()
        index = self._start(timestep) if self._step_index is None else self._step_index
        place = self._index(timestep)
        if index >= len(self._visited) or self._visited[place] != self._visited[index]:
            turn = self._visited[index] if index < len(self._visited) else "none: the loop is over"
            raise ValueError(
                f"step(): expected 'timestep' to be the next one, {turn}, got {self._visited[place]}; "
                "call set_timesteps to start again"
            )
        kind, dtype = self.config.prediction_type, model_output.dtype
        if self.config.thresholding:
            level = 1 / (self._sigmas[index] ** 2 + 1)
            model_output = self._thresholded_x0(model_output, sample, level, uncond, guidance_scale)
            kind, uncond = "sample", None
        order = self._order(index)
        coefficients = self._coefficients_of(index, order, kind, float(guidance_scale))
        noise = None
        if self.config.algorithm_type == "sde-dpmsolver++":
            noise = self._draw(model_output, generator, seed, variance_noise, torch.float32)
        prev, x0 = D._step(
            "step",
            coefficients,
            model_output,
            sample,
            uncond,
            noise,
            seed,
            index,
            first_sample,
            True,
            self._history if order == 2 else None,
        )
        self._history = x0
        self.lower_order_nums = min(self.lower_order_nums + 1, self.config.solver_order)
        self._step_index = index + 1
        return SchedulerOutput(prev.to(dtype), lambda: x0)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noise at the levels that are visited, as diffusers does; before set_timesteps at those of training."""
        if not self._sigmas:
            return super().add_noise(original_samples, noise, timesteps)
        if self._begin_index is None:
            places = [self._start(t) for t in timesteps.tolist()]
        else:
            places = [self._begin_index if self._step_index is None else self._step_index] * timesteps.numel()
        levels = 1 / (torch.tensor(self._sigmas, dtype=torch.float64) ** 2 + 1)
        return D.add_noise(original_samples, noise, levels, torch.tensor(places))


def _alpha_sigma(sigma: float) -> tuple[float, float]:
    """The signal's and the noise's share at this ratio of both."""
    alpha = 1 / math.sqrt(sigma * sigma + 1)
    return alpha, sigma * alpha


def _log_snr(alpha: float, sigma: float) -> float:
    return math.log(alpha) - math.log(sigma) if sigma > 0 else math.inf


def _prediction_from_levels(kind: str, alpha: float, sigma: float) -> tuple[float, float]:
    """x_0 = a x + b m as (a, b)."""
    if kind == "epsilon":
        return 1 / alpha, -sigma / alpha
    return (0.0, 1.0) if kind == "sample" else (alpha, -sigma)
