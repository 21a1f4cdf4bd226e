"""What is run: the cases of the two suites for given options, and their rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from . import kernels
from .engines import DTYPES, prepare
from .layers import model_cost
from .peers import OURS, Case, arguments, environment, why_not
from .results import MODES, Results, Row, row_from
from .timing import Engine, EngineError, Entry, Plan, ask_once, measure, package_job, scratch_directory

DEFAULT_MODELS = ("resnet18", "resnet50", "vit_small", "vit_base", "unet_cifar10", "unet_digits")
QUICK_MODELS = ("resnet18", "resnet50", "vit_tiny", "unet_cifar10", "unet_digits")
KERNEL_MODELS = ("resnet18", "resnet50", "vit_small", "unet_cifar10")
QUICK_KERNEL_MODELS = ("resnet18", "resnet50")
BATCHES = {"inference": (1, 8), "train": (8,)}
QUICK_BATCHES = {"inference": (4,), "train": (4,)}
QUICK_OWN_BATCH = {"unet_cifar10": 2, "unet_digits": 64}  # one picture for 32x32 takes the time of three ResNet-18
FULL = Plan(rounds=15, seconds=0.5, budget=90, least=5)
QUICK = Plan(rounds=5, seconds=0.1, budget=2, least=3)
FULL_KERNELS, QUICK_KERNELS = Plan(rounds=7, seconds=0.1), Plan(rounds=3, seconds=0.03)
COMPILED_IN_QUICK = ("resnet18", "vit_tiny")  # in float32 inference
NOT_IN_QUICK = {
    "compile": "not in a quick run, where compiling would take longer than all else in this case",
    "eager": "not in a quick run: torch eager with channels_last stands for it",
}


@dataclass(frozen=True)
class Options:
    suites: tuple[str, ...] = ("models", "kernels")
    models: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("inference", "train")
    dtypes: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    peers: tuple[str, ...] = ()
    explicit_peers: bool = False  # named by the user: an engine that can't run is then shown with its reason
    quick: bool = False
    threads: int = 1
    device: str = "cpu"
    checkpoint: str | None = None

    @property
    def plan(self) -> Plan:
        return QUICK if self.quick else FULL

    @property
    def kernel_plan(self) -> Plan:
        return QUICK_KERNELS if self.quick else FULL_KERNELS


@dataclass
class Run:
    """One run's state: where rows and notes go, and what the user sees meanwhile."""

    options: Options
    results: Results
    ceilings: dict
    advance: Callable[[str], None] = lambda text: None
    finished: Callable[[list[Row]], None] = lambda rows: None

    def note(self, text: str):
        if text not in self.results.notes:
            self.results.notes.append(text)

    def add(self, rows: list[Row]):
        self.results.rows += rows
        self.finished(rows)


def model_cases(options: Options) -> list[Case]:
    cases = []
    batches = QUICK_BATCHES if options.quick else BATCHES
    for model in options.models or (QUICK_MODELS if options.quick else DEFAULT_MODELS):
        own = QUICK_OWN_BATCH.get(model) if options.quick else None
        for mode in options.modes:
            for batch in options.batches or ((own,) if own else batches[mode]):
                for dtype in options.dtypes or ("f32", "bf16"):  # both are held against one reference
                    cases.append(Case(model, mode, dtype, batch, options.device, options.threads))
    return cases


def model_engines(case: Case, options: Options) -> list[str]:
    """dlperf first, then the peers; what can't run is left out unless the user named it."""
    engines = []
    for name in [*OURS, *options.peers]:
        named = options.explicit_peers and name in options.peers
        if name == "dlperf" or named or why_not(name, case) is None:
            engines.append(name)
    return engines


def left_out(name: str, case: Case, options: Options) -> str | None:
    """Why a quick run does without an engine that could run the case, or None."""
    if not options.quick or options.explicit_peers:
        return None
    if name == "compile" and case.model in COMPILED_IN_QUICK and (case.mode, case.dtype) == ("inference", "f32"):
        return None
    return NOT_IN_QUICK.get(name)


