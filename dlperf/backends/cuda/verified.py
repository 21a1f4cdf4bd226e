"""The CUDA kernels' records (:mod:`dlperf.backends.record`): one hash of all sources, taken when they were built."""

from __future__ import annotations

from ..record import Verified
from ._library import C

_verified = Verified("cuda", ("nvcc", C.TOOLKIT), lambda family: C.SOURCE_HASH, "verified-cuda")
cached_record, matches = _verified.cached_record, _verified.matches
write, why_not = _verified.write, _verified.why_not
