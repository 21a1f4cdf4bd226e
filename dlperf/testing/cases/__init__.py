"""Every operator's cases, family by family: the shapes that the tests, ``dlperf check`` and the documents share."""

from __future__ import annotations

import torch

from ._case import Case, Maker
from .activation import CASES as _activation
from .add import CASES as _add
from .attention import CASES as _attention
from .batch_norm import CASES as _batch_norm
from .conv import CASES as _conv
from .cross_entropy import CASES as _cross_entropy
from .diffusion import CASES as _diffusion
from .dropout import CASES as _dropout
from .embedding import CASES as _embedding
from .glu import CASES as _glu
from .gpu import GPU_CASES
from .group_norm import CASES as _group_norm
from .layer_norm import CASES as _layer_norm
from .loss import CASES as _loss
from .matmul import CASES as _matmul
from .pool import CASES as _pool
from .recurrent import CASES as _recurrent
from .resampling import CASES as _resampling
from .softmax import CASES as _softmax

FAMILIES: dict[str, list[Case]] = {
    "activation": _activation,
    "add": _add,
    "glu": _glu,
    "softmax": _softmax,
    "cross_entropy": _cross_entropy,
    "loss": _loss,
    "attention": _attention,
    "matmul": _matmul,
    "conv": _conv,
    "batch_norm": _batch_norm,
    "pool": _pool,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "diffusion": _diffusion,
    "resampling": _resampling,
    "embedding": _embedding,
    "recurrent": _recurrent,
    "dropout": _dropout,
}

__all__ = ["FAMILIES", "GPU_CASES", "Case", "Maker", "all_cases", "cases_on"]


def cases_on(device: str, family: str) -> list[Case]:
    """A family's cases, on a GPU with those that only its larger tiles need."""
    more = GPU_CASES.get(family, []) if torch.device(device).type == "cuda" else []
    return [*FAMILIES[family], *more]


def all_cases() -> list[tuple[str, Case]]:
    """(family, case) of every case, in the families' order."""
    return [(family, case) for family, cases in FAMILIES.items() for case in cases]
