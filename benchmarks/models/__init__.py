"""The models of the benchmark: a name, a builder over an `nn` namespace, its inputs, its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from . import public, resnet, unet, vit
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
    public: bool = False  # another package's: torch's layers only, inference only
    sized: Callable[[int], Model] | None = None  # the same for pictures of another size


def made_up_labels(batch: int, classes: int) -> torch.Tensor:
    """The photographs have no ImageNet label."""
    return torch.randint(classes, (batch,), generator=torch.Generator().manual_seed(1))


def _images(source, batch: int) -> tuple[Inputs, str]:
    x, what = source(batch)
    return (x,), what


def _classifier(build, has_positions: bool = False) -> Model:
    """`has_positions`: the module is made for one size of picture."""
    model = Model(build, partial(_images, pictures), partial(made_up_labels, classes=1000), "cross_entropy")

    def sized(size: int) -> Model:
        resized = partial(build, img_size=size) if has_positions else build
        return replace(model, build=resized, inputs=partial(_images, partial(pictures, size=size)))

    return replace(model, sized=sized)


def _denoiser(build, source) -> Model:
    return Model(build, partial(noised, source), partial(noised_target, source), "mse_loss")


def _public(build, inputs) -> Model:
    return Model(build, inputs, torch.empty, "cross_entropy", public=True)


MODELS = {
    "resnet18": _classifier(resnet.resnet18),
    "resnet34": _classifier(resnet.resnet34),
    "resnet50": _classifier(resnet.resnet50),
    "resnet101": _classifier(resnet.resnet101),
    "resnet152": _classifier(resnet.resnet152),
    "vit_tiny": _classifier(vit.vit_tiny, has_positions=True),
    "vit_small": _classifier(vit.vit_small, has_positions=True),
    "vit_base": _classifier(vit.vit_base, has_positions=True),
    "vit_large": _classifier(vit.vit_large, has_positions=True),
    "unet_cifar10": _denoiser(unet.unet_cifar10, small_pictures),
    "unet_digits": _denoiser(unet.unet_digits, digits),
}
PUBLIC = {name: _public(*parts) for name, parts in public.BUILDERS.items()}


def find(name: str) -> Model:
    """The model of this name; "NAME@SIZE" is the same for pictures of SIZE by SIZE."""
    plain, _, size = name.partition("@")
    model = MODELS.get(plain) or PUBLIC[plain]
    return model.sized(int(size)) if size else model


def seeded(name: str, nn=torch.nn, seed: int = 0) -> torch.nn.Module:
    """The model with random weights that depend on `seed` alone; the caller's random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = find(name).build(nn)
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
