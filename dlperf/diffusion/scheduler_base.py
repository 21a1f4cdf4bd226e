"""What the schedulers share: the configuration, the timesteps and their places, noise, and the fused step."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..ops._checks import describe
from . import functional as D
from . import schedules

CONFIG_NAME = "scheduler_config.json"


class SchedulerConfig(dict):
    """The constructor's arguments: a dict whose entries are attributes too."""

    def __getattr__(self, name: str):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the scheduler's configuration has no {name!r}") from None

    def __setattr__(self, name: str, value):
        raise AttributeError("a scheduler's configuration is fixed; make another one with from_config(config, ...)")


class SchedulerOutput(Sequence):
    """``prev_sample``, or [0]; and ``pred_original_sample``, or [1], which costs a kernel call when first asked for.

    That call reads the step's model output and sample: ask before overwriting either in place.
    """

    def __init__(self, prev_sample: Tensor, predict: Callable[[], Tensor]):
        self.prev_sample = prev_sample
        self._predict = predict

    @property
    def pred_original_sample(self) -> Tensor:
        if not isinstance(self._predict, Tensor):
            self._predict = self._predict()
        return self._predict

    def __getitem__(self, index):
        if isinstance(index, str):
            return getattr(self, index)
        if isinstance(index, int) and index in (0, -2):
            return self.prev_sample
        return (self.prev_sample, self.pred_original_sample)[index]

    def __len__(self) -> int:
        return 2


def previous_level(alpha_bars: list[float], timestep: int, final: float) -> float:
    return alpha_bars[timestep] if timestep >= 0 else final


