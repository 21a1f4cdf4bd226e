"""The denoisers that `dlperf train-ddpm` trains, by name, and those read back from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from .checkpoint import CheckpointError, load

SHIPPED = Path(__file__).with_name("digits.safetensors")
KINDS = ("unet", "dit")


def default_config(kind: str, channels: int, size: int, classes: int, steps: int = 1000) -> dict:
    """A model for pictures of this size: what :func:`build` takes.

    Raises ValueError for an unknown kind or a size that the kind can't halve or cut into patches.
    """
    common = {"kind": kind, "channels": channels, "steps": steps, "classes": classes}
    if kind == "dit":
        patch = 2 if size <= 32 else 4
        if size % patch:
            raise ValueError(f"expected pictures whose size is a multiple of {patch}, got {size}")
        return common | {"size": size, "patch": patch, "width": 128, "depth": 4, "heads": 4}
    if kind != "unet":
        raise ValueError(f"expected a model of {', '.join(KINDS)}, got {kind!r}")
    if size <= 16:
        shape = {"widths": [32, 64], "depth": 1, "attention": [1], "groups": 8}
    elif size <= 28:
        shape = {"widths": [64, 128, 128], "depth": 1, "attention": [1], "groups": 16}
    else:
        shape = {"widths": [128, 256, 256, 256], "depth": 2, "attention": [1], "groups": 32}
    halvings = 2 ** (len(shape["widths"]) - 1)
    if size % halvings:
        raise ValueError(f"expected pictures whose size is a multiple of {halvings}, got {size}")
    return common | shape


def build(config: dict, nn=None) -> torch.nn.Module:
    """The model of a configuration, over dlperf's layers or those of another namespace."""
    if nn is None:
        from .. import nn
    arguments = dict(config)
    kind = arguments.pop("kind", None)
    if kind == "unet":
        from ..benchmarks.models.unet import UNet

        return UNet(nn, **arguments)
    if kind == "dit":
        from .dit import DiT

        return DiT(nn, **arguments)
    raise ValueError(f"expected a model of {', '.join(KINDS)}, got {kind!r}")


def load_model(path: str | Path | None = None, nn=None) -> tuple[torch.nn.Module, dict]:
    """A checkpoint's model in eval mode, with the averaged weights in float32, and what the checkpoint says of itself.

    Args:
        path: a file that `dlperf train-ddpm` wrote; None: the digits that ship with dlperf.

    Raises CheckpointError for a file that is truncated, foreign, or does not fit the model it names.
    """
    path = SHIPPED if path is None else Path(path)
    tensors, info = load(path)
    weights = {k.removeprefix("ema."): t.float() for k, t in tensors.items() if k.startswith("ema.")}
    try:
        model = build(info["model"], nn)
        model.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the weights do not fit the model it names: {error}".splitlines()[0]) from None
    return model.eval(), info
