"""Training a denoiser: the loop of Ho, Jain & Abbeel 2020 (algorithm 1), which resumes bit for bit.

Every random draw is a function of the seed and the step (batch, timestep, noise, dropped labels), so a checkpoint holds
no generator's state, and a run that was interrupted goes on exactly as it would have.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from .. import nn
from . import checkpoint
from .checkpoint import CheckpointError
from .data import Pictures
from .models import build
from .schedulers import DDPMScheduler


class TrainingError(RuntimeError):
    """The loss is no number any more; the message says at which step."""


@dataclass
class TrainConfig:
    """What a run is: it is stored in its checkpoints."""

    model: dict
    schedule: dict = field(default_factory=dict)
    batch: int = 64
    lr: float = 1e-3
    warmup: int = 200
    weight_decay: float = 0.0
    ema: float = 0.999
    clip: float = 1.0
    label_drop: float = 0.1
    amp: bool = False
    seed: int = 0


def generator(seed: int, stream: str, step: int) -> torch.Generator:
    """The generator of one draw. torch's reads 32 bits of a seed, so the three are hashed."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{step}".encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


class Trainer:
    """A model, its running average and optimizer, over a set of pictures.

    Args:
        config: the run. ``config.model`` is what :func:`dlperf.diffusion.models.build` takes.
        pictures: the data; with labels where the model has classes.
        layers: the namespace of the model's layers; dlperf's by default.
    """

    def __init__(self, config: TrainConfig, pictures: Pictures, layers=nn):
        self.config, self.pictures, self.layers = config, pictures, layers
        if config.model.get("classes") and pictures.labels is None:
            raise ValueError(f"expected labels for a model with classes; {pictures.name} has none")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = build(config.model, layers)
        self.model.to(memory_format=torch.channels_last)
        self.ema = {k: t.detach().clone() for k, t in self.model.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.scheduler = DDPMScheduler(**config.schedule)
        self.step_count, self.losses = 0, []

    # --- one step ---

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """x_0, noise, timesteps and labels of a step: drawn from the seed and the step alone."""
        config, count = self.config, len(self.pictures.images)
        per_epoch = max(1, count // config.batch)
        order = torch.randperm(count, generator=generator(config.seed, "epoch", step // per_epoch))
        rows = order[(step % per_epoch) * config.batch :][: config.batch]
        draw = generator(config.seed, "step", step)
        t = torch.randint(self.scheduler.config.num_train_timesteps, (len(rows),), generator=draw)
        x = self.pictures.batch(rows).contiguous(memory_format=torch.channels_last)
        noise = torch.randn(x.shape, generator=draw).contiguous(memory_format=torch.channels_last)
        if not config.model.get("classes"):
            return x, noise, t, None
        dropped = torch.rand(len(rows), generator=draw) < config.label_drop
        return x, noise, t, self.pictures.labels[rows].masked_fill(dropped, config.model["classes"])

    def loss(self, step: int) -> Tensor:
        x, noise, t, labels = self.batch(step)
        noisy = self.scheduler.add_noise(x, noise, t)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.amp):
            predicted = self.model(noisy, t) if labels is None else self.model(noisy, t, labels)
        return self.layers.functional.mse_loss(predicted.float(), noise)

    def step(self) -> float:
        """One update. Raises TrainingError, with nothing changed, where the loss is not finite."""
        config, step = self.config, self.step_count
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * min(1.0, (step + 1) / max(1, config.warmup))
        self.model.train()
        loss = self.loss(step)
        value = loss.item()
        if not math.isfinite(value):
            raise TrainingError(f"the loss is {value} at step {step}; the last checkpoint is from before")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        decay = min(config.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            now = self.model.state_dict()
            torch._foreach_lerp_(list(self.ema.values()), [now[k] for k in self.ema], 1 - decay)
        self.losses.append(value)
        self.step_count = step + 1
        return value

    # --- checkpoints ---

    def save(self, path: str | Path) -> None:
        """The whole run, so that it resumes bit for bit."""
        tensors = {f"model.{k}": t for k, t in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": t for k, t in self.ema.items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": t for k, t in state.items()}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        checkpoint.save(path, tensors, self.info())

    def export(self, path: str | Path) -> None:
        """The averaged weights alone, in float16: for sampling."""
        checkpoint.save(path, checkpoint.half({f"ema.{k}": t for k, t in self.ema.items()}), self.info())

    def info(self) -> dict:
        images = self.pictures.images
        return {
            "model": self.config.model,
            "schedule": {k: v for k, v in self.scheduler.config.items() if v is not None},
            "train": asdict(self.config),
            "step": self.step_count,
            "data": self.pictures.name,
            "picture": list(images.shape[1:]),
            "pictures": len(images),
            "classes": list(self.pictures.classes),
        }

    @classmethod
    def resume(cls, path: str | Path, pictures: Pictures, layers=nn) -> Trainer:
        """The run in a checkpoint. Raises CheckpointError where it is broken, of other data, or only for sampling."""
        tensors, info = checkpoint.load(path)
        try:
            stored = info["train"]
            config = TrainConfig(**{f.name: stored[f.name] for f in fields(TrainConfig)})
            trained_on = info["data"], info["picture"], info["pictures"]
            step = info["step"]
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: its description lacks {error}") from None
        given = pictures.name, list(pictures.images.shape[1:]), len(pictures.images)
        if trained_on != given:
            raise CheckpointError(f"{path}: it was trained on {trained_on}, not on {given}")
        if "losses" not in tensors:
            raise CheckpointError(f"{path}: weights for sampling alone; resume from checkpoint.safetensors")
        run = cls(config, pictures, layers)
        try:
            run._restore(tensors)
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{path}: does not fit its model: {error}".splitlines()[0]) from None
        run.step_count, run.losses = step, tensors["losses"].tolist()
        return run

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        self.model.load_state_dict({k[6:]: t for k, t in tensors.items() if k.startswith("model.")})
        for k, t in self.ema.items():
            t.copy_(tensors[f"ema.{k}"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, t in tensors.items():
            if name.startswith("optimizer."):
                _, i, key = name.split(".")
                state.setdefault(int(i), {})[key] = t
        # The fused optimizer reads memory as it lies: the state must lie as its parameter does (channels_last).
        for i, parameter in enumerate(self.model.parameters()):
            for key, t in state.get(i, {}).items():
                if t.shape == parameter.shape:
                    state[i][key] = torch.empty_like(parameter, requires_grad=False).copy_(t)
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
