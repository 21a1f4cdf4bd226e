"""sample(): the whole loop from noise to pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import optimize
from ..optimize.inference import InferenceModel
from .dpm_solver import DPMSolverMultistepScheduler
from .functional import initial_noise, seed_offset
from .schedulers import DDIMScheduler, DDPMScheduler

EAGER_CALLS = 2  # before a CUDA graph is captured
SCHEDULERS = {"ddim": DDIMScheduler, "ddpm": DDPMScheduler, "dpm": DPMSolverMultistepScheduler}


def sample(
    model: torch.nn.Module | Callable,
    shape: Sequence[int],
    steps: int = 50,
    scheduler="ddim",
    guidance_scale: float = 1.0,
    class_labels: Tensor | Sequence[int] | None = None,
    seed: int | Tensor = 0,
    device: torch.device | str = "cpu",
    progress: bool = True,
    *,
    first_sample: int = 0,
    cuda_graph: bool = False,
    on_step: Callable[[int, Tensor], None] | None = None,
    **step_arguments,
) -> Tensor:
    """Pictures from noise: (N, C, H, W), float32, in the range that the model was trained on.

    All noise comes from ``seed`` by Philox, so sample b depends on the seed and b alone, not on N: a large order can be
    made in parts with ``first_sample``.

    Args:
        model: called as model(x, t) or model(x, t, labels) with t int64 (N,); it gives the prediction, or diffusers'
            output with ``.sample``. A module is optimized for inference, unless ``dlperf.optimize`` already did: do
            that once if you call this often. Any other callable is called as it is.
        shape: (N, C, H, W).
        steps: how many of the training's timesteps are visited.
        scheduler: "ddim", "ddpm" or "dpm", or a scheduler of dlperf.diffusion.
        guidance_scale: above 1, classifier-free guidance; the model needs ``null_label``, the label of no class. A
            guided x_0 leaves the range of pictures; where DDIM clips it, epsilon then follows from the clipped x_0,
            unless ``use_clipped_model_output=False`` is given: with the epsilon from before, digits fall apart.
        class_labels: int64 (N,).
        seed: an int, or {seed, offset} as two int64.
        progress: shows a bar.
        cuda_graph: on a GPU, captures the model's call after two steps and replays it. Unverified: no test of it has
            run on a GPU yet.
        on_step: called with the step's number and x after each step; x is not written to later.
        step_arguments: more for the scheduler's step, such as ``eta`` for DDIM.

    Raises ValueError for an unknown scheduler, guidance without labels or without ``null_label``, labels that are not
    one for each sample or outside the model's classes, ``cuda_graph`` without a GPU; TypeError for a scheduler that is
    not dlperf's.
    """
    scheduler = _scheduler(scheduler)
    shape = tuple(int(n) for n in shape)
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"sample(): expected 'shape' (N, C, H, W) with sizes of at least 1, got {shape}")
    device = torch.device(device)
    if cuda_graph and device.type != "cuda":
        raise ValueError(f"sample(): expected 'device' to be a GPU with cuda_graph=True, got {device}")
    labels = _labels(class_labels, shape[0], getattr(model, "null_label", None), device)
    guided = guidance_scale != 1.0
    if guided and labels is None:
        raise ValueError(f"sample(): expected 'class_labels' with guidance_scale={guidance_scale}")
    if guided and getattr(model, "null_label", None) is None:
        raise ValueError("sample(): expected a model with 'null_label', the label of no class, for guidance")
    if isinstance(model, torch.nn.Module) and not isinstance(model, InferenceModel):
        model = optimize(model.to(device), mode="inference")
    if guided and isinstance(scheduler, DDIMScheduler):
        step_arguments = {"use_clipped_model_output": True, **step_arguments}
    scheduler.set_timesteps(steps, device=device)
    loop = _Loop(model, shape, labels, guidance_scale if guided else None, device, cuda_graph)
    x = initial_noise(shape, seed := seed_offset(seed, device), device=device, first_sample=first_sample)
    with torch.no_grad(), _Bar(progress, len(scheduler.timesteps)) as advance:
        for i, t in enumerate(scheduler.timesteps):
            prediction, guidance = loop.predict(x, t)
            x = scheduler.step(
                prediction, t, x, seed=seed, first_sample=first_sample, **guidance, **step_arguments
            ).prev_sample
            if on_step is not None:
                on_step(i, x)
            advance()
    return x


def _scheduler(scheduler):
    if isinstance(scheduler, str):
        if scheduler not in SCHEDULERS:
            raise ValueError(f"sample(): expected 'scheduler' to be one of {', '.join(SCHEDULERS)}, got {scheduler!r}")
        return SCHEDULERS[scheduler]()
    if not isinstance(scheduler, tuple(SCHEDULERS.values())):
        raise TypeError(
            f"sample(): expected 'scheduler' to be a name or dlperf.diffusion's, not {type(scheduler).__name__}; "
            "make one with from_config(scheduler.config)"
        )
    return scheduler


def _labels(labels, count: int, classes: int | None, device) -> Tensor | None:
    if labels is None:
        return None
    labels = torch.as_tensor(labels)
    if labels.is_floating_point() or labels.shape != (count,):
        raise ValueError(
            f"sample(): expected 'class_labels' to be {count} integers, got {tuple(labels.shape)} of {labels.dtype}"
        )
    if classes is not None and not bool(((labels >= 0) & (labels <= classes)).all()):
        raise ValueError(f"sample(): expected 'class_labels' in [0, {classes}), got {labels.tolist()[:8]} ...")
    return labels.to(device, torch.int64)


class _Loop:
    """The model's inputs, in buffers that every step writes anew, and its calls."""

    def __init__(self, model, shape, labels, guidance_scale: float | None, device, cuda_graph: bool):
        self.model, self.count, self.guidance_scale = model, shape[0], guidance_scale
        self.left = EAGER_CALLS if cuda_graph else None
        rows = shape[0] if guidance_scale is None else 2 * shape[0]
        self.t = torch.empty(rows, dtype=torch.int64, device=device)
        self.labels = labels
        if guidance_scale is not None:  # with and without the labels, in one batch
            self.labels = torch.cat([labels, torch.full_like(labels, model.null_label)])
        copies = guidance_scale is not None or cuda_graph
        self.x = torch.empty((rows, *shape[1:]), device=device) if copies else None

    def predict(self, x: Tensor, t: Tensor) -> tuple[Tensor, dict]:
        self.t.copy_(t)
        if self.x is not None:
            self.x.view(-1, *x.shape).copy_(x)
            x = self.x
        out = self._call(x) if self.left is None else self._replayed(x)
        if self.guidance_scale is None:
            return out, {}
        return out[: self.count], {"uncond": out[self.count :], "guidance_scale": self.guidance_scale}

    def _call(self, x: Tensor) -> Tensor:
        out = self.model(x, self.t) if self.labels is None else self.model(x, self.t, self.labels)
        return out[0] if isinstance(out, tuple) else getattr(out, "sample", out)

    def _replayed(self, x: Tensor) -> Tensor:
        """The first calls on a stream of their own, as capturing wants it; then one is captured; then replays."""
        if self.left > 0:
            self.left -= 1
            stream, current = torch.cuda.Stream(x.device), torch.cuda.current_stream(x.device)
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                out = self._call(x)
            current.wait_stream(stream)
            out.record_stream(current)
            return out
        if self.left == 0:
            self.left = -1
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.out = self._call(x)
        self.graph.replay()
        return self.out


class _Bar:
    """A progress bar, or none."""

    def __init__(self, shown: bool, total: int):
        self.total, self.progress = total, None
        if shown:
            from rich.progress import Progress

            self.progress = Progress(transient=True)

    def __enter__(self) -> Callable[[], None]:
        if self.progress is None:
            return lambda: None
        self.progress.start()
        task = self.progress.add_task("sampling", total=self.total)
        return lambda: self.progress.advance(task)

    def __exit__(self, *_) -> None:
        if self.progress is not None:
            self.progress.stop()
