"""The diffusion suite: a sampler's step, whole loops, training, and latent diffusion's parts, beside their peers.

dlperf bench diffusion [--quick]
"""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

from .layers import model_cost
from .peers import Case as ModelCase
from .peers import environment, why_not
from .results import Row, find, row_from, speedup
from .timing import Engine, Entry, Plan, measure, package_job, scratch_directory

SHAPES = ((3, 32, 32), (4, 64, 64), (4, 128, 128))
BATCHES = (1, 16, 64, 256)
QUICK_STEPS = {((3, 32, 32), 64), ((4, 128, 128), 16), ((4, 128, 128), 256)}
VARIANTS = {  # tensors that a step reads and writes
    "ddim": 3,  # x, model; x'
    "ddim-noise": 4,  # and the noise
    "ddpm": 3,  # noise made inside
}
STEP_LABELS = {
    "ddim": "DDIM, no noise",
    "ddim-noise": "DDIM, eta 1, noise passed in",
    "ddpm": "DDPM, noise made in the step",
}
LABELS = {
    "dlperf": "dlperf",
    "diffusers": "diffusers",
    "diffusers-compile": "diffusers, compiled",
    "diffusers-mkl": "diffusers, MKL unlocked",
    "eager-nhwc": "torch eager, channels_last",
    "compile": "torch.compile",
}
PLANS = {
    "step": (Plan(rounds=9, seconds=0.05), Plan(rounds=5, seconds=0.03)),
    "sampling": (
        Plan(rounds=3, seconds=0.0, most=1, warmup=0, least=1, budget=120, turn_limit=900),
        Plan(rounds=2, seconds=0.0, most=1, warmup=0, turn_limit=300),
    ),
    "train": (Plan(rounds=9, seconds=0.5), Plan(rounds=3, seconds=0.2)),
    "latent": (Plan(rounds=9, seconds=0.5), Plan(rounds=3, seconds=0.2)),
}


@dataclass(frozen=True)
class Case:
    kind: str  # step, sampling, train, latent
    name: str
    batch: int
    args: dict = field(hash=False)
    engines: tuple[str, ...]
    label: str = ""
    cost: tuple[int, int] = (0, 0)  # operations and bytes
    elements: int = 0  # of a step's result


def step_cases(quick: bool) -> list[Case]:
    engines = ("dlperf", "diffusers", "diffusers-compile")
    cases = []
    for variant, tensors in VARIANTS.items():
        for shape in SHAPES:
            for batch in BATCHES:
                if quick and (shape, batch) not in QUICK_STEPS:
                    continue
                c, h, w = shape
                elements = batch * c * h * w
                name = f"{variant}/{c}x{h}x{w}"
                args = {"variant": variant, "shape": [batch, *shape]}
                cost = (0, 4 * tensors * elements)
                cases.append(Case("step", name, batch, args, engines, STEP_LABELS[variant], cost, elements))
    return cases


def sampling_cases(quick: bool) -> list[Case]:
    engines = ("dlperf", "diffusers") if quick else ("dlperf", "diffusers", "diffusers-compile", "diffusers-mkl")
    loops = [("unet_digits", "ddim", 50, 64), ("unet_cifar10", "ddim", 50, 1)]
    if not quick:
        loops += [("unet_cifar10", "ddim", 50, 8), ("unet_digits", "ddpm", 1000, 64), ("unet_cifar10", "ddpm", 1000, 1)]
    cases = []
    for model, scheduler, steps, batch in loops:
        flops, moved = model_cost(model, batch, "inference", 4)
        args = {"model": model, "scheduler": scheduler, "steps": steps, "batch": batch}
        label = f"{steps} steps of {scheduler.upper()}"
        cost = (flops * steps, moved * steps)
        cases.append(Case("sampling", f"{model}/{scheduler}-{steps}", batch, args, engines, label, cost))
    return cases


def train_cases(quick: bool) -> list[Case]:
    engines = ("dlperf", "eager-nhwc") if quick else ("dlperf", "eager-nhwc", "compile")
    cases = []
    for model, batch in (("unet_digits", 64), ("unet_cifar10", 2 if quick else 4)):
        args, cost = {"model": model, "batch": batch}, model_cost(model, batch, "train", 4)
        cases.append(Case("train", model, batch, args, engines, "a step with AdamW and averaged weights", cost))
    return cases


def latent_cases(quick: bool) -> list[Case]:
    engines = ("dlperf", "eager-nhwc") if quick else ("dlperf", "eager-nhwc", "compile")
    labels = {"cross-attention-unet": "latents 4x32x32, 77 tokens", "vae-decoder": "latents 4x32x32 to 3x128x128"}
    return [
        Case("latent", model, batch, {"model": model, "batch": batch}, engines, label)
        for model, label in labels.items()
        for batch in ((1,) if quick else (1, 4))
    ]


def cases(quick: bool) -> list[Case]:
    return [*step_cases(quick), *sampling_cases(quick), *train_cases(quick), *latent_cases(quick)]


def missing() -> str | None:
    if importlib.util.find_spec("diffusers") is None:
        return "diffusers not installed (pip install 'dlperf[peers]')"
    return None


