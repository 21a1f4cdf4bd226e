"""results.json: one row per engine, and the machine. Everything printed or drawn is computed from it."""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import get_args

from .peers import BASELINE, ENGINES, PEERS

SCHEMA = 1
MODES = {
    "models": ("inference", "train"),
    "kernels": ("forward", "backward"),
    "public": ("inference",),
    "scaling": ("inference", "train", "forward", "backward"),
    "memory": ("inference", "train"),
    "diffusion": ("step", "sampling", "train", "latent"),
}


@dataclass
class Row:
    suite: str  # of MODES
    name: str  # a model, model/layer, or what diffusion.py names
    mode: str  # of MODES[suite]
    dtype: str
    batch: int
    engine: str
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    gflops: float | None = None  # GFLOP/s, for what is bound by arithmetic
    gbps: float | None = None  # GB/s, for what is bound by memory
    share_of_ceiling: float | None = None
    peak_mem_mb: float | None = None
    rel_err: float | None = None
    tolerance: float | None = None
    passed: bool | None = None  # the output was within the tolerance
    error: str | None = None
    flops: int | None = None
    bytes: int | None = None
    rounds: int = 0
    repeats: int = 1  # how often the model runs this layer
    label: str = ""
    axis: str = ""  # in the scaling suite: batch, resolution, sequence or threads ...
    value: int = 0  # ... and which

    @property
    def key(self) -> tuple:
        """What tells rows of one run apart."""
        return *self.case, self.axis, self.value, self.engine

    @property
    def case(self) -> tuple:
        """What rows that may be compared share."""
        return self.suite, self.name, self.mode, self.dtype, self.batch

    @property
    def comparable(self) -> bool:
        return self.median_ms is not None and self.passed is True


@dataclass
class Results:
    machine: dict
    settings: dict
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    schema: int = SCHEMA

    def save(self, path: Path):
        path.write_text(json.dumps(asdict(self), indent=1, allow_nan=False) + "\n")

    @classmethod
    def decode(cls, data, origin) -> "Results":
        problems = validate(data)
        if problems:
            raise ValueError(f"{origin} is no results file of schema {SCHEMA}: {problems[0]}")
        return cls(**{**data, "rows": [Row(**row) for row in data["rows"]]})

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Raises OSError where the file can't be read, ValueError where it is no results file."""
        try:
            return cls.decode(json.loads(Path(path).read_text()), path)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"{path} is no JSON: {error}") from None

    def cases(self, suite: str) -> dict[tuple, list[Row]]:
        """Rows by case, in the order of the run."""
        grouped = {}
        for row in self.rows:
            if row.suite == suite:
                grouped.setdefault(row.case, []).append(row)
        return grouped


def curves(results: Results) -> dict[tuple, dict[str, list[Row]]]:
    """The scaling suite's rows by (name, mode, dtype, axis), then by engine, in the order of the values."""
    grouped = {}
    for row in results.rows:
        if row.suite == "scaling":
            engines = grouped.setdefault((row.name, row.mode, row.dtype, row.axis), {})
            engines.setdefault(row.engine, []).append(row)
    for engines in grouped.values():
        for rows in engines.values():
            rows.sort(key=lambda row: row.value)
    return grouped


def validate(data) -> list[str]:
    """What is wrong with a decoded results.json, in words; empty where nothing is."""
    if not isinstance(data, dict):
        return ["it is no object"]
    problems = [f"{key} is missing" for key in ("schema", "machine", "settings", "rows") if key not in data]
    if problems:
        return problems
    if data["schema"] != SCHEMA:
        return [f"schema is {data['schema']!r}, expected {SCHEMA}"]
    if not isinstance(data["rows"], list):
        return ["rows is no list"]
    for key in ("machine", "settings"):
        if not isinstance(data[key], dict):
            return [f"{key} is no object"]
    unknown = data.keys() - {f.name for f in fields(Results)}
    if unknown:
        return [f"unknown {sorted(unknown)}"]
    return [f"row {i}: {problem}" for i, row in enumerate(data["rows"]) if (problem := row_problem(row))]


def row_problem(row) -> str | None:
    if not isinstance(row, dict):
        return "it is no object"
    known = {f.name: f.type for f in fields(Row)}
    missing = {"suite", "name", "mode", "dtype", "batch", "engine"} - row.keys()
    if missing or row.keys() - known.keys():
        return f"missing {sorted(missing)}, unknown {sorted(row.keys() - known.keys())}"
    for key, value in row.items():
        kinds = get_args(known[key]) or (known[key],)
        if not isinstance(value, kinds) and not (float in kinds and type(value) is int):
            return f"{key} is {value!r}"
        if isinstance(value, float) and not math.isfinite(value):
            return f"{key} is {value!r}"
    if row["suite"] not in MODES or row["mode"] not in MODES[row["suite"]]:
        return f"suite {row['suite']!r}, mode {row['mode']!r}"
    if row.get("median_ms") is None and not row.get("error"):
        return "neither a time nor an error"
    if row.get("median_ms") is not None and row["median_ms"] <= 0:
        return f"median_ms is {row['median_ms']!r}"
    return None


def speedup(row: Row | None, baseline: Row | None) -> float | None:
    """How many times faster `row` is than `baseline`; None unless both passed their check."""
    if row is None or baseline is None or not (row.comparable and baseline.comparable):
        return None
    return baseline.median_ms / row.median_ms


def find(rows: list[Row], engine: str) -> Row | None:
    return next((row for row in rows if row.engine == engine), None)


def best(rows: list[Row], engines: list[str]) -> Row | None:
    """The fastest of these engines whose output passed."""
    candidates = [row for row in rows if row.engine in engines and row.comparable]
    return min(candidates, key=lambda row: row.median_ms, default=None)


def against_baseline(rows: list[Row], row: Row) -> float | None:
    return speedup(row, find(rows, BASELINE))


def against_best_peer(rows: list[Row], row: Row) -> float | None:
    return speedup(row, best(rows, PEERS))


def engine_label(name: str) -> str:
    return ENGINES[name].label if name in ENGINES else name


def row_from(measurement, case_fields: dict, cost: tuple[int, int], ceilings: dict, bound: str) -> Row:
    """A measurement with the operations and bytes that its time is divided by. `bound`: "flops" or "bytes"."""
    flops, moved = cost
    row = Row(engine=measurement.engine, **case_fields, flops=flops, bytes=moved)
    row.rounds = len(measurement.turns_ms)
    row.error = measurement.error
    row.peak_mem_mb = measurement.peak_mem_mb
    row.rel_err = measurement.info.get("rel_err")
    row.tolerance = measurement.info.get("tolerance")
    row.passed = measurement.info.get("passed")
    row.median_ms, row.p20_ms, row.p80_ms = (measurement.percentile(q) for q in (50, 20, 80))
    if row.passed is False and row.error is None:
        shown = "not finite" if row.rel_err is None else f"{row.rel_err:.1e}"
        row.error = f"check failed: error {shown}, allowed {row.tolerance:.1e}"
    if row.median_ms is not None:
        ceiling = ceilings.get(row.dtype if bound == "flops" else "gbps")
        rate = (flops if bound == "flops" else moved) / row.median_ms / 1e6
        if bound == "flops":
            row.gflops = rate
        else:
            row.gbps = rate
        row.share_of_ceiling = rate / ceiling if ceiling else None
    return row
