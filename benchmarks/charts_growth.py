"""Pictures of the scaling and the memory suite, and of each layer's share of what the machine can do."""

import matplotlib.pyplot as plt
import numpy as np

from . import charts
from .peers import ENGINES
from .results import MODES, Results, curves, engine_label, find

AXIS_LABELS = {
    "batch": ("batch", "ms per sample"),
    "resolution": ("height and width in pixels", "ms"),
    "sequence": ("tokens", "ms"),
    "threads": ("threads", "times the speed of one thread"),
}


def _points(axis: str, rows: list) -> list[tuple[int, float]]:
    measured = [(row.value, row.median_ms) for row in rows if row.comparable]
    if axis == "batch":
        return [(n, ms / n) for n, ms in measured]
    if axis == "threads":
        single = dict(measured).get(1)
        return [(n, single / ms) for n, ms in measured] if single else []
    return measured


def growth(results: Results, axis: str):
    """A panel for each model and mode, a line for each engine; None where no engine has two points."""
    groups = {}
    for key, engines in curves(results).items():
        lines = {name: points for name, rows in engines.items() if len(points := _points(axis, rows)) > 1}
        if key[3] == axis and lines:
            groups[key] = lines
    if not groups:
        return None
    figure, axes = charts.panels(list(groups), 5.2, [2.9] * len(groups))
    for (name, mode, dtype, _), lines in groups.items():
        plot = axes[name, mode, dtype, axis]
        values = sorted({value for points in lines.values() for value, _ in points})
        for engine in [name for name in ENGINES if name in lines]:
            width = 2 if ENGINES[engine].ours else 1.3
            x, y = zip(*lines[engine], strict=True)
            plot.plot(x, y, marker="o", markersize=4, color=charts.color(engine), lw=width)
        if axis == "threads":
            plot.plot(values, values, color="#888888", lw=1, linestyle="--")
        plot.set_xscale("log", base=2)
        if axis == "sequence":
            plot.set_yscale("log")
            plot.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        else:
            plot.set_ylim(bottom=0)
        plot.set_xticks(values, [str(v) for v in values])
        plot.minorticks_off()
        x_label, y_label = AXIS_LABELS[axis]
        plot.set_xlabel(x_label)
        plot.set_ylabel(y_label)
        plot.set_title(f"{name} {mode}")
        plot.set_title(charts.DTYPE_NAMES[dtype], loc="right", fontweight="normal")
    engines = [name for name in ENGINES if any(name in lines for lines in groups.values())]
    charts.shared_legend(
        figure, engines, lambda name: plt.Line2D([], [], color=charts.color(name), marker="o", markersize=4)
    )
    figure.tight_layout()
    return figure


def memory(results: Results):
    """The peak of resident memory per engine; None where the memory suite did not run."""
    cases = {
        case: [row for row in rows if row.peak_mem_mb is not None and row.comparable]
        for case, rows in results.cases("memory").items()
    }
    cases = {case: rows for case, rows in cases.items() if rows}
    if not cases:
        return None
    bars = sum(len(rows) + 1 for rows in cases.values())
    figure, axis = plt.subplots(figsize=(8.2, 0.19 * bars + 0.9))
    position, ticks = 0, []
    for rows in cases.values():
        ticks.append(position + (len(rows) - 1) / 2)
        for engine in charts.ordered_engines(rows):
            row = find(rows, engine)
            axis.barh(position, row.peak_mem_mb, 0.88, color=charts.color(engine))
            weight = "bold" if ENGINES[engine].ours else "normal"
            axis.text(
                row.peak_mem_mb, position, f" {row.peak_mem_mb:.0f}", va="center", fontsize=7.5, fontweight=weight
            )
            position += 1
        position += 1
    axis.set_yticks(ticks, [f"{case[1]} {case[2]}\n{charts.DTYPE_NAMES[case[3]]}, batch {case[4]}" for case in cases])
    axis.set_ylim(bars - 1.2, -0.8)
    axis.margins(x=0.1)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("MB")
    axis.set_title("Peak of resident memory, libraries included")
    engines = charts.ordered_engines([row for rows in cases.values() for row in rows])
    charts.shared_legend(figure, engines, lambda name: plt.Rectangle((0, 0), 1, 1, color=charts.color(name)))
    return figure


def shares(results: Results, dtype: str):
    """Each layer's share of the ceiling; None where no ceiling was measured or no layer of the dtype ran."""
    cases = {key: rows for key, rows in results.cases("kernels").items() if key[3] == dtype}
    modes = [m for m in MODES["kernels"] if any(key[2] == m for key in cases)]
    measured = [row for rows in cases.values() if (row := find(rows, "dlperf")) and row.comparable]
    if not any(row.share_of_ceiling for row in measured):
        return None
    labels = {key[1]: f"{rows[0].label} x{rows[0].repeats}" for key, rows in cases.items()}
    names = list(labels)
    figure, axes = plt.subplots(1, len(modes), figsize=(4.9 * len(modes), 0.17 * len(names) + 1.3), sharey=True)
    for axis, mode in zip(np.atleast_1d(axes), modes, strict=True):
        for y, name in enumerate(names):
            rows = next((rows for key, rows in cases.items() if key[1:3] == (name, mode)), [])
            row, packed = find(rows, "dlperf"), find(rows, "dlperf-optimize")
            if row is None or not row.comparable or not row.share_of_ceiling:
                continue
            kind = "dlperf" if row.gflops else "compile"
            axis.barh(y, row.share_of_ceiling, 0.75, color=charts.color(kind))
            best = row.share_of_ceiling
            if packed is not None and packed.comparable and packed.share_of_ceiling:
                axis.plot(
                    [packed.share_of_ceiling], [y], marker="|", markersize=6, color=charts.color("dlperf-optimize")
                )
                best = max(best, packed.share_of_ceiling)
            axis.text(best, y, f" {row.share_of_ceiling:.0%}", va="center", fontsize=6)
        axis.axvline(1, color="#444444", linewidth=0.8)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.set_yticks(range(len(names)), [labels[name] for name in names], fontsize=6.5)
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.margins(x=0.12)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="y", visible=False)
        axis.set_title(f"{mode}, {charts.DTYPE_NAMES[dtype]}")
        axis.set_xlabel("share of the measured ceiling")
    key = {"multiply-adds": "dlperf", "memory bandwidth": "compile"}
    handles = [plt.Rectangle((0, 0), 1, 1, color=charts.color(name)) for name in key.values()]
    handles.append(plt.Line2D([], [], linestyle="", marker="|", markersize=6, color=charts.color("dlperf-optimize")))
    names = [f"of {name}" for name in key] + [f"{engine_label('dlperf-optimize')}: weights packed once"]
    figure.legend(handles, names, loc="upper left", bbox_to_anchor=(0.01, 0.0), ncol=3)
    figure.tight_layout()
    return figure
