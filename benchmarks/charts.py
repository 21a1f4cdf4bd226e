"""The pictures of a run, each drawn from its rows alone."""

from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from .peers import BASELINE, ENGINES
from .results import MODES, Results, Row, against_baseline, engine_label, find, speedup

COLORS = {
    "dlperf": "#d1495b",
    "dlperf-optimize": "#8f1d2c",
    "eager": "#b8c4cc",
    "eager-nhwc": "#8195a3",
    "compile": "#2e6f95",
    "eager-mkl": "#5f7f5f",
    "compile-mkl": "#3f5f3f",
    "onnxruntime": "#6a5acd",
    "openvino": "#c08a2b",
}
STYLE = {
    "figure.dpi": 150,
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.bbox": "tight",
}
DTYPE_NAMES = {"f32": "float32", "bf16": "bfloat16"}
MARKERS = ("o", "s", "^", "D", "v", "P")


def color(engine: str) -> str:
    return COLORS.get(engine, "#444444")


def ordered_engines(rows: list[Row]) -> list[str]:
    present = {row.engine for row in rows}
    return [name for name in ENGINES if name in present]


def panels(keys: list, width: float, heights: list[float]):
    """Two axes to a line; a line is as high as its higher one."""
    columns = min(2, len(keys))
    lines = [max(heights[i : i + columns]) for i in range(0, len(keys), columns)]
    figure, axes = plt.subplots(
        len(lines), columns, figsize=(width * columns, sum(lines)), squeeze=False, height_ratios=lines
    )
    for spare in axes.flat[len(keys) :]:
        spare.set_visible(False)
    return figure, dict(zip(keys, axes.flat, strict=False))


def shared_legend(figure, engines: list[str], handle):
    handles = [handle(name) for name in engines]
    labels = [engine_label(name) for name in engines]
    figure.legend(handles, labels, loc="upper left", bbox_to_anchor=(0.01, 0.0), ncol=min(4, len(engines)))


def speedup_bars(results: Results, suite: str = "models"):
    """Speed relative to torch eager channels_last, engines side by side; None where nothing was comparable."""
    cases = {
        case: rows
        for case, rows in results.cases(suite).items()
        if any(against_baseline(rows, row) for row in rows if row.engine != BASELINE)
    }
    if not cases:
        return None
    groups = {}
    for case in cases:
        groups.setdefault(case[2:4], []).append(case)
    shown = {case: ordered_engines([row for row in rows if row.comparable]) for case, rows in cases.items()}
    slots = {key: sum(len(shown[case]) + 1 for case in members) for key, members in groups.items()}
    figure, axes = panels(list(groups), 5.2, [0.19 * count + 0.8 for count in slots.values()])
    for (mode, dtype), members in groups.items():
        axis, position, ticks = axes[mode, dtype], 0, []
        for case in members:
            ticks.append(position + (len(shown[case]) - 1) / 2)
            for engine in shown[case]:
                value = against_baseline(cases[case], find(cases[case], engine))
                if value is not None:
                    axis.barh(position, value, 0.88, color=color(engine))
                    weight = "bold" if ENGINES[engine].ours else "normal"
                    axis.text(value, position, f" {value:.2f}", va="center", fontsize=7.5, fontweight=weight)
                position += 1
            position += 1
        axis.axvline(1, color="#444444", linewidth=0.8, linestyle="--")
        axis.set_yticks(ticks, [f"{case[1]}\nbatch {case[4]}" for case in members])
        neighbours = [k for k in groups if axes[k].get_subplotspec().rowspan == axis.get_subplotspec().rowspan]
        axis.set_ylim(max(slots[k] for k in neighbours) - 1.2, -0.8)  # bars are equally thick along a line
        axis.margins(x=0.12)
        axis.grid(axis="y", visible=False)
        axis.set_title("inference" if mode == "inference" else "training step")
        axis.set_title(DTYPE_NAMES[dtype], loc="right", fontweight="normal")
        axis.set_xlabel("times the speed of torch eager, channels_last")
    engines = ordered_engines([row for rows in cases.values() for row in rows if row.comparable])
    shared_legend(figure, engines, lambda name: plt.Rectangle((0, 0), 1, 1, color=color(name)))
    figure.tight_layout()
    return figure


