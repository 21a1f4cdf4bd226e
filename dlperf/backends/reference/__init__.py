"""Plain torch: any device, any dtype, float64 too. The truth that every other backend is tested against.

Each function is made of differentiable torch operators, so that it can stand in for a missing
derivative of any order.
"""

from __future__ import annotations

from .activation import *  # noqa: F403
from .add import *  # noqa: F403
from .attention import *  # noqa: F403
from .batch_norm import *  # noqa: F403
from .channel_sum import *  # noqa: F403
from .conv import *  # noqa: F403
from .cross_entropy import *  # noqa: F403
from .diffusion import *  # noqa: F403
from .dropout import *  # noqa: F403
from .embedding import *  # noqa: F403
from .glu import *  # noqa: F403
from .group_norm import *  # noqa: F403
from .layer_norm import *  # noqa: F403
from .loss import *  # noqa: F403
from .matmul import *  # noqa: F403
from .pixel_shuffle import *  # noqa: F403
from .pool import *  # noqa: F403
from .recurrent import *  # noqa: F403
from .softmax import *  # noqa: F403
from .upsample import *  # noqa: F403


def why_not(op: str, *args) -> str | None:
    return None if op in globals() else f"the reference backend has no {op}"


def available() -> str | None:
    return None


def why_not_dtype(dtype) -> str | None:
    return None
