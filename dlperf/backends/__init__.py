"""Which implementation serves a call.

A backend is a module with any subset of the operators' names as functions, and
``why_not(op, *args) -> str | None``: None where it serves the call, else the reason in one sentence.
``select`` takes the first backend of the device's order that serves. A backend that the user names
(:class:`backend`, ``DLPERF_BACKEND``) serves or raises :class:`dlperf.errors.BackendError`.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections import Counter
from types import ModuleType

from torch import Tensor

from .. import precision
from ..errors import BackendError

NAMES = ("cpu", "cuda", "triton", "reference")
ORDER = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}
OTHER_DEVICES = ("reference",)

_modules: dict[str, ModuleType] = {}


class _State(threading.local):
    named: str | None = None  # what the user asked for: serves or raises
    preferred: str | None = None  # what forward used: tried first
    trace: list | None = None


_state = _State()
_fallbacks: Counter = Counter()


def load(name: str) -> ModuleType:
    """The backend's module, imported on first use."""
    module = _modules.get(name)
    if module is None:
        module = importlib.import_module(f"{__name__}.{name}")
        if getattr(module, "environment_error", None):
            raise ValueError(module.environment_error)
        _modules[name] = module
    return module


def _check_name(name: str, origin: str) -> str:
    if name not in (*NAMES, "auto"):
        raise ValueError(f"{origin}: expected one of {', '.join(('auto', *NAMES))}, got {name!r}")
    return name


_default_named = os.environ.get("DLPERF_BACKEND") or None


def check_environment() -> None:
    """Raises ValueError where a DLPERF_ variable (BACKEND, ISA, FLOAT32_TILES, PRECISION) holds what it can't be."""
    precision.check_environment()
    if _default_named is not None:
        _check_name(_default_named, "environment variable DLPERF_BACKEND")
    load("cpu")


class backend:
    """Pins the backend inside a ``with`` block, for the calling thread.

    Args:
        name: "cpu", "cuda", "triton", "reference", or "auto" (the first that serves).

    Calls that the backend can't serve raise :class:`dlperf.errors.BackendError` with the reason.
    """

    def __init__(self, name: str):
        self.name = _check_name(name, "backend(name)")

    def __enter__(self) -> backend:
        self._before = _state.named
        _state.named = self.name
        return self

    def __exit__(self, *exc) -> None:
        _state.named = self._before


def choice(module: ModuleType) -> tuple:
    """What forward keeps of its choice, for :class:`prefer` in backward."""
    return short_name(module), threading.get_ident(), _state.named, _state.trace


class prefer:
    """Tries the chosen backend first inside the block: a backward pass stays with what forward used.

    Args:
        chosen: forward's :func:`choice`, or None. In another thread than forward's, as autograd has one for each GPU,
            the backend that the user named there is named here too, and calls are collected as there.
    """

    __slots__ = ("_before", "chosen")

    def __init__(self, chosen: tuple | None):
        self.chosen = chosen

    def __enter__(self) -> None:
        self._before = _state.preferred, _state.named, _state.trace
        _state.preferred = None
        if self.chosen is not None:
            _state.preferred, thread, named, calls = self.chosen
            if thread != threading.get_ident():
                _state.named, _state.trace = named, calls

    def __exit__(self, *exc) -> None:
        _state.preferred, _state.named, _state.trace = self._before


class trace:
    """Collects ``(operator, backend)`` of every call that the calling thread makes inside the block, gradients that
    autograd computes in its own threads included."""

    def __enter__(self) -> list[tuple[str, str]]:
        self._before = _state.trace
        _state.trace = []
        return _state.trace

    def __exit__(self, *exc) -> None:
        _state.trace = self._before


def named() -> str | None:
    """The backend that the user asked for, or None under "auto"."""
    name = _state.named if _state.named is not None else _default_named
    return None if name == "auto" else name


def is_asked_for(name: str) -> bool:
    """Whether the user named this backend, or a forward pass that used it now wants its gradient."""
    return named() == name or _state.preferred == name


def select(op: str, args: tuple) -> ModuleType:
    """The backend module that serves ``op`` on these arguments.

    Raises:
        BackendError: the user named a backend and it can't serve the call.
    """
    name = _state.named if _state.named is not None else _default_named
    if name is not None and name != "auto":
        if name not in NAMES:
            check_environment()
        module = load(name)
        reason = module.why_not(op, *args)
        if reason is not None:
            raise BackendError(f"{op}: the {name!r} backend was asked for and can't serve this call: {reason}")
    else:
        module = _first_that_serves(op, args)
    if _state.trace is not None:
        _state.trace.append((op, short_name(module)))
    return module


def _first_that_serves(op: str, args: tuple) -> ModuleType:
    order = ORDER.get(_device_type(args), OTHER_DEVICES)
    preferred = _state.preferred
    if preferred is not None and preferred in order:
        module = load(preferred)
        if module.why_not(op, *args) is None:
            return module
    for candidate in order:
        module = _modules.get(candidate) or load(candidate)
        reason = module.why_not(op, *args)
        if reason is None:
            return module
        _fallbacks[op, candidate, reason] += 1
    raise BackendError(f"{op}: no backend serves this call")


def kernel_serves(op: str, args: tuple) -> bool:
    """Whether a kernel, not the reference, would serve this call: where it is worth choosing ``op`` at all."""
    name = named()
    for candidate in ORDER.get(_device_type(args), OTHER_DEVICES) if name is None else (name,):
        if candidate != "reference" and load(candidate).why_not(op, *args) is None:
            return True
    return False


def select_after(failed: str, op: str, args: tuple) -> ModuleType:
    """The first backend behind ``failed`` that serves, for one call that it could not finish.

    Raises:
        BackendError: there is none.
    """
    order = ORDER.get(_device_type(args), OTHER_DEVICES)
    for candidate in order[order.index(failed) + 1 :] if failed in order else order:
        module = load(candidate)
        if module.why_not(op, *args) is None:
            return module
    raise BackendError(f"{op}: no backend behind {failed!r} serves this call")


def _device_type(args: tuple) -> str:
    for arg in args:
        if isinstance(arg, Tensor):
            return "cpu" if arg.is_cpu else arg.device.type
    return "cpu"


def short_name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def fallbacks() -> dict[tuple[str, str, str], int]:
    """How often, under "auto", a backend declined: ``(operator, backend, reason) -> calls`` since import."""
    return dict(_fallbacks)