def roofline(results: Results):
    """GFLOP/s over operations per byte, under the ceilings that this run measured."""
    ceilings = results.machine.get("ceilings")
    suite = "kernels" if any(r.suite == "kernels" and r.gflops for r in results.rows) else "models"
    shown = ["dlperf", "dlperf-optimize", BASELINE]
    rows = [r for r in results.rows if r.suite == suite and r.comparable and r.flops and r.gflops and r.engine in shown]
    if not ceilings or not rows:
        return None
    modes = [m for m in MODES[suite] if any(r.mode == m for r in rows)]
    dtypes = [d for d in DTYPE_NAMES if any(r.dtype == d for r in rows)]
    figure, axis = plt.subplots(figsize=(8.2, 4.6))
    intensity = [r.flops / r.bytes for r in rows]
    ridge = ceilings["f32"] / ceilings["gbps"]
    x = np.geomspace(min(*intensity, ridge / 2) / 1.5, max(intensity) * 2, 300)
    roofs = {round(ceilings[dtype]) for dtype in dtypes}  # two dtypes under one ceiling get one line
    style = {"textcoords": "offset points", "fontsize": 8}
    for peak in roofs:
        axis.plot(x, np.minimum(ceilings["gbps"] * x, peak), color="#444444", linewidth=1.3)
        name = " and ".join(DTYPE_NAMES[d] for d in dtypes if round(ceilings[d]) == peak)
        axis.annotate(f"{peak} GFLOP/s {name}", (x[-1], peak), xytext=(4, 0), va="center", **style)
    axis.annotate(f"{ceilings['gbps']:.0f} GB/s", (x[0], ceilings["gbps"] * x[0]), xytext=(10, 0), **style)
    for engine in shown:
        for marker, mode in zip(MARKERS, modes, strict=False):
            for dtype in dtypes:
                points = [r for r in rows if (r.engine, r.mode, r.dtype) == (engine, mode, dtype)]
                if not points:
                    continue
                places = [r.flops / r.bytes for r in points], [r.gflops for r in points]
                fill = color(engine) if dtype == "f32" else "none"
                label = ", ".join([engine_label(engine), mode, *([DTYPE_NAMES[dtype]] if len(dtypes) > 1 else [])])
                axis.scatter(*places, s=24, marker=marker, facecolors=fill, edgecolors=color(engine), label=label)
    axis.set_xscale("log")
    axis.set_yscale("log")
    for plain in (axis.xaxis, axis.yaxis):
        plain.set_major_formatter(lambda value, _: f"{value:g}")
        plain.set_minor_formatter(lambda value, _: "")
    low, high = axis.get_ylim()
    axis.set_ylim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))
    axis.set_xlabel("floating-point operations per byte (every operand moved once)")
    axis.set_ylabel("GFLOP/s")
    axis.set_title("Roofline: " + ("convolutions and linear layers" if suite == "kernels" else "whole models"))
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncol=len(modes) * len(dtypes))
    return figure


