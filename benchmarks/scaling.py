"""The scaling suite: how time (and the peak of memory) grows with batch, picture size, sequence length and threads.

The cost of a model is linear in the batch and in the number of pixels; that of attention is quadratic in the length.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .kernels import KernelCase
from .layers import Layer, Use
from .peers import Case
from .timing import Plan

if TYPE_CHECKING:
    from .suites import Options

AXES = ("batch", "resolution", "sequence", "threads")
BATCHES, QUICK_BATCHES = (1, 2, 4, 8, 16, 32, 64), (1, 4, 8)
RESOLUTIONS, QUICK_RESOLUTIONS = (160, 224, 288, 384), (160, 224)
SEQUENCES, QUICK_SEQUENCES = (197, 512, 1024, 2048, 4096), (197, 512, 1024)
MODELS, QUICK_MODELS = ("resnet50", "vit_small", "unet_cifar10"), ("resnet18", "vit_tiny", "unet_digits")
BATCH = 4  # on the axes that do not vary it
HEADS, HEAD_DIM = 6, 64  # ViT-S
FULL, QUICK = Plan(rounds=7, seconds=0.3, budget=30, least=3), Plan(rounds=3, seconds=0.05, budget=2, least=2)
# dlperf.optimize stands for dlperf; the compiled peers, which compile for each point anew, take part where named.
PEERS = ("eager-nhwc", "eager-mkl")
ENGINES = ("dlperf-optimize", *PEERS)


def thread_counts(most: int) -> tuple[int, ...]:
    """1, 2, 4 ... and the most."""
    counts = [1]
    while counts[-1] * 2 <= most:
        counts.append(counts[-1] * 2)
    return tuple(dict.fromkeys([*counts, most]))


def model_cases(options: Options) -> list[Case]:
    quick = options.quick
    models = options.models or (QUICK_MODELS if quick else MODELS)
    modes = options.modes if len(options.modes) == 1 else ("inference",)
    batches = options.batches or (QUICK_BATCHES if quick else BATCHES)
    cases = []
    for model in models:
        for mode in modes:
            for dtype in options.dtypes or ("f32",):
                case = Case(model, mode, dtype, BATCH, options.device, options.threads, suite="scaling")
                cases += [replace(case, batch=n, axis="batch", value=n) for n in batches]
                cases += resized(case, QUICK_RESOLUTIONS if quick else RESOLUTIONS)
                if options.device == "cpu":
                    counts = thread_counts(options.threads)
                    cases += [replace(case, threads=n, axis="threads", value=n) for n in counts]
    return cases


def resized(case: Case, resolutions: tuple[int, ...]) -> list[Case]:
    """The case at each size of picture; none for a model that is made for one."""
    from .models import find

    if find(case.model).sized is None:
        return []
    return [replace(case, model=f"{case.model}@{n}", axis="resolution", value=n) for n in resolutions]


def attention_cases(options: Options) -> list[KernelCase]:
    """Attention alone, forward and, in training, backward."""
    if options.device != "cpu":
        return []
    cases = []
    for dtype in options.dtypes or ("f32",):
        for mode in ("backward",) if options.modes == ("train",) else ("forward", "backward"):
            for s in QUICK_SEQUENCES if options.quick else SEQUENCES:
                shape = (1, HEADS, s, HEAD_DIM)
                use = Use(Layer("attention", (3, *shape), shape, ()), "attention", 1)
                cases.append(KernelCase("attention", use, mode, dtype, 1, "scaling", "sequence", s))
    return cases
