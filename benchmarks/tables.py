"""Tables of committed results, for the README and docs.

python -m dlperf.benchmarks.tables README.md              replaces the text between each pair of markers
python -m dlperf.benchmarks.tables --check README.md      exit code 1 where that would change a file
python -m dlperf.benchmarks.tables --add bench-out/results.json [--device NAME]

<!-- results:NAME -->   the suite, with -mode, -dtype and, of scaling, -axis where wanted: models, models-train-f32,
<!-- /results -->       public, memory, kernels-forward, scaling-batch ...; or ceilings. The newest run that has such
                        rows counts; of one machine where NAME is DEVICE/suite.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from . import machine
from .peers import BASELINE, ENGINES, PEERS
from .results import Results, Row, against_baseline, best, curves, engine_label, find, speedup
from .scaling import AXES

COMMITTED = Path(__file__).parent / "results"
MARKED = re.compile(r"(<!-- results:(?P<name>\S+) -->\n).*?(<!-- /results -->)", re.DOTALL)


class TableError(Exception):
    """Why a table can't be made, in one line."""


def runs(device: str, folder: Path) -> Iterator[Results]:
    """The committed runs of a device ("" of all), newest first; a gpu-check record holds one in it."""
    for path in sorted(folder.glob(f"{device or '*'}/*.json"), key=lambda path: path.name, reverse=True):
        if path.name == "verified.json":
            continue
        data = json.loads(path.read_text())
        if data.get("kind") == "gpu-check":
            data = data["bench"]
        if data is not None:
            yield Results.decode(data, path)


def latest(device: str, folder: Path, has: Callable[[Results], bool] = lambda results: True) -> Results:
    """The newest of them that `has` what is wanted."""
    seen = False
    for results in runs(device, folder):
        seen = True
        if has(results):
            return results
    if seen:
        raise TableError(f"no run of {device or 'any device'} has such rows")
    have = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    raise TableError(f"no results of {device or 'any device'} in {folder}; there are {', '.join(have) or 'none'}")


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


def memory_table(cases: dict[tuple, list[Row]]) -> list[str]:
    engines = [name for name in ENGINES if any(find(rows, name) for rows in cases.values())]
    lines = ["| model | batch | " + " | ".join(map(engine_label, engines)) + " |", "|---|--:|" + "--:|" * len(engines)]
    for (_, name, mode, dtype, batch), rows in cases.items():
        found = [find(rows, engine) for engine in engines]
        cells = [f"{row.peak_mem_mb:.0f} MB" if row and row.comparable and row.peak_mem_mb else "" for row in found]
        lines.append("| " + " | ".join([f"{name} {mode} {dtype}", str(batch), *cells]) + " |")
    return lines


def scaling_table(cases: dict[tuple, dict[str, list[Row]]]) -> list[str]:
    values = sorted({row.value for engines in cases.values() for rows in engines.values() for row in rows})
    axis = next(iter(cases))[3]
    lines = [f"| by {axis} | engine | " + " | ".join(map(str, values)) + " |", "|---|---|" + "--:|" * len(values)]
    for (name, mode, dtype, _), engines in cases.items():
        for engine, rows in engines.items():
            by_value = {row.value: row for row in rows}
            cells = [milliseconds(by_value.get(value)) for value in values]
            lines.append("| " + " | ".join([f"{name} {mode} {dtype}", engine_label(engine), *cells]) + " |")
    return lines


def ceilings_table(results: Results) -> list[str]:
    ceilings = results.machine["ceilings"]
    lines = ["| ceiling | measured |", "|---|--:|"]
    for isa, rates in ceilings["loops"].items():
        lines += [f"| multiply-adds, {isa}, {DTYPES[dtype]} | {rate:.0f} GFLOP/s |" for dtype, rate in rates.items()]
    lines += [f"| {name.replace('_', ', ')} | {rate:.0f} GB/s |" for name, rate in ceilings["bandwidth"].items()]
    matmul = ceilings["torch_matmul"].items()
    return lines + [f"| for comparison: torch.matmul, {dtype} | {rate:.0f} GFLOP/s |" for dtype, rate in matmul]


DTYPES = {"f32": "float32", "bf16": "bfloat16"}
TABLES = {
    "models": model_table,
    "public": model_table,
    "kernels": kernel_table,
    "memory": memory_table,
    "scaling": scaling_table,
}


def lines_of(results: Results, suite: str, filters: set[str]) -> list[str]:
    """The table's lines; none where the run has no such rows."""
    if suite == "ceilings":
        return ceilings_table(results) if results.machine.get("ceilings") else []
    if suite == "scaling":
        cases = {key: engines for key, engines in curves(results).items() if filters <= set(key[1:])}
    else:
        cases = {case: rows for case, rows in results.cases(suite).items() if filters <= set(case[2:4])}
    return TABLES[suite](cases) if cases else []


def table(name: str, folder: Path = COMMITTED) -> str:
    device, _, selection = name.rpartition("/")
    suite, *filters = selection.split("-")
    if suite != "ceilings" and suite not in TABLES:
        raise TableError(
            f"results:{name}: expected one of ceilings, {', '.join(TABLES)}, with -mode and -dtype where wanted"
        )
    if suite == "scaling" and not set(filters) & set(AXES):
        raise TableError(f"results:{name}: say which axis, as in scaling-{AXES[0]}")
    try:
        results = latest(device, folder, lambda results: bool(lines_of(results, suite, set(filters))))
    except TableError as error:
        raise TableError(f"results:{name}: {error}") from None
    described = results.machine
    origin = f"{described.get('gpu', described['cpu'])}, {described['threads']} threads, torch {described['torch']}"
    lines = lines_of(results, suite, set(filters))
    return "\n".join([*lines, "", f"Measured on {origin}, {described['date'].split()[0]}."]) + "\n"


def fill(text: str, folder: Path = COMMITTED) -> str:
    """The document with every marked table made anew."""
    return MARKED.sub(lambda found: found[1] + table(found["name"], folder) + found[3], text)


def add(path: Path, device: str | None, folder: Path = COMMITTED) -> Path:
    """Files a run's results.json under its device and date, and its suites where complete models are not among them."""
    results = Results.load(path)
    target = folder / (device or machine.device_slug(results.machine))
    target.mkdir(parents=True, exist_ok=True)
    measured = list(dict.fromkeys(row.suite for row in results.rows))
    suites = "" if "models" in measured else "".join(f"-{suite}" for suite in measured)
    target /= f"{results.machine['date'].split()[0]}{suites}.json"
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