def scaling(results: Results):
    """Pictures a second against batch; None where no case has two batches."""
    groups = {}
    for row in results.rows:
        if row.suite == "models" and row.comparable:
            groups.setdefault((row.name, row.mode, row.dtype), []).append(row)
    groups = {key: rows for key, rows in groups.items() if len({row.batch for row in rows}) > 1}
    if not groups:
        return None
    figure, axes = panels(list(groups), 5.2, [2.9] * len(groups))
    for (name, mode, dtype), rows in groups.items():
        axis = axes[name, mode, dtype]
        batches = sorted({row.batch for row in rows})
        for engine in ordered_engines(rows):
            points = sorted((r.batch, 1e3 * r.batch / r.median_ms) for r in rows if r.engine == engine)
            ours = ENGINES[engine].ours
            axis.plot(*zip(*points, strict=True), marker="o", markersize=4, color=color(engine), lw=2 if ours else 1.3)
        axis.set_xscale("log", base=2)
        axis.set_xticks(batches, [str(b) for b in batches])
        axis.set_ylim(bottom=0)
        axis.set_xlabel("batch")
        axis.set_ylabel("pictures a second")
        axis.set_title(f"{name} {mode}")
        axis.set_title(DTYPE_NAMES[dtype], loc="right", fontweight="normal")
    engines = ordered_engines([row for rows in groups.values() for row in rows])
    shared_legend(figure, engines, lambda name: plt.Line2D([], [], color=color(name), marker="o", markersize=4))
    figure.tight_layout()
    return figure


def layers(results: Results, dtype: str):
    """Each distinct layer's time beside torch's, forward and backward; None where no kernels of the dtype ran."""
    cases = {key: rows for key, rows in results.cases("kernels").items() if key[3] == dtype}
    modes = [m for m in MODES["kernels"] if any(key[2] == m for key in cases)]
    if not any(speedup(find(rows, "dlperf"), find(rows, BASELINE)) for rows in cases.values()):
        return None
    labels = {key[1]: rows[0].label for key, rows in cases.items()}
    names = list(labels)
    figure, axes = plt.subplots(1, len(modes), figsize=(4.9 * len(modes), 0.17 * len(names) + 1.1), sharey=True)
    for axis, mode in zip(np.atleast_1d(axes), modes, strict=True):
        for y, name in enumerate(names):
            rows = next((rows for key, rows in cases.items() if key[1:3] == (name, mode)), [])
            value = speedup(find(rows, "dlperf"), find(rows, BASELINE))
            if value is None:
                axis.text(1, y, " no comparison", va="center", fontsize=6, color="#888888")
                continue
            axis.barh(y, value - 1, 0.75, left=1, color=color("dlperf") if value >= 1 else color(BASELINE))
            side = "left" if value >= 1 else "right"
            axis.text(value, y, f" {value:.2f} ", va="center", ha=side, fontsize=6)
        axis.axvline(1, color="#444444", linewidth=0.8)
        axis.set_xscale("log", base=2)
        low, high = axis.get_xlim()
        axis.set_xlim(min(low, 0.5) / 1.3, max(high, 2) * 1.3)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
        axis.set_yticks(range(len(names)), [labels[name] for name in names], fontsize=6.5)
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="y", visible=False)
        axis.set_title(f"{mode}, {DTYPE_NAMES[dtype]}")
        axis.set_xlabel("times the speed of torch eager, channels_last")
    figure.tight_layout()
    return figure


def write_all(results: Results, out: Path) -> list[Path]:
    from . import charts_growth as growth  # which draws with what is above

    drawn = {
        "speedup": lambda: speedup_bars(results),
        "public": lambda: speedup_bars(results, "public"),
        "scaling": lambda: scaling(results),
        **{f"growth-{axis}": partial(growth.growth, results, axis) for axis in growth.AXIS_LABELS},
        "memory": lambda: growth.memory(results),
        "roofline": lambda: roofline(results),
        "share-f32": lambda: growth.shares(results, "f32"),
        "share-bf16": lambda: growth.shares(results, "bf16"),
        "layers-f32": lambda: layers(results, "f32"),
        "layers-bf16": lambda: layers(results, "bf16"),
    }
    written = []
    with plt.rc_context(STYLE):
        for name, draw in drawn.items():
            path = out / f"{name}.png"
            path.unlink(missing_ok=True)  # none of an earlier run is mistaken for this one's
            figure = draw()
            if figure is not None:
                figure.savefig(path)
                plt.close(figure)
                written.append(path)
    return written
