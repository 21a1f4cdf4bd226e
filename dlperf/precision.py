"""How exactly float32 is computed: ``fast`` (the default) or ``strict``."""

from __future__ import annotations

import os
import threading

MODES = ("fast", "strict")
VARIABLE = "DLPERF_PRECISION"


class _State(threading.local):
    mode: str | None = None


_state = _State()


def _check(mode: str, origin: str) -> str:
    if mode not in MODES:
        raise ValueError(f"{origin}: expected one of {', '.join(MODES)}, got {mode!r}")
    return mode


_default = os.environ.get(VARIABLE) or "fast"


class precision:
    """Sets how exactly sums are computed inside a ``with`` block, for the calling thread.

    Args:
        mode: "fast": 3x3 convolutions use Winograd's algorithm where it pays; its error stays within 1e-5 of a layer's
            largest output (measured: about 2e-6) and within 1e-4 of a model's, in float32. bfloat16 and float16 are
            widened to float32 for it, so that their own rounding is all one sees.
            "strict": every sum is computed directly, with the error of torch's own operators. (On AMX float32 is
            multiplied in three exact parts in either mode: with float32's error, docs/math/matmul.md.)

    A backward pass follows the mode in effect when it runs. The mode outside of any block is "fast", or what the
    environment variable DLPERF_PRECISION names.

    Raises:
        ValueError: ``mode`` is no mode's name.
    """

    def __init__(self, mode: str):
        self.mode = _check(mode, "precision(mode)")

    def __enter__(self) -> precision:
        self._before = _state.mode
        _state.mode = self.mode
        return self

    def __exit__(self, *exc) -> None:
        _state.mode = self._before


def check_environment() -> None:
    """Raises ValueError where DLPERF_PRECISION holds something that is no mode's name."""
    _check(_default, f"environment variable {VARIABLE}")


def strict() -> bool:
    """Whether the calling thread computes every sum directly."""
    mode = _state.mode or _default
    if mode not in MODES:
        check_environment()
    return mode == "strict"
