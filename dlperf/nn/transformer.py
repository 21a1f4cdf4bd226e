"""Transformer layers, as torch.nn's: the same modules inside, dlperf's classes, none of torch's inference-only paths.

Torch's encoder drops padded positions in inference (they come out as zeros); here they are computed like in training.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from . import functional as F

_FUNCTIONS = {torch.nn.functional.relu: F.relu, torch.relu: F.relu, torch.nn.functional.gelu: F.gelu}


def _prepare(layer) -> None:
    """Of an encoder or decoder layer just made: an activation module is the caller's, so a copy takes over."""
    if isinstance(layer.activation, torch.nn.Module):
        layer.activation = copy.copy(layer.activation)
    _take_over(*layer.children())


def _take_over(*modules: torch.nn.Module) -> None:
    """Gives every layer that dlperf has, inside too, the class of dlperf's; parameters and names stay."""
    from . import LAYERS

    for module in modules:
        ours = LAYERS.get(type(module))
        if ours is not None:
            module.__class__ = ours
        _take_over(*module.children())


def _is_causal(mask: Tensor | None, length: int) -> bool:
    """Whether a [length, length] mask hides exactly the later positions, and does nothing else."""
    if mask is None or mask.shape != (length, length):
        return False
    hidden = mask if mask.dtype is torch.bool else mask == -torch.inf
    later = torch.ones_like(hidden).triu_(1)
    return bool((hidden == later).all()) and (mask.dtype is torch.bool or not bool(mask.tril().any()))


class TransformerEncoderLayer(torch.nn.TransformerEncoderLayer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        _prepare(self)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        x = src
        if self.norm_first:
            x = x + self._sa_block(self.norm1(x), src_mask, src_key_padding_mask, is_causal=is_causal)
            return x + self._ff_block(self.norm2(x))
        x = self.norm1(x + self._sa_block(x, src_mask, src_key_padding_mask, is_causal=is_causal))
        return self.norm2(x + self._ff_block(x))

    def _ff_block(self, x: Tensor) -> Tensor:
        activation = _FUNCTIONS.get(self.activation, self.activation)
        return self.dropout2(self.linear2(self.dropout(activation(self.linear1(x)))))


class TransformerDecoderLayer(torch.nn.TransformerDecoderLayer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        _prepare(self)

    def _ff_block(self, x: Tensor) -> Tensor:
        activation = _FUNCTIONS.get(self.activation, self.activation)
        return self.dropout3(self.linear2(self.dropout(activation(self.linear1(x)))))


class TransformerEncoder(torch.nn.TransformerEncoder):
    """``enable_nested_tensor`` and ``mask_check`` are taken and not used."""

    def __init__(self, encoder_layer, num_layers, norm=None, enable_nested_tensor=True, mask_check=True):
        super().__init__(encoder_layer, num_layers, norm, False, mask_check)
        self.enable_nested_tensor = enable_nested_tensor
        _take_over(*self.layers)

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        if is_causal is None:
            batch_first = src.dim() == 3 and self.layers[0].self_attn.batch_first
            is_causal = _is_causal(mask, src.shape[1 if batch_first else 0])
        output = src
        for layer in self.layers:
            output = layer(output, src_mask=mask, is_causal=is_causal, src_key_padding_mask=src_key_padding_mask)
        return output if self.norm is None else self.norm(output)


class TransformerDecoder(torch.nn.TransformerDecoder):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        _take_over(*self.layers)


class Transformer(torch.nn.Transformer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        given = (*args, *kwargs.values())
        # A custom encoder or decoder is its owner's: its class is not for us to change.
        _take_over(*(m for m in (self.encoder, self.decoder) if not any(m is g for g in given)))
