"""The models of the benchmark: a name, a builder over an `nn` namespace, and its inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from . import resnet
from .pictures import pictures


@dataclass(frozen=True)
class Model:
    """`build(nn)` gives the module; `inputs(batch)` gives (tensor, what it is); a batch has `classes` labels."""

    build: Callable[..., torch.nn.Module]
    inputs: Callable[[int], tuple[torch.Tensor, str]]
    classes: int

    def labels(self, batch: int) -> torch.Tensor:
        """Made up: the photographs have no ImageNet label."""
        return torch.randint(self.classes, (batch,), generator=torch.Generator().manual_seed(1))


def _imagenet(build) -> Model:
    return Model(build, partial(pictures, size=224), 1000)


MODELS = {
    "resnet18": _imagenet(resnet.resnet18),
    "resnet34": _imagenet(resnet.resnet34),
    "resnet50": _imagenet(resnet.resnet50),
    "resnet101": _imagenet(resnet.resnet101),
    "resnet152": _imagenet(resnet.resnet152),
}


def seeded(name: str, nn=torch.nn, seed: int = 0) -> torch.nn.Module:
    """The model with random weights that depend on `seed` alone; the caller's random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[name].build(nn)
