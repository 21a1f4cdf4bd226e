"""Which configuration a call gets: the default of the source, or what a search on this machine found.

With DLPERF_AUTOTUNE=1 the first call of a problem times the family's candidates, default first, for two seconds at
most in all, and keeps the best in the user's cache, by card and triton version. Without it nothing is ever timed, and
what an earlier search stored is used, or else what was measured on such a card and ships:
``benchmarks/results/<device>/tuned.json``, which ``gpu_kernels --tuned`` writes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import triton

from dlperf.backends.record import cache_folder, slug

from ._launch import INTERPRETED, is_recording, records_candidates

SEARCHES = os.environ.get("DLPERF_AUTOTUNE", "") not in ("", "0")
_MILLISECONDS = 20  # of each candidate
SECONDS = 2.0  # of all searches of a call

_stored: dict[int | None, dict[str, list]] = {}  # by device


def stored_in(device: torch.device) -> Path:
    """Where searches on this card are kept."""
    name = slug(torch.cuda.get_device_name(device))
    return cache_folder() / f"tuned-{name}-triton-{triton.__version__}.json"


def shipped_for(device: torch.device) -> Path:
    """What was measured on such a card, if it was. A configuration serves with any triton."""
    from dlperf import benchmarks

    name = slug(torch.cuda.get_device_name(device))
    return Path(benchmarks.__file__).parent / "results" / name / "tuned.json"


def _load(device: torch.device) -> dict[str, list]:
    """Configurations by problem: what ships, and over it what was found here."""
    found = _stored.get(device.index)
    if found is None:
        found = _stored[device.index] = {**_read(shipped_for(device)), **_read(stored_in(device))}
    return found


def _read(path: Path) -> dict[str, list]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def choose(
    device: torch.device,
    problem: tuple,
    default: tuple,
    candidates: Sequence[tuple],
    run: Callable[[tuple], object],
    searches: int = 1,
) -> tuple:
    """The configuration of this problem; ``run(configuration)`` launches it, and may run many times.

    problem: what tells it from others, words and numbers.
    searches: how many a call of the operator makes; they share the time.
    """
    if records_candidates():  # all of them ship
        for candidate in candidates:
            if candidate != default:
                run(candidate)
        return default
    if device.type != "cuda" or INTERPRETED:
        return default
    found = _load(device)
    if not found and not SEARCHES:
        return default
    name = " ".join(map(str, problem))
    if name in found:
        known = tuple(found[name])
        return known if known in candidates else default
    if not SEARCHES or is_recording() or torch.cuda.is_current_stream_capturing():
        return default
    best = _search(default, candidates, run, SECONDS / searches)
    found[name] = list(best)
    path = stored_in(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(found, indent=0))
    temporary.replace(path)
    return best


def _search(default: tuple, candidates: Sequence[tuple], run: Callable[[tuple], object], seconds: float) -> tuple:
    """The fastest of those that there was time for."""
    run(default)  # which is compiled in any case: no part of the search
    times: dict[tuple, float] = {}
    start, longest = time.monotonic(), 0.0
    for candidate in dict.fromkeys((default, *candidates)):
        begun = time.monotonic()
        if begun - start + longest > seconds:  # it might end too late
            break
        try:
            times[candidate] = triton.testing.do_bench(lambda c=candidate: run(c), warmup=5, rep=_MILLISECONDS)
        except triton.runtime.errors.OutOfResources:
            continue
        finally:
            longest = max(longest, time.monotonic() - begun)
    return min(times, key=times.get) if times else default
