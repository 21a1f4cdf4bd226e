"""What attention's kernels are launched with: tiles by card and head dimension, and which calls have few keys."""

from __future__ import annotations

from torch import Tensor

from ._launch import INTERPRETED, TRITON, capability
from ._short_attention import tiles

# (BLOCK_M, BLOCK_N, warps, stages) by (direction, capability, bytes of an element, padded head dimension).
# Chosen by the ahead-of-time table; not yet measured on a GPU.
CONFIGURATIONS = {
    ("forward", 90, 2, 64): ((128, 64, 4, 3), (64, 64, 4, 3)),
    ("forward", 90, 2, 128): ((128, 64, 8, 3), (64, 64, 4, 2)),
    ("forward", 80, 2, 64): ((128, 64, 8, 2),),
    ("forward", 80, 2, 128): ((128, 32, 8, 2),),
    ("forward", 80, 2, 256): ((64, 32, 8, 1),),
    ("forward", 80, 4, 64): ((64, 32, 8, 1),),
    ("forward", 80, 4, 128): ((32, 32, 8, 1),),
    ("forward", 80, 4, 256): ((32, 16, 8, 1),),
    ("backward", 90, 2, 64): ((64, 64, 4, 2), (64, 64, 8, 2)),
    ("backward", 90, 2, 128): ((64, 64, 8, 2),),
    ("backward", 80, 2, 64): ((64, 32, 8, 1),),
    ("backward", 80, 2, 128): ((32, 64, 8, 1),),
    ("backward", 80, 2, 256): ((32, 32, 8, 1),),
    ("backward", 80, 4, 64): ((32, 32, 8, 1),),
    ("backward", 80, 4, 128): ((16, 32, 8, 1),),
    ("backward", 80, 4, 256): ((16, 16, 8, 1),),
}
if TRITON < (3, 9):  # whose ptxas needs more registers
    CONFIGURATIONS["forward", 90, 2, 64] = ((128, 64, 8, 3), (64, 64, 4, 3))
    CONFIGURATIONS["backward", 90, 2, 64] = ((64, 64, 8, 2),)
    CONFIGURATIONS["backward", 90, 2, 128] = ((64, 32, 8, 2), (64, 64, 8, 1))
# A mask's addresses and dropout's words take the registers of half a tile.
WITH_MASK_OR_DROPOUT = {"forward": (64, 64, 8, 1), "backward": (64, 32, 8, 1)}


def configurations(direction: str, q: Tensor, constants: dict) -> tuple[tuple, ...]:
    if INTERPRETED:
        return ((64, 64, 4, 2),)
    width = max(constants["E"], constants["EV"])
    if q.itemsize == 2 and width <= 128 and (constants["DROPOUT"] or constants["MASK"] != "none"):
        return (WITH_MASK_OR_DROPOUT[direction],)
    key = (q.itemsize, max(64, width))
    hopper = CONFIGURATIONS.get((direction, 90, *key)) if capability(q.device) // 10 == 9 else None
    return hopper or CONFIGURATIONS[(direction, 80, *key)]


# Of _short_attention's kernels: (most keys, capabilities, *(BLOCK_M, warps)), fewest keys first, for heads of up to
# SHORT_HEAD. What was compiled ahead of time without spills; not yet measured on a GPU.
SHORT = {
    "forward": ((64, (80, 90), (64, 4)), (272, (80, 90), (64, 4)), (640, (90,), (64, 8))),
    "backward": ((64, (80, 90), (64, 4)), (208, (90,), (64, 4))),
}
if TRITON < (3, 9):
    SHORT = {
        "forward": SHORT["forward"][:2],
        "backward": ((64, (90,), (64, 8)), (64, (80,), (64, 4)), (80, (90,), (64, 8))),
    }
SHORT_HEAD = 64


def few_keys(direction: str, q: Tensor, k: Tensor, constants: dict) -> tuple[tuple[int, int], ...]:
    """(BLOCK_M, warps) of the kernels for few keys, best first; none where they do not take the call."""
    if max(constants["E"], constants["EV"]) > SHORT_HEAD or (q.itemsize == 4 and not INTERPRETED):
        return ()
    keys, chip = k.shape[2], 90 if INTERPRETED else capability(q.device) // 10 * 10
    # A mask's addresses and dropout's words have no room beside more scores.
    plain = constants["MASK"] == "none" and not constants["DROPOUT"]
    found = next((c for most, chips, *c in SHORT[direction] if keys <= most and chip in chips), ())
    return tuple(found) if plain or keys <= SHORT[direction][0][0] or INTERPRETED else ()


def tile_constants(keys: int) -> dict:
    return dict(zip(("N0", "N1", "N2"), tiles(keys), strict=True))
