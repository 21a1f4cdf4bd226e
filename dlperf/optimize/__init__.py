"""dlperf.optimize(model): the one-line speed-up."""

from __future__ import annotations

import torch
from torch import nn as torch_nn

from .inference import InferenceModel
from .report import Report, report
from .swap import swap_layers
from .training import capture_training

MODES = ("train", "inference")

__all__ = ["MODES", "Report", "optimize", "report"]


def optimize(
    model: torch_nn.Module, mode: str = "train", dtype: torch.dtype | None = None, capture: bool = True
) -> torch_nn.Module:
    """A model that computes the same with faster layers.

    Args:
        model: any torch.nn.Module. It is left as it is.
        mode: "train" returns a model whose torch layers are exchanged, one to one, for dlperf's. It shares the
            model's Parameters and buffers, so either model trains both, and state_dicts are the same. What its own
            modules call of torch's functions (attention, products, norms, activations) is exchanged as well; such
            modules are of subclasses with the names of their classes. Under activation checkpointing, and for
            attention with dropout, torch's functions stay.
            A training step whose like has been seen runs from plans, see ``capture``.
            "inference" returns an :class:`~dlperf.optimize.inference.InferenceModel`: a snapshot in eval mode, captured
            at the first call of each kind of input, with batch norm folded, operators fused and weights packed. What
            can't be captured runs layer by layer. It has the model's attributes and state_dict.
        dtype: with "inference": parameters and floating inputs are cast to it, and floating results are of it.
        capture: with "train", on the CPU: calls in training whose like (sizes, dtypes, numbers, autocast) has been seen
            before run as two sequences of kernels, forward and backward, recorded at the second call and compared with
            what the layers give before they are used. Changes of parameters, submodules, hooks and plain attributes are
            seen. What can't be captured runs layer by layer, and ``dlperf.report`` says why. A forward that depends
            on anything else that changes (global variables, Python's random numbers) needs ``capture=False``.

    Returns:
        The optimized model. ``dlperf.report`` tells what is served by what.

    Raises:
        TypeError: ``model`` is no Module, or one that can't be copied layer by layer (compiled, scripted or wrapped
            for data-parallel training: optimize the inner model first); ``dtype`` is no floating dtype, ``capture`` no
            bool.
        ValueError: an unknown mode, a dtype with mode="train", or ``capture=False`` with mode="inference".
    """
    if not isinstance(model, torch_nn.Module):
        raise TypeError(f"optimize(): argument 'model' must be a torch.nn.Module, not {type(model).__name__}")
    if mode not in MODES:
        raise ValueError(f"optimize(): argument 'mode' must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(f"optimize(): argument 'dtype' must be a floating torch.dtype or None, got {dtype!r}")
    if not isinstance(capture, bool):
        raise TypeError(f"optimize(): argument 'capture' must be a bool, not {type(capture).__name__}")
    if mode == "inference":
        if not capture:
            raise ValueError("optimize(): argument 'capture' goes with mode='train'; inference is always captured")
        return InferenceModel(model, dtype)
    if dtype is not None:
        raise ValueError("optimize(): argument 'dtype' goes with mode='inference'; train with torch.autocast instead")
    swapped = swap_layers(model, exchange_functions=True)
    return capture_training(swapped) if capture else swapped
