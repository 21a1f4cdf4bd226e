"""`dlperf bench --compare OLD.json`: what became slower since an earlier run.

The time of one run says little about another's: the machine is never the same twice. So where both runs have torch
eager channels_last beside an engine, what is compared is the engine's time divided by that one's in the same run.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from .console import Console
from .peers import BASELINE, OURS
from .results import MODES, Results, Row, engine_label


class BadArgument(Exception):
    """What was wrong with an option, and how to mend it: one line, exit code 2."""


DEFAULT_THRESHOLD = 10.0


def percent(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: give a percentage of 0 or more")
    return value


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument(
        "--compare",
        metavar="OLD.json",
        help="afterwards list what dlperf does slower than in this results.json, relative to torch in the same run; "
        "exit code 1 past the threshold. What is not given is as in that run",
    )
    parser.add_argument("--results", metavar="NEW.json", help="with --compare: compare this file, run nothing")
    parser.add_argument(
        "--threshold",
        type=percent,
        default=DEFAULT_THRESHOLD,
        metavar="PERCENT",
        help=f"of --compare; default: {DEFAULT_THRESHOLD:.0f}",
    )


def read(path: str, option: str) -> Results:
    """The results file, or BadArgument."""
    try:
        return Results.load(Path(path))
    except OSError as error:
        raise BadArgument(f"{option} {path}: can't be read ({error.strerror})") from None
    except ValueError as error:
        raise BadArgument(f"{option}: {str(error).splitlines()[0]}") from None


def load(args) -> Results | None:
    """The earlier run, where one is named."""
    if args.compare is None:
        if args.results is not None:
            raise BadArgument("--results: give the earlier run with --compare OLD.json")
        return None
    old = read(args.compare, "--compare")
    if not any(row.engine in OURS and row.comparable for row in old.rows):
        raise BadArgument(
            f"--compare {args.compare}: none of its rows is a measurement of dlperf that passed its check"
        )
    return old


# The options that say what is run, with the test of what a results file has for them.
REPEATED = {
    "suite": lambda value: isinstance(value, str) and value in MODES,
    "mode": lambda value: value in ("inference", "train"),
    "dtype": lambda value: value in ("f32", "bf16"),
    "batch": lambda value: isinstance(value, list) and all(type(n) is int for n in value),
    "model": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    "peers": lambda value: isinstance(value, str),
    "threads": lambda value: type(value) is int,
    "quick": lambda value: value is True,
}


def given(args) -> dict:
    """What a run was asked for, as its results file keeps it."""
    return {name: getattr(args, name) for name in REPEATED if getattr(args, name)}


def repeat(args, old: Results | None):
    """Fills in what was not given from what the earlier run was given, unless another suite is wanted."""
    asked = old.settings.get("given") if old is not None else None
    if not isinstance(asked, dict) or (args.suite and args.suite != asked.get("suite")):
        return
    for name, is_valid in REPEATED.items():
        if not getattr(args, name) and name in asked:
            if not is_valid(asked[name]):
                raise BadArgument(f"--compare {args.compare}: its settings give {name} as {asked[name]!r}")
            setattr(args, name, asked[name])


@dataclass(frozen=True)
class Change:
    """One engine on one case: `ratio` is its cost now over its cost then; infinite where it fails now."""

    row: Row
    ratio: float
    what: str  # time relative to torch, time or peak memory

    @property
    def name(self) -> str:
        row = self.row
        point = f" {row.axis} {row.value}" if row.axis not in ("", "batch") else ""
        return f"{row.suite}: {row.name} {row.mode} {row.dtype} batch {row.batch}{point}, {engine_label(row.engine)}"


def changes(old: Results, new: Results) -> list[Change]:
    """What both runs measured, and what passed then and fails now."""
    before, after = ({row.key: row for row in run.rows} for run in (old, new))
    found = []
    for key, row in after.items():
        then = before.get(key)
        if row.engine not in OURS or then is None or not then.comparable:
            continue
        if not row.comparable:
            found.append(Change(row, math.inf, row.error or "its check failed"))
            continue
        if row.suite == "memory":
            if row.peak_mem_mb and then.peak_mem_mb:
                found.append(Change(row, row.peak_mem_mb / then.peak_mem_mb, "peak memory"))
            continue
        base = (*key[:-1], BASELINE)
        pair = before.get(base), after.get(base)
        if all(r is not None and r.comparable for r in pair):
            drift = pair[1].median_ms / pair[0].median_ms
            found.append(Change(row, row.median_ms / then.median_ms / drift, "time relative to torch"))
        else:
            found.append(Change(row, row.median_ms / then.median_ms, "time"))
    return found


def remarks(old: Results, new: Results) -> list[str]:
    """In what the two runs differ besides their times."""
    said = []
    for key in ("cpu", "gpu", "threads", "torch"):
        values = old.machine.get(key), new.machine.get(key)
        if values[0] != values[1]:
            said.append(f"{key} was {values[0]}, is {values[1]}")
    return said


def run(old: Results, new: Results, threshold: float, console: Console) -> int:
    """Prints the comparison; the exit code: 1 where something became slower by more than `threshold` per cent."""
    found = changes(old, new)
    if not found:
        console.print(
            "--compare: the two runs have no measurement of dlperf in common: give the earlier run's options."
        )
        return 2
    for text in remarks(old, new):
        console.print(f"* {text}")
    limit = 1 + threshold / 100
    slower = sorted((c for c in found if c.ratio > limit), key=lambda c: -c.ratio)
    faster = sum(c.ratio < 1 / limit for c in found)
    if slower:
        cells = [[c.name, c.what, "fails" if math.isinf(c.ratio) else f"{100 * (c.ratio - 1):+.0f}%"] for c in slower]
        console.table(
            f"Worse than in {old.machine.get('date', 'the earlier run')}", ["", "what", "change"], cells, left=2
        )
    unmatched = sum(r.engine in OURS and r.comparable for r in old.rows) - len(found)
    console.print(
        f"Compared {len(found)} measurements: {len(slower)} worse and {faster} better by more than {threshold:g}%"
        + (f"; {unmatched} of the earlier run were not repeated." if unmatched > 0 else ".")
    )
    return 1 if slower else 0
