"""What several test files share and the package must not hold."""

import functools
import importlib.util
import json
from pathlib import Path

import pytest
import torch

RESNET_PARAMETERS = Path(__file__).parent / "data" / "resnet_parameters.json"


@functools.lru_cache(maxsize=1)
def _torchvision_library() -> torch.library.Library:
    """The operators that torchvision names at import, for a build that brings none of its own for this torch."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def torchvision():
    """The package, or a skip with the reason."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    try:
        import torchvision
    except RuntimeError:
        _torchvision_library()
        import torchvision
    return torchvision


def shapes(module: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def stored_shapes(model: str) -> dict[str, list[int]]:
    """torchvision's parameter and buffer names with their shapes, written down from torchvision 0.29."""
    return json.loads(RESNET_PARAMETERS.read_text())[model]
