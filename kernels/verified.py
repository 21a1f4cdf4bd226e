"""The Triton kernels' records (:mod:`dlperf.backends.record`): which families have passed on a card."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path

import triton

from dlperf.backends.record import Verified

_HERE = Path(__file__).parent


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


_verified = Verified("triton", ("triton", triton.__version__), source_hash, "verified")
cached_record, matches = _verified.cached_record, _verified.matches
write, why_not = _verified.write, _verified.why_not
