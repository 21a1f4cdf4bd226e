"""CPU kernels of ``csrc/cpu``: float32, bfloat16 and float16, chosen by instruction set at run time."""

from __future__ import annotations

from torch import Tensor

from ._library import FLOATS, C, environment_error, load_error, why_not_dtype  # noqa: F401
from .activation import *  # noqa: F403
from .add import *  # noqa: F403
from .attention import *  # noqa: F403
from .batch_norm import *  # noqa: F403
from .batch_norm import BATCH_NORM_RULES
from .channel_sum import *  # noqa: F403
from .conv import *  # noqa: F403
from .cross_entropy import *  # noqa: F403
from .diffusion import *  # noqa: F403
from .diffusion import DIFFUSION_RULES
from .dropout import *  # noqa: F403
from .embedding import *  # noqa: F403
from .embedding import EMBEDDING_RULES
from .glu import *  # noqa: F403
from .group_norm import *  # noqa: F403
from .group_norm import GROUP_NORM_RULES
from .layer_norm import *  # noqa: F403
from .layer_norm import LAYER_NORM_RULES
from .loss import *  # noqa: F403
from .loss import LOSS_RULES
from .matmul import *  # noqa: F403
from .pixel_shuffle import *  # noqa: F403
from .pool import *  # noqa: F403
from .pool import POOL_RULES
from .recurrent import *  # noqa: F403
from .recurrent import RECURRENT_TENSORS
from .softmax import *  # noqa: F403
from .upsample import *  # noqa: F403

# Operators with a rule of their own beside "same floating dtype": name -> why_not(*args).
SPECIAL_RULES: dict = {
    "cross_entropy": why_not_cross_entropy,  # noqa: F405
    "cross_entropy_bwd": why_not_cross_entropy_bwd,  # noqa: F405
    "dropout": why_not_dropout,  # noqa: F405
    "attention": why_not_attention,  # noqa: F405
    "attention_bwd": why_not_attention_bwd,  # noqa: F405
}
SPECIAL_RULES.update(BATCH_NORM_RULES)
SPECIAL_RULES.update(POOL_RULES)
SPECIAL_RULES.update(LAYER_NORM_RULES)
SPECIAL_RULES.update(GROUP_NORM_RULES)
SPECIAL_RULES.update(DIFFUSION_RULES)
SPECIAL_RULES.update(EMBEDDING_RULES)
SPECIAL_RULES.update(LOSS_RULES)


# Which arguments of an operator are tensors.
_tensor_slots: dict[str, tuple[int, ...]] = {}


def why_not(op: str, *args) -> str | None:
    if load_error is not None:
        return load_error
    if op not in globals():
        return f"the cpu backend has no kernel for {op}"
    if op in RECURRENT_TENSORS:
        return same_floating_dtype(RECURRENT_TENSORS[op](args))
    special = SPECIAL_RULES.get(op)
    if special is not None:
        return special(*args)
    slots = _tensor_slots.get(op)
    if slots is None:
        from ...ops._frame import OPERATORS

        slots = _tensor_slots[op] = OPERATORS[op].tensor_slots
    return same_floating_dtype([args[slot] for slot in slots])


def same_floating_dtype(args) -> str | None:
    """The common rule: every tensor on the CPU, all of one dtype, and that one served."""
    dtype = None
    for arg in args:
        if isinstance(arg, Tensor):
            if not arg.is_cpu:
                return f"a tensor is on {arg.device}"
            if dtype is None:
                dtype = arg.dtype
                if dtype not in FLOATS:
                    return why_not_dtype(dtype)
            elif arg.dtype is not dtype:
                return "the tensors' dtypes differ"
    return None


def available() -> str | None:
    """None where the kernels are loaded, else why they are not."""
    return load_error


def isa() -> str:
    """The instruction set in use: the processor's best, capped by DLPERF_ISA."""
    return C.isa()
