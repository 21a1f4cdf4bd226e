"""Which kernels have passed their tests on a GPU: the others are not chosen by "auto" there.

``dlperf check --device cuda --backend triton --record FILE`` writes a record: the card, and for each family the hash
of the sources that passed. Records that ship lie in ``benchmarks/results/<device>/verified.json``; a machine's own in
the user's cache, ``$XDG_CACHE_HOME/dlperf/verified-<card>.json``. A family counts as verified on a card where either
names it with the sources as they are and the same triton.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from functools import lru_cache
from pathlib import Path

import torch
import triton

_HERE = Path(__file__).parent


def slug(device_name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-")


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlperf"


def cached_record(device_name: str) -> Path:
    return cache_folder() / f"verified-{slug(device_name)}.json"


def _records(device_name: str) -> list[Path]:
    from dlperf import benchmarks

    shipped = Path(benchmarks.__file__).parent / "results" / slug(device_name) / "verified.json"
    return [shipped, cached_record(device_name)]


def sources(family: str) -> list[Path]:
    """The family's file, what all families share, and the other families' files that these import."""
    found, waiting = set(), [*_HERE.glob("_[a-z]*.py"), _HERE / f"{family}.py"]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            imported = re.findall(r"^from \.(\w+) import", path.read_text(), re.M)
            waiting += [_HERE / f"{name}.py" for name in imported]
    return sorted(found)


@lru_cache(maxsize=64)
def source_hash(family: str) -> str:
    digest = hashlib.sha256()
    for path in sources(family):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def matches(record: dict, family: str) -> bool:
    return record.get("triton") == triton.__version__ and record.get("families", {}).get(family) == source_hash(family)


def write(path: Path, device_name: str, passed: list[str]) -> None:
    """Records that these families passed on this card, beside what the file holds for the same versions."""
    try:
        before = json.loads(path.read_text())
    except (OSError, ValueError):
        before = {}
    same = before.get("triton") == triton.__version__
    families = {**(before.get("families", {}) if same else {}), **{f: source_hash(f) for f in passed}}
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"device": device_name, "triton": triton.__version__, "torch": torch.__version__, "families": families}
    path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    why_not.cache_clear()


@lru_cache(maxsize=1024)
def why_not(family: str, device_index: int) -> str | None:
    """None where the family is verified on this card, else the reason."""
    name = torch.cuda.get_device_name(device_index)
    for path in _records(name):
        try:
            if matches(json.loads(path.read_text()), family):
                return None
        except (OSError, ValueError):
            continue
    return (
        f"the {family} kernels are unverified on {name}: `dlperf check --device cuda --backend triton --record` "
        "verifies them on this machine"
    )
