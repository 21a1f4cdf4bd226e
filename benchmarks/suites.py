"""What is run: the cases of the two suites for given options, and their rows."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import kernels
from .engines import DTYPES, prepare
from .layers import model_cost
from .peers import OURS, Case, arguments, environment, why_not
from .results import MODES, Results, Row, row_from
from .timing import EngineError, Entry, Plan, ask_once, measure, package_job, scratch_directory

DEFAULT_MODELS = ("resnet18", "resnet50")
DEFAULT_BATCHES = {"inference": (1, 8), "train": (8,)}
FULL, QUICK = Plan(rounds=15, seconds=0.5), Plan(rounds=5, seconds=0.2)
FULL_KERNELS, QUICK_KERNELS = Plan(rounds=7, seconds=0.1), Plan(rounds=3, seconds=0.03)
COMPILE_SKIPPED = (
    "Quick run: torch.compile is left out of ResNet-50's training step, where compiling alone takes longer than all "
    "other measurements of the case; run without --quick to include it."
)


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
    inputs: set[str] = field(default_factory=set)

    def note(self, text: str):
        if text not in self.results.notes:
            self.results.notes.append(text)

    def add(self, rows: list[Row]):
        self.results.rows += rows
        self.finished(rows)


def model_cases(options: Options) -> list[Case]:
    cases = []
    for model in options.models or DEFAULT_MODELS:
        for mode in options.modes:
            for dtype in options.dtypes or ("f32", "bf16"):
                for batch in options.batches or DEFAULT_BATCHES[mode]:
                    # bfloat16 is one case of a quick run, unless it is asked for.
                    first = (model, mode, batch) == ("resnet50", "inference", 8)
                    if options.quick and not options.dtypes and dtype == "bf16" and not first:
                        continue
                    cases.append(Case(model, mode, dtype, batch, options.device, options.threads))
    return cases


def model_engines(case: Case, options: Options) -> list[str]:
    """dlperf first, then the peers; what can't run is left out unless the user named it."""
    engines = []
    for name in [*OURS, *options.peers]:
        if options.quick and not options.explicit_peers:
            if name == "compile" and (case.model, case.mode) == ("resnet50", "train"):
                continue
            if name == "dlperf-optimize" and case.mode == "train":
                continue
        named = options.explicit_peers and name in options.peers
        if name == "dlperf" or named or why_not(name, case) is None:
            engines.append(name)
    return engines


def kernel_cases(options: Options) -> list[kernels.KernelCase]:
    batch = max(options.batches) if options.batches else 8
    dtypes = options.dtypes or (("f32",) if options.quick else ("f32", "bf16"))
    modes = MODES["kernels"] if "train" in options.modes else ("forward",)
    listed = kernels.uses(list(options.models or DEFAULT_MODELS), batch)
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
            total += len(model_engines(case, options)) * (1 + options.plan.rounds) + 1
    if "kernels" in options.suites:
        total += len(kernel_cases(options))
    return total


def run_models(run: Run):
    options = run.options
    for case in model_cases(options):
        with scratch_directory() as directory:
            case = replace(case, directory=directory)
            run.advance(f"{case.name}: float64 reference")
            what = prepare(case, options.checkpoint)
            run.note(f"Inputs: {what}; labels in training are random.")
            args = {"case": vars(case), "dtypes": [case.dtype]}
            try:
                job = package_job("engines", "reference_job")
                ask_once(job, args, options.threads, options.plan.setup_limit)
            except EngineError as error:
                run.note(f"{case.name} was left out: its float64 reference failed ({error}).")
                continue
            run.add(run_case(case, run))


def run_case(case: Case, run: Run) -> list[Row]:
    options, job = run.options, package_job("engines", "model_job")
    entries = []
    for name in model_engines(case, options):
        reason = why_not(name, case)
        env = {}
        if reason is None:
            try:
                env = environment(name, Path(case.directory))
            except RuntimeError as error:
                reason = str(error)
        entries.append(Entry(name, job, arguments(name, case), env, reason))
    if "compile" in options.peers and not any(entry.engine == "compile" for entry in entries):
        run.note(COMPILE_SKIPPED)
    measurements = measure(
        entries, options.plan, options.threads, progress=lambda text: run.advance(f"{case.name}: {text}")
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
