"""The models of the benchmark: a name, a builder over an `nn` namespace, its inputs, its loss."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from . import resnet, unet, vit
from .noise import noised, noised_target
from .pictures import digits, pictures, small_pictures

Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Model:
    """`build(nn)` gives the module; `inputs(batch)` gives (its arguments, what they are).

    In training, `loss` names the function in nn.functional of the output and `target(batch)`.
    """

    build: Callable[..., torch.nn.Module]
    inputs: Callable[[int], tuple[Inputs, str]]
    target: Callable[[int], torch.Tensor]
    loss: str


def made_up_labels(batch: int, classes: int) -> torch.Tensor:
    """The photographs have no ImageNet label."""
    return torch.randint(classes, (batch,), generator=torch.Generator().manual_seed(1))


def _images(source, batch: int) -> tuple[Inputs, str]:
    x, what = source(batch)
    return (x,), what


def _classifier(build) -> Model:
    return Model(build, partial(_images, pictures), partial(made_up_labels, classes=1000), "cross_entropy")


def _denoiser(build, source) -> Model:
    return Model(build, partial(noised, source), partial(noised_target, source), "mse_loss")


MODELS = {
    "resnet18": _classifier(resnet.resnet18),
    "resnet34": _classifier(resnet.resnet34),
    "resnet50": _classifier(resnet.resnet50),
    "resnet101": _classifier(resnet.resnet101),
    "resnet152": _classifier(resnet.resnet152),
    "vit_tiny": _classifier(vit.vit_tiny),
    "vit_small": _classifier(vit.vit_small),
    "vit_base": _classifier(vit.vit_base),
    "vit_large": _classifier(vit.vit_large),
    "unet_cifar10": _denoiser(unet.unet_cifar10, small_pictures),
    "unet_digits": _denoiser(unet.unet_digits, digits),
}


def seeded(name: str, nn=torch.nn, seed: int = 0) -> torch.nn.Module:
    """The model with random weights that depend on `seed` alone; the caller's random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[name].build(nn)
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                _as_if_trained(module)
        return model


def _as_if_trained(norm: torch.nn.Module) -> None:
    """Gives a batch norm statistics of its own.

    With the initial ones, which no trained network has, y + x in bfloat16 is a tie of rounding at every second element,
    and errors would measure that alone.
    """
    torch.nn.init.uniform_(norm.weight, 0.8, 1.2)
    torch.nn.init.normal_(norm.bias, std=0.1)
    torch.nn.init.normal_(norm.running_mean, std=0.1)
    torch.nn.init.uniform_(norm.running_var, 0.8, 1.2)
