"""dlperf.optimize(model): the one-line speed-up."""

from __future__ import annotations

from torch import nn as torch_nn

from .report import Report, report
from .swap import swap_layers

MODES = ("train",)

__all__ = ["MODES", "Report", "optimize", "report"]


def optimize(model: torch_nn.Module, mode: str = "train") -> torch_nn.Module:
    """A model that computes the same with faster layers.

    Args:
        model: any torch.nn.Module. It is left as it is.
        mode: "train" returns a model whose torch layers are exchanged, one to one, for dlperf's. It shares the
            model's Parameters and buffers, so either model trains both, and state_dicts are the same.

    Returns:
        The optimized model, of the same class as ``model``. ``dlperf.report`` tells which layers are served by what.

    Raises:
        TypeError: ``model`` is no Module, or one that can't be copied layer by layer (compiled, scripted or wrapped
            for data-parallel training: optimize the inner model first).
        ValueError: an unknown mode.
    """
    if not isinstance(model, torch_nn.Module):
        raise TypeError(f"optimize(): argument 'model' must be a torch.nn.Module, not {type(model).__name__}")
    if mode not in MODES:
        raise ValueError(f"optimize(): argument 'mode' must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
    return swap_layers(model)
