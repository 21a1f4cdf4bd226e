"""What several test files share and the package must not hold."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dlperf.benchmarks import public_models

RESNET_PARAMETERS = Path(__file__).parent / "data" / "resnet_parameters.json"


def package(name: str):
    """The package that others' models come from, or a skip with the reason."""
    try:
        return public_models.package(name)
    except public_models.Missing as reason:
        pytest.skip(str(reason))


def torchvision():
    """The package, or a skip with the reason."""
    return package("torchvision")


def shapes(module: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def stored_shapes(model: str) -> dict[str, list[int]]:
    """torchvision's parameter and buffer names with their shapes, written down from torchvision 0.29."""
    return json.loads(RESNET_PARAMETERS.read_text())[model]


class Call(nn.Module):
    """A function of tensors as a model; layers are given by name."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)
