"""The Triton kernels' records (:mod:`dlperf.backends.record`): which families have passed on a card."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import triton

from dlperf.backends.record import Verified

_HERE = Path(__file__).parent


@lru_cache(maxsize=64)
def source_hash(family: str) -> str:
    """Of the family's file and of what all families share."""
    digest = hashlib.sha256()
    for path in (*sorted(_HERE.glob("_[a-z]*.py")), _HERE / f"{family}.py"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


_verified = Verified("triton", ("triton", triton.__version__), source_hash, "verified")
cached_record, matches = _verified.cached_record, _verified.matches
write, why_not = _verified.write, _verified.why_not
