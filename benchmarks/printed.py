"""A run's tables in the terminal."""

from . import diffusion
from .console import Console
from .peers import BASELINE, ENGINES
from .results import Results, Row, against_baseline, against_best_peer, curves, engine_label, find, speedup
from .totals import model_totals

UNITS = {"batch": "batch", "resolution": "pixels", "sequence": "tokens", "threads": "threads"}


def number(value: float | None, form: str = "{:.1f}") -> str:
    return "" if value is None else form.format(value)


def times(value: float | None) -> str:
    return number(value, "{:.2f}x")


def is_ours(cells: list[str]) -> bool:
    return cells[0].startswith("dlperf")


def print_tables(results: Results, console: Console):
    for suite in ("models", "public"):
        print_models(results, suite, console)
    print_memory(results, console)
    print_scaling(results, console)
    print_kernels(results, console)
    for title, columns, cells in diffusion.tables(results):
        console.table(title, columns, cells)
    for error in diffusion.errors(results):
        console.print(error)


def print_errors(rows: list[Row], console: Console, name=lambda row: engine_label(row.engine)):
    for row in rows:
        if row.error:
            console.print(f"  {name(row)}: {row.error}")


def model_cells(rows: list[Row], row: Row) -> list[str]:
    return [
        engine_label(row.engine),
        number(row.median_ms),
        f"{number(row.p20_ms)} - {number(row.p80_ms)}",
        number(row.gflops, "{:.0f}"),
        number(row.share_of_ceiling, "{:.0%}"),
        number(row.peak_mem_mb, "{:.0f}"),
        number(row.rel_err, "{:.0e}"),
        times(against_baseline(rows, row)),
        times(against_best_peer(rows, row)) if ENGINES[row.engine].ours else "",
    ]


def print_models(results: Results, suite: str, console: Console):
    columns = ["engine", "ms", "p20 - p80", "GFLOP/s", "of ceiling", "MB", "error", "vs NHWC", "vs best peer"]
    for (_, name, mode, dtype, batch), rows in results.cases(suite).items():
        cells = [model_cells(rows, row) for row in rows if row.median_ms is not None]
        console.table(f"{name} {mode} {dtype} batch {batch}", columns, cells, bold=is_ours)
        print_errors(rows, console)


def print_memory(results: Results, console: Console):
    for (_, name, mode, dtype, batch), rows in results.cases("memory").items():
        base = find(rows, BASELINE)
        reference = base.peak_mem_mb if base else None
        cells = [
            [
                engine_label(row.engine),
                number(row.peak_mem_mb, "{:.0f}"),
                times(row.peak_mem_mb / reference if reference and row.peak_mem_mb else None),
            ]
            for row in rows
            if row.peak_mem_mb is not None
        ]
        console.table(
            f"Peak memory: {name} {mode} {dtype} batch {batch}", ["engine", "MB", "of NHWC's"], cells, bold=is_ours
        )
        print_errors(rows, console)


def print_scaling(results: Results, console: Console):
    for (name, mode, dtype, axis), engines in curves(results).items():
        values = sorted({row.value for rows in engines.values() for row in rows})
        cells = []
        for engine, rows in engines.items():
            measured = {row.value: row.median_ms for row in rows if row.comparable}
            cells.append([engine_label(engine), *(number(measured.get(v)) for v in values)])
        columns = [f"ms, by {UNITS[axis]}", *map(str, values)]
        console.table(f"Scaling: {name} {mode} {dtype}", columns, cells, bold=is_ours)
        every = [row for rows in engines.values() for row in rows]
        print_errors(every, console, lambda row: f"{engine_label(row.engine)}, {row.axis} {row.value}")


def print_kernels(results: Results, console: Console):
    columns = [
        "layer",
        "shape",
        "",
        "uses",
        "dlperf ms",
        "torch ms",
        "speed-up",
        "GFLOP/s",
        "GB/s",
        "of ceiling",
        "packed",
    ]
    cells, errors = [], []
    for (_, name, mode, dtype, _), rows in results.cases("kernels").items():
        ours, torchs, packed = (find(rows, e) for e in ("dlperf", BASELINE, "dlperf-optimize"))
        cells.append([name, rows[0].label, f"{mode} {dtype}", str(rows[0].repeats), number(ours.median_ms, "{:.2f}")])
        cells[-1] += [number(torchs.median_ms if torchs else None, "{:.2f}"), times(speedup(ours, torchs))]
        cells[-1] += [number(ours.gflops, "{:.0f}"), number(ours.gbps), number(ours.share_of_ceiling, "{:.0%}")]
        cells[-1] += [number(packed.share_of_ceiling if packed else None, "{:.0%}")]
        errors += [f"  {engine_label(r.engine)}, {name} {mode} {dtype}: {r.error}" for r in rows if r.error]
    if cells:
        console.table("Kernels", columns, cells, left=3)
    totals = model_totals(results)
    if totals:
        lines = [
            [t.model, f"{t.mode} {t.dtype}", str(t.layers), number(t.ours_ms), number(t.torch_ms), times(t.speedup)]
            for t in totals
        ]
        columns = ["model", "", "layers", "dlperf ms", "torch ms", "speed-up"]
        console.table("Kernels, each as often as its model runs it", columns, lines, left=2)
    for error in errors:
        console.print(error)
