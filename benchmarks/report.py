"""report.html: one file that shows a run, pictures inlined, readable with no network."""

import base64
from pathlib import Path

import jinja2

from .charts import DTYPE_NAMES
from .engines import LAYER_NOISE
from .peers import BASELINE, ENGINES
from .results import Results, against_baseline, against_best_peer, curves, engine_label, find, speedup
from .totals import model_totals

CAPTIONS = {
    "speedup": "Speed of every engine relative to torch eager with channels_last, in the same run. Longer is faster.",
    "scaling": "Pictures a second against batch size. Higher is faster.",
    "public": "The same for models of other packages, as they are.",
    "growth-batch": "Time per sample against batch size: it falls while a batch fills the machine, then stays.",
    "growth-resolution": "Time against the size of pictures. The work grows with the square.",
    "growth-sequence": "Time of attention against the number of tokens. The work grows with the square.",
    "growth-threads": "Speed against the number of threads; the dashed line is the ideal.",
    "memory": "The high-water mark of resident memory, each engine in a fresh process. Shorter is better.",
    "roofline": "What was reached, under what this machine can do: the slope is its copy bandwidth, the flat line its "
    "multiply-add rate, both measured in this run.",
    "share-f32": "Each distinct layer, how often its model runs it, and its share of this machine's ceiling: that of "
    "multiply-adds or of memory, whichever limits it. Winograd's convolution can pass 100%; the mark is a plan's.",
    "share-bf16": "The same in bfloat16.",
    "layers-f32": "Each distinct layer, dlperf's time against torch's. To the right of 1x dlperf is faster.",
    "layers-bf16": "The same in bfloat16.",
}
MODE_NAMES = {"inference": "inference", "train": "training step"}


def inlined(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def model_tables(results: Results) -> list[dict]:
    tables = []
    cases = {**results.cases("models"), **results.cases("public")}
    for (_, name, mode, dtype, batch), rows in cases.items():
        fastest = min((r.median_ms for r in rows if r.comparable), default=None)
        lines = [
            {
                "row": row,
                "engine": engine_label(row.engine),
                "ours": ENGINES[row.engine].ours,
                "fastest": row.comparable and row.median_ms == fastest,
                "baseline": against_baseline(rows, row),
                "best_peer": against_best_peer(rows, row) if ENGINES[row.engine].ours else None,
            }
            for row in rows
        ]
        tables.append({"title": f"{name}, {MODE_NAMES[mode]}, {DTYPE_NAMES[dtype]}, batch {batch}", "lines": lines})
    return tables


def kernel_tables(results: Results) -> list[dict]:
    """One table per dtype and direction."""
    groups = {}
    for key, rows in results.cases("kernels").items():
        ours, torchs = find(rows, "dlperf"), find(rows, BASELINE)
        line = {"name": key[1], "ours": ours, "torch": torchs, "speedup": speedup(ours, torchs)}
        line["errors"] = [f"{engine_label(row.engine)}: {row.error}" for row in rows if row.error]
        groups.setdefault((DTYPE_NAMES[key[3]], key[2]), []).append(line)
    return [{"title": f"{mode}, {dtype}", "lines": lines} for (dtype, mode), lines in groups.items()]


def scaling_tables(results: Results) -> list[dict]:
    """One table per model, mode, dtype and axis: milliseconds, engines by values."""
    tables = []
    for (name, mode, dtype, axis), engines in curves(results).items():
        values = sorted({row.value for rows in engines.values() for row in rows})
        lines = []
        for engine, rows in engines.items():
            by_value = {row.value: row for row in rows}
            cells = [by_value.get(value) for value in values]
            lines.append({"engine": engine_label(engine), "ours": ENGINES[engine].ours, "cells": cells})
        title = f"{name}, {MODE_NAMES.get(mode, mode)}, {DTYPE_NAMES[dtype]}: ms against {axis}"
        tables.append({"title": title, "values": values, "lines": lines})
    return tables


def machine_lines(results: Results) -> list[tuple[str, str]]:
    m, ceilings = results.machine, results.machine.get("ceilings")
    lines = [("processor", f"{m['cpu']} ({m['vendor']}), {m['cores']} cores, {m['threads']} threads used")]
    lines.append(("instruction set", m["isa"] + (", AMX present" if m["amx"] else "")))
    if m.get("gpu"):
        lines.append(("GPU", f"{m['gpu']}, {m['gpu_memory_gb']} GB, CUDA {m['cuda']}, cuDNN {m['cudnn']}"))
    lines.append(("memory", f"{m['memory_gb']} GB" if m["memory_gb"] else "unknown"))
    libraries = [f"torch {m['torch']}", f"MKL {m['mkl']}", f"oneDNN {m['onednn']}", f"Python {m['python']}", m["os"]]
    lines.append(("software", ", ".join([f"dlperf {m['dlperf']}", *libraries])))
    if ceilings:
        rates = f"{ceilings['f32']:.0f} GFLOP/s float32, {ceilings['bf16']:.0f} bfloat16, {ceilings['gbps']:.0f} GB/s"
        lines.append(("ceilings", f"{rates} ({ceilings['source']})"))
        loops = [
            f"{isa} " + ", ".join(f"{rate:.0f} {dtype}" for dtype, rate in rates.items())
            for isa, rates in ceilings["loops"].items()
        ]
        if loops:
            lines.append(("per instruction set", "GFLOP/s: " + "; ".join(loops)))
        matmul = ceilings["torch_matmul"]
        lines.append(("torch.matmul", f"{matmul['float32']:.0f} GFLOP/s float32, {matmul['bfloat16']:.0f} bfloat16"))
    lines.append(("date", m["date"]))
    return lines


def render(results: Results, pictures: list[Path]) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["num"] = lambda value, form: "" if value is None else format(value, form)
    return environment.get_template("report.html.j2").render(
        results=results,
        device=results.machine.get("gpu", results.machine["cpu"]),
        machine=machine_lines(results),
        pictures=[{"name": p.stem, "data": inlined(p), "caption": CAPTIONS[p.stem]} for p in pictures],
        models=model_tables(results),
        kernels=kernel_tables(results),
        totals=model_totals(results),
        scaling=scaling_tables(results),
        memory=results.cases("memory"),
        label=engine_label,
        dtype_names=DTYPE_NAMES,
        layer_noise=LAYER_NOISE,
    )


def write(results: Results, pictures: list[Path], path: Path) -> Path:
    path.write_text(render(results, pictures))
    return path