def kernel_cases(options: Options) -> list[kernels.KernelCase]:
    batch = max(options.batches) if options.batches else 8
    dtypes = options.dtypes or (("f32",) if options.quick else ("f32", "bf16"))
    modes = MODES["kernels"] if "train" in options.modes else ("forward",)
    models = options.models or (QUICK_KERNEL_MODELS if options.quick else KERNEL_MODELS)
    listed = kernels.uses(list(models), batch)
    return [
        kernels.KernelCase(name, use, mode, dtype, batch) for dtype in dtypes for mode in modes for name, use in listed
    ]


def kernel_engines(options: Options) -> list[str]:
    wanted = options.peers if options.explicit_peers else [p for p in options.peers if p != "eager"]
    return [name for name in kernels.ENGINES if name == "dlperf" or name in wanted]


def steps(options: Options) -> int:
    """Calls of `advance` that a run makes."""
    total = 0
    if "models" in options.suites:
        for case in model_cases(options):
            running = [name for name in model_engines(case, options) if left_out(name, case, options) is None]
            total += len(running) * (1 + options.plan.rounds)
        total += len({(case.model, case.mode, case.batch) for case in model_cases(options)})
    if "kernels" in options.suites:
        total += len(kernel_cases(options))
    return total


def run_models(run: Run):
    options = run.options
    # A quick run keeps an engine's process from case to case: importing torch anew is a third of its time.
    workers = {} if options.quick else None
    with scratch_directory() as libraries:
        try:
            for _, cases in groupby(model_cases(options), lambda case: (case.model, case.mode, case.batch)):
                with scratch_directory() as directory:
                    run_cases([replace(case, directory=directory) for case in cases], run, workers, Path(libraries))
        finally:
            kernels.close(workers or {})


def run_cases(cases: list[Case], run: Run, workers: dict[str, Engine] | None, libraries: Path):
    """Cases that differ in nothing but the dtype: one reference serves them."""
    options, first = run.options, cases[0]
    run.advance(f"{first.name}: float64 reference")
    what = prepare(first, options.checkpoint)
    run.note(f"{first.model}: {what}.")
    args = {"case": vars(first), "dtypes": [case.dtype for case in cases]}
    try:
        ask_once(package_job("engines", "reference_job"), args, options.threads, options.plan.setup_limit)
    except EngineError as error:
        run.note(f"{first.name} was left out: its float64 reference failed ({error}).")
        return
    for case in cases:
        run.add(run_case(case, run, workers, libraries))


def run_case(case: Case, run: Run, workers: dict[str, Engine] | None, libraries: Path) -> list[Row]:
    options, job = run.options, package_job("engines", "model_job")
    entries = []
    for name in model_engines(case, options):
        reason = why_not(name, case) or left_out(name, case, options)
        env = {}
        if reason is None:
            try:
                env = environment(name, libraries)
            except RuntimeError as error:
                reason = str(error)
        entries.append(Entry(name, job, arguments(name, case), env, reason))
    measurements = measure(
        entries, options.plan, options.threads, workers, progress=lambda text: run.advance(f"{case.name}: {text}")
    )
    cost = model_cost(case.model, case.batch, case.mode, DTYPES[case.dtype].itemsize)
    fields = {"suite": "models", "name": case.model, "mode": case.mode, "dtype": case.dtype, "batch": case.batch}
    return [row_from(m, fields, cost, run.ceilings, "flops") for m in measurements]


def run_kernels(run: Run):
    options, workers = run.options, {}
    engines = kernel_engines(options)
    with scratch_directory() as directory:
        try:
            for case in kernel_cases(options):
                run.advance(f"{case.name} {case.mode} {case.dtype}")
                plan, threads = options.kernel_plan, options.threads
                run.add(kernels.run_kernel(case, engines, plan, threads, run.ceilings, workers, Path(directory)))
        finally:
            kernels.close(workers)
