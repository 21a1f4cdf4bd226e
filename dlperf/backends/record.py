"""Which kernels have passed their tests on a GPU: the others are not chosen by "auto" there.

``dlperf check --device cuda --backend NAME --record FILE`` writes a record: the card, and for each family the hash of
the sources that passed. Records that ship lie in ``benchmarks/results/<device>/``; a machine's own in the user's cache,
``$XDG_CACHE_HOME/dlperf/``. A family counts as verified on a card where either names it with the sources as they are
and the same compiler.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import torch


def slug(device_name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-")


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlperf"


class Verified:
    """One backend's records.

    Args:
        backend: its name.
        compiler: what makes its kernels, as the record names it, and its version.
        source_hash: of a family's sources.
        file: the record's name.
    """

    def __init__(self, backend: str, compiler: tuple[str, str], source_hash: Callable[[str], str], file: str):
        self.backend, self.compiler, self.source_hash, self.file = backend, compiler, source_hash, file
        self._reasons: dict[tuple[str, int], str | None] = {}

    def cached_record(self, device_name: str) -> Path:
        return cache_folder() / f"{self.file}-{slug(device_name)}.json"

    def _records(self, device_name: str) -> list[Path]:
        from dlperf import benchmarks

        shipped = Path(benchmarks.__file__).parent / "results" / slug(device_name) / f"{self.file}.json"
        return [shipped, self.cached_record(device_name)]

    def matches(self, record: dict, family: str) -> bool:
        name, version = self.compiler
        return record.get(name) == version and record.get("families", {}).get(family) == self.source_hash(family)

    def write(self, path: Path, device_name: str, passed: list[str]) -> None:
        """Records that these families passed on this card, beside what the file holds for the same versions."""
        name, version = self.compiler
        try:
            before = json.loads(path.read_text())
        except (OSError, ValueError):
            before = {}
        families = before.get("families", {}) if before.get(name) == version else {}
        families = {**families, **{f: self.source_hash(f) for f in passed}}
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"device": device_name, name: version, "torch": torch.__version__, "families": families}
        path.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        self._reasons.clear()

    def why_not(self, family: str, device_index: int) -> str | None:
        """None where the family is verified on this card, else the reason."""
        key = (family, device_index)
        if key not in self._reasons:
            self._reasons[key] = self._find(family, torch.cuda.get_device_name(device_index))
        return self._reasons[key]

    def _find(self, family: str, name: str) -> str | None:
        for path in self._records(name):
            try:
                if self.matches(json.loads(path.read_text()), family):
                    return None
            except (OSError, ValueError):
                continue
        return (
            f"the {family} kernels are unverified on {name}: `dlperf check --device cuda --backend {self.backend} "
            "--record` verifies them on this machine"
        )
