"""Tables of committed results, for the README and docs.

python -m dlperf.benchmarks.tables README.md              replaces the text between each pair of markers
python -m dlperf.benchmarks.tables --check README.md      exit code 1 where that would change a file
python -m dlperf.benchmarks.tables --add bench-out/results.json [--device NAME]

<!-- results:NAME -->   NAME is DEVICE/models, DEVICE/models-inference, DEVICE/models-train-f32, DEVICE/kernels ...
<!-- /results -->
"""

import argparse
import json
import re
import sys
from pathlib import Path

from . import machine
from .peers import BASELINE, PEERS
from .results import Results, Row, against_baseline, best, engine_label, find, speedup

COMMITTED = Path(__file__).parent / "results"
MARKED = re.compile(r"(<!-- results:(?P<name>\S+) -->\n).*?(<!-- /results -->)", re.DOTALL)


class TableError(Exception):
    """Why a table can't be made, in one line."""


def latest(device: str, folder: Path) -> Results:
    """The newest committed run of a device; a gpu-check record holds one in it."""
    paths = sorted((folder / device).glob("*.json"), reverse=True)
    for path in paths:
        data = json.loads(path.read_text())
        if data.get("kind") == "gpu-check":
            data = data["bench"]
        if data is not None:
            return Results.decode(data, path)
    have = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    raise TableError(f"no results of {device!r} in {folder}; there are {', '.join(have) or 'none'}")


def model_table(cases: dict[tuple, list[Row]]) -> list[str]:
    lines = ["| model | batch | dlperf | eager NHWC | best peer | vs eager NHWC | vs best peer |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|")
    for (_, name, mode, dtype, batch), rows in cases.items():
        ours, peer = best(rows, ["dlperf", "dlperf-optimize"]), best(rows, PEERS)
        peer_cell = f"{milliseconds(peer)} ({engine_label(peer.engine)})" if peer else ""
        cells = [
            f"{name} {mode} {dtype}",
            str(batch),
            milliseconds(ours),
            milliseconds(find(rows, BASELINE)),
            peer_cell,
        ]
        cells.append(times(against_baseline(rows, ours) if ours else None))
        cells.append(times(speedup(ours, peer)))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def kernel_table(cases: dict[tuple, list[Row]]) -> list[str]:
    lines = ["| layer | shape | | dlperf | torch | speed-up | of ceiling |", "|---|---|---|--:|--:|--:|--:|"]
    for (_, name, mode, dtype, _), rows in cases.items():
        ours, torchs = find(rows, "dlperf"), find(rows, BASELINE)
        if ours is None:
            continue
        share = "" if ours.share_of_ceiling is None or not ours.comparable else f"{ours.share_of_ceiling:.0%}"
        cells = [name, ours.label, f"{mode} {dtype}", milliseconds(ours), milliseconds(torchs)]
        lines.append("| " + " | ".join([*cells, times(speedup(ours, torchs)), share]) + " |")
    return lines


def milliseconds(row: Row | None) -> str:
    return f"{row.median_ms:.1f} ms" if row is not None and row.comparable else ""


def times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def table(name: str, folder: Path = COMMITTED) -> str:
    device, _, selection = name.rpartition("/")
    suite, *filters = selection.split("-")
    if not device or suite not in ("models", "kernels"):
        raise TableError(
            f"results:{name}: expected DEVICE/models or DEVICE/kernels, with -mode and -dtype where wanted"
        )
    results = latest(device, folder)
    cases = {case: rows for case, rows in results.cases(suite).items() if set(filters) <= set(case[2:4])}
    if not cases:
        raise TableError(f"results:{name}: the latest run of {device} has no such rows")
    described = results.machine
    lines = (model_table if suite == "models" else kernel_table)(cases)
    origin = f"{described.get('gpu', described['cpu'])}, {described['threads']} threads, torch {described['torch']}"
    return "\n".join([*lines, "", f"Measured on {origin}, {described['date'].split()[0]}."]) + "\n"


def fill(text: str, folder: Path = COMMITTED) -> str:
    """The document with every marked table made anew."""
    return MARKED.sub(lambda found: found[1] + table(found["name"], folder) + found[3], text)


def add(path: Path, device: str | None, folder: Path = COMMITTED) -> Path:
    """Files a run's results.json under its device and date."""
    results = Results.load(path)
    target = folder / (device or machine.device_slug(results.machine))
    target.mkdir(parents=True, exist_ok=True)
    target /= results.machine["date"].split()[0] + ".json"
    results.save(target)
    return target


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dlperf.benchmarks.tables", description=__doc__.split("\n")[0])
    parser.add_argument("documents", nargs="*", type=Path, help="files with markers")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 where something would change")
    parser.add_argument("--add", type=Path, metavar="RESULTS", help="file a results.json under benchmarks/results/")
    parser.add_argument("--device", help="the folder for --add; default: named after the processor or GPU")
    parser.add_argument("--results", type=Path, default=COMMITTED, metavar="DIR", help="default: benchmarks/results")
    args = parser.parse_args(argv)
    stale = []
    try:
        if args.add:
            print(f"wrote {add(args.add, args.device, args.results)}")
        for path in args.documents:
            before = path.read_text()
            after = fill(before, args.results)
            if after != before:
                stale.append(path)
                if not args.check:
                    path.write_text(after)
    except (TableError, ValueError, OSError) as error:
        print(f"tables: {error}", file=sys.stderr)
        return 2
    for path in stale:
        print(f"{path}: {'its tables are not those of the committed results' if args.check else 'tables replaced'}")
    return 1 if stale and args.check else 0


if __name__ == "__main__":
    sys.exit(main())