def entry(engine: str, case: Case, threads: int, scratch: Path) -> Entry:
    needs = engine.startswith("diffusers") or case.kind == "latent"
    reason, env = missing() if needs else None, {}
    if reason is None and engine.endswith("-mkl"):
        reason = why_not("eager-mkl", ModelCase("", "inference", "f32", case.batch))
        if reason is None:
            try:
                env = environment(engine, scratch)
            except RuntimeError as error:
                reason = str(error)
    job = package_job("diffusion_jobs", f"{case.kind}_job")
    return Entry(engine, job, {"engine": engine, "threads": threads, **case.args}, env, reason)


def rows_of(case: Case, measurements, ceilings: dict) -> list[Row]:
    fields = {"suite": "diffusion", "name": case.name, "mode": case.kind, "dtype": "f32", "batch": case.batch}
    rows = []
    for measurement in measurements:
        flops = measurement.info.get("flops", case.cost[0])
        bound = "bytes" if case.kind == "step" else "flops"
        rows.append(row_from(measurement, fields | {"label": case.label}, (flops, case.cost[1]), ceilings, bound))
    return rows


def run(state) -> None:
    """Every case of the suite into `state`, a suites.Run."""
    options, workers = state.options, {}
    with scratch_directory() as directory:
        try:
            for case in cases(options.quick):
                state.advance(f"{case.name} batch {case.batch}")
                plan = PLANS[case.kind][options.quick]
                entries = [entry(engine, case, options.threads, Path(directory)) for engine in case.engines]
                # Steps are short and many: their engines live on. The others start afresh, so that memory is theirs.
                kept = workers if case.kind == "step" else None
                state.add(rows_of(case, measure(entries, plan, options.threads, kept), state.ceilings))
        finally:
            close(workers)


def close(workers: dict[str, Engine]) -> None:
    for worker in workers.values():
        worker.close()


# --- what is printed ------------------------------------------------------------------------------


def best_peer(rows: list[Row]) -> Row | None:
    return min((r for r in rows if r.engine != "dlperf" and r.comparable), key=lambda r: r.median_ms, default=None)


def cell(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def tables(results) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, columns, cells) for each kind of case that ran."""
    found: dict[str, list[list[str]]] = {}
    for (_, name, kind, _, batch), rows in results.cases("diffusion").items():
        found.setdefault(kind, []).append(step_line(name, batch, rows) if kind == "step" else line(name, batch, rows))
    titles = {
        "step": "One step of a sampler",
        "sampling": "Whole loops",
        "train": "Training steps",
        "latent": "Latent diffusion, diffusers' models through dlperf.optimize",
    }
    step = ["step", "batch", "dlperf us", "GB/s", "of copy", "1e9 normals/s", "vs diffusers", "vs compiled"]
    other = ["case", "batch", "dlperf ms", "pictures/s", "GFLOP/s", "MB", "best peer", "its ms", "vs eager", "vs best"]
    return [(titles[kind], step if kind == "step" else other, cells) for kind, cells in found.items()]


def step_line(name: str, batch: int, rows: list[Row]) -> list[str]:
    ours = find(rows, "dlperf")
    normals = None
    if name.startswith("ddpm") and ours.comparable:
        normals = ours.bytes / 4 / VARIANTS["ddpm"] / ours.median_ms / 1e6
    return [
        name,
        str(batch),
        cell(ours.median_ms and 1e3 * ours.median_ms, "{:.0f}"),
        cell(ours.gbps, "{:.1f}"),
        cell(ours.share_of_ceiling, "{:.0%}"),
        cell(normals, "{:.2f}"),
        cell(speedup(ours, find(rows, "diffusers")), "{:.1f}x"),
        cell(speedup(ours, find(rows, "diffusers-compile")), "{:.1f}x"),
    ]


def line(name: str, batch: int, rows: list[Row]) -> list[str]:
    ours, peer = find(rows, "dlperf"), best_peer(rows)
    eager = find(rows, "diffusers") or find(rows, "eager-nhwc")
    return [
        name,
        str(batch),
        cell(ours.median_ms, "{:.1f}"),
        cell(ours.median_ms and 1e3 * batch / ours.median_ms, "{:.2f}"),
        cell(ours.gflops, "{:.0f}"),
        cell(ours.peak_mem_mb, "{:.0f}"),
        LABELS[peer.engine] if peer else "",
        cell(peer.median_ms if peer else None, "{:.1f}"),
        cell(speedup(ours, eager), "{:.2f}x"),
        cell(speedup(ours, peer), "{:.2f}x"),
    ]


def errors(results) -> list[str]:
    """A line for every engine that did not run or did not pass its check."""
    return [
        f"  {row.name} batch {row.batch}, {LABELS[row.engine]}: {row.error}"
        for row in results.rows
        if row.suite == "diffusion" and row.error
    ]


def markdown(results) -> str:
    """The tables for a document."""
    parts = []
    for title, columns, cells in tables(results):
        parts += [f"{title}:", "", "| " + " | ".join(columns) + " |", "|---" + "|--:" * (len(columns) - 1) + "|"]
        parts += ["| " + " | ".join(row) + " |" for row in cells] + [""]
    return "\n".join(parts)