class Scheduler:
    """The base of the schedulers. Subclasses pass their constructor's ``locals()``."""

    order = 1
    init_noise_sigma = 1.0
    config_name = CONFIG_NAME

    def __init__(self, arguments: dict):
        config = {k: v for k, v in arguments.items() if k not in ("self", "__class__")}
        if config["trained_betas"] is not None:
            config["trained_betas"] = np.asarray(config["trained_betas"], dtype=np.float64).tolist()
        self.config = config = SchedulerConfig(config)
        name = type(self).__name__
        D._check_choice(name, "prediction_type", config.prediction_type, D.PREDICTION_TYPES)
        D._check_choice(name, "timestep_spacing", config.timestep_spacing, schedules.SPACINGS)
        clips = config.get("clip_sample", False) and not config.thresholding
        self._clip = D._check_clip(name, config.clip_sample_range if clips else None)
        self.betas = schedules.betas(
            config.beta_schedule,
            config.num_train_timesteps,
            config.beta_start,
            config.beta_end,
            config.trained_betas,
            config.rescale_betas_zero_snr,
        )
        if config.rescale_betas_zero_snr and config.prediction_type == "epsilon":
            raise ValueError(
                f"{name}(): expected 'prediction_type' to be sample or v_prediction with rescale_betas_zero_snr: the "
                "noise alone tells nothing about x_0 where no signal is left"
            )
        if len(self.betas) != config.num_train_timesteps:
            raise ValueError(
                f"{name}(): expected 'trained_betas' to have num_train_timesteps={config.num_train_timesteps} values, "
                f"got {len(self.betas)}"
            )
        self.alphas = 1.0 - self.betas
        self.alphas_cumprod = torch.cumprod(self.alphas, 0)
        self.one = torch.tensor(1.0)
        self.num_inference_steps = None
        self._refresh_levels()
        self._visit(np.arange(config.num_train_timesteps)[::-1], None)

    # --- configuration ---

    @classmethod
    def from_config(cls, config: Mapping | Scheduler, **changes):
        """A scheduler with this configuration (dlperf's, diffusers' or a dict) and these changes.

        Entries that this scheduler does not have are left out, as diffusers does. Raises TypeError for a change it
        does not have.
        """
        config = getattr(config, "config", config)
        if not isinstance(config, Mapping):
            raise TypeError(f"from_config(): expected 'config' to be a mapping, got {type(config).__name__}")
        known = cls._arguments()
        return cls(**{k: v for k, v in config.items() if k in known} | changes)

    @classmethod
    def _arguments(cls) -> set[str]:
        code = cls.__init__.__code__
        return set(code.co_varnames[1 : code.co_argcount])

    @classmethod
    def from_pretrained(cls, directory: str | Path, subfolder: str | None = None, **changes):
        """Reads scheduler_config.json, as dlperf or diffusers saved it, from a local directory."""
        path = Path(directory, subfolder or "", CONFIG_NAME)
        try:
            config = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path}: no JSON: {error}") from None
        return cls.from_config(config, **changes)

    def save_config(self, save_directory: str | Path) -> None:
        """Writes scheduler_config.json, which diffusers' from_pretrained reads too."""
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        stored = {"_class_name": type(self).__name__, **self.config}
        (directory / CONFIG_NAME).write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n")

    save_pretrained = save_config

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config.items())})"

    # --- timesteps ---

    def _refresh_levels(self) -> None:
        self._alpha_bar_table = self.alphas_cumprod.double()
        self._alpha_bars = self._alpha_bar_table.tolist()

    def _spaced(self, steps: int) -> np.ndarray:
        config = self.config
        return schedules.spaced_timesteps(
            config.timestep_spacing, steps, config.num_train_timesteps, config.steps_offset
        )

    def _visit(self, timesteps, device, repeats: bool = False) -> None:
        """Sets ``timesteps``; with ``repeats`` a timestep may come more than once."""
        visited = [int(t) for t in timesteps]
        most = self.config.num_train_timesteps
        if not visited or min(visited) < 0 or max(visited) >= most:
            raise ValueError(f"set_timesteps(): expected timesteps in [0, {most}), got {visited[:3]} ...")
        if any(b > a or (b == a and not repeats) for a, b in itertools.pairwise(visited)):
            raise ValueError(f"set_timesteps(): expected 'timesteps' in descending order, got {visited[:8]} ...")
        self._visited = visited
        self._places = {t: i for i, t in enumerate(visited)}
        self.timesteps = torch.tensor(visited, dtype=torch.int64).to(device)

    def _needs_timesteps(self) -> None:
        if self.num_inference_steps is None:
            raise ValueError("step(): call set_timesteps first")

    def _index(self, timestep: int | float | Tensor) -> int:
        """The place of a timestep among those that are visited."""
        if isinstance(timestep, Tensor):
            if timestep.numel() != 1:
                raise ValueError(f"step(): expected 'timestep' to be one value, got {describe(timestep)}")
            if (
                not timestep.is_cpu
                and timestep.untyped_storage().data_ptr() == self.timesteps.untyped_storage().data_ptr()
            ):
                return timestep.storage_offset() - self.timesteps.storage_offset()  # no wait for the device
            timestep = timestep.item()
        try:
            return self._places[timestep]
        except (KeyError, TypeError):
            raise ValueError(
                f"step(): expected 'timestep' to be one that set_timesteps gave ({self._visited[0]} ... "
                f"{self._visited[-1]}, {len(self._visited)} of them), got {timestep!r}"
            ) from None

    # --- diffusers' small methods ---

    def scale_model_input(self, sample: Tensor, *args, **kwargs) -> Tensor:
        """The sample itself: these schedulers' models see x_t as it is."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """sqrt(alpha_bar) x + sqrt(1 - alpha_bar) noise at each sample's timestep, one kernel call."""
        return D.add_noise(original_samples, noise, self._alpha_bar_table, timesteps)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What v-prediction learns, one kernel call."""
        return D.velocity(sample, noise, self._alpha_bar_table, timesteps)

    # --- the step ---

    @staticmethod
    def _draw(model_output: Tensor, generator, seed, given: Tensor | None = None, dtype=None) -> Tensor | None:
        """The step's noise; None where the kernel makes it from ``seed``."""
        if sum(source is not None for source in (generator, seed, given)) > 1:
            raise ValueError("step(): expected at most one of 'generator', 'variance_noise' and 'seed'")
        if seed is not None or given is not None:
            return given
        return randn(model_output.shape, generator, model_output.device, dtype or model_output.dtype)

    def _output(
        self, coefficients, model_output, sample, uncond, noise, seed, index, first_sample, history=None, *, x0_of
    ) -> SchedulerOutput:
        prev = D._step(
            "step", coefficients, model_output, sample, uncond, noise, seed, index, first_sample, False, history
        )

        def predict() -> Tensor:
            kind, now, clip, *original = x0_of
            m, u = original or (model_output, uncond)
            if self.config.thresholding:
                return history if history is not None else model_output
            return _x0(kind, now, clip, m, sample, u, coefficients[8])

        return SchedulerOutput(prev, predict)

    def _thresholded_x0(self, model_output, sample, alpha_bar: float, uncond, guidance_scale) -> Tensor:
        """x_0 with dynamic thresholding (Saharia et al. 2022, section 2.3)."""
        kind = self.config.prediction_type
        x0 = _x0(kind, alpha_bar, math.inf, model_output, sample, uncond, float(guidance_scale))
        flat = x0.flatten(1).to(torch.promote_types(x0.dtype, torch.float32))
        limit = torch.quantile(flat.abs(), self.config.dynamic_thresholding_ratio, dim=1, keepdim=True)
        limit = limit.clamp(1, self.config.sample_max_value)
        return (flat.clamp(-limit, limit) / limit).view(x0.shape).to(x0.dtype)


def _x0(kind: str, alpha_bar: float, clip: float, model_output, sample, uncond, guidance: float) -> Tensor:
    x0_from_x, x0_from_m, *_ = D._prediction(kind, alpha_bar)
    coefficients = [x0_from_x, x0_from_m, clip, 1.0, 0.0, 0.0, 0.0, 0.0, guidance]
    return D._step("step", coefficients, model_output, sample, uncond, None, None, 0, 0, False)


def randn(shape, generator, device, dtype) -> Tensor:
    """torch.randn as diffusers calls it: a list has a generator for each sample; a CPU generator serves any device."""
    generators = list(generator) if isinstance(generator, (list, tuple)) else [generator]
    where = {g.device if g is not None else torch.device(device) for g in generators}
    if len(where) > 1 or len(generators) not in (1, shape[0]):
        raise ValueError(f"step(): expected one generator, or one of one device for each of {shape[0]} samples")
    if len(generators) == 1:
        return torch.randn(shape, generator=generators[0], device=where.pop(), dtype=dtype).to(device)
    shape, place = (1, *shape[1:]), where.pop()
    return torch.cat([torch.randn(shape, generator=g, device=place, dtype=dtype) for g in generators]).to(device)
