"""Which configuration a call gets: the default of the source, or what a search on this machine found.

With DLPERF_AUTOTUNE=1 the first call of a problem times the family's candidates, default first, for two seconds at
most, and keeps the best in the user's cache, by card and triton version. Without it nothing is ever timed, and what an
earlier search stored is used.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import triton

from ._launch import INTERPRETED, is_recording, records_candidates

SEARCHES = os.environ.get("DLPERF_AUTOTUNE", "") not in ("", "0")
_MILLISECONDS = 20  # of each candidate
SECONDS = 2.0  # of a search: a candidate is not begun after them

_stored: dict[str, dict[str, list]] = {}


def _file(device: torch.device) -> Path:
    from .verified import cache_folder, slug

    return cache_folder() / f"tuned-{slug(torch.cuda.get_device_name(device))}-triton-{triton.__version__}.json"


def _load(device: torch.device) -> dict[str, list]:
    path = _file(device)
    if str(path) not in _stored:
        try:
            _stored[str(path)] = json.loads(path.read_text())
        except (OSError, ValueError):
            _stored[str(path)] = {}
    return _stored[str(path)]


def choose(
    device: torch.device, problem: str, default: tuple, candidates: Sequence[tuple], run: Callable[[tuple], None]
) -> tuple:
    """The configuration of this problem; ``run(configuration)`` launches it, and may run many times."""
    if records_candidates():  # all of them ship
        for candidate in candidates:
            if candidate != default:
                run(candidate)
        return default
    if device.type != "cuda" or INTERPRETED:
        return default
    found = _load(device)
    if problem in found:
        known = tuple(found[problem])
        return known if known in candidates else default
    if not SEARCHES or is_recording() or torch.cuda.is_current_stream_capturing():
        return default
    times, start = {}, time.monotonic()
    for candidate in dict.fromkeys((default, *candidates)):
        if times and time.monotonic() - start > SECONDS:
            break
        try:
            times[candidate] = triton.testing.do_bench(lambda c=candidate: run(c), warmup=5, rep=_MILLISECONDS)
        except triton.runtime.errors.OutOfResources:
            continue
    best = min(times, key=times.get) if times else default
    found[problem] = list(best)
    path = _file(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(found, indent=0))
    temporary.replace(path)
    return best
