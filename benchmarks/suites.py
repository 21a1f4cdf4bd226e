"""What is run: the cases of the suites for given options, and their rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from . import diffusion, kernels, scaling
from .engines import DTYPES, prepare
from .layers import model_cost
from .models import PUBLIC
from .peers import OURS, Case, arguments, environment, why_not
from .public_models import Missing
from .results import MODES, Results, Row, row_from
from .timing import Engine, EngineError, Entry, Plan, ask_once, measure, package_job, scratch_directory

DEFAULT_MODELS = ("resnet18", "resnet50", "vit_small", "vit_base", "unet_cifar10", "unet_digits")
QUICK_MODELS = ("resnet18", "resnet50", "vit_tiny", "unet_cifar10", "unet_digits")
MEMORY_MODELS, QUICK_MEMORY_MODELS = ("resnet50", "vit_small", "unet_cifar10"), ("resnet18", "vit_tiny", "unet_digits")
QUICK_PUBLIC = ("timm_mobilenetv3", "timm_convnext_tiny", "torch_lstm")
KERNEL_MODELS = ("resnet18", "resnet50", "vit_small", "unet_cifar10")
QUICK_KERNEL_MODELS = ("resnet18", "resnet50")
BATCHES = {"inference": (1, 8), "train": (8,)}
QUICK_BATCHES = {"inference": (4,), "train": (4,)}
# A picture of these two takes the time of three of ResNet-18; digits are small.
QUICK_OWN_BATCH = {"resnet50": 2, "unet_cifar10": 2, "unet_digits": 64}
FULL = Plan(rounds=9, seconds=0.4, budget=60, least=5)
QUICK = Plan(rounds=5, seconds=0.1, budget=4, least=3)
FULL_KERNELS, QUICK_KERNELS = Plan(rounds=7, seconds=0.1), Plan(rounds=3, seconds=0.03)
MEMORY = Plan(rounds=1, seconds=0.0, most=1, warmup=2)  # the times are no measurement
COMPILED_IN_QUICK = ("resnet18",)  # in float32 inference
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
    def scaling_plan(self) -> Plan:
        return scaling.QUICK if self.quick else scaling.FULL

    def plan_of(self, suite: str) -> Plan:
        return {"scaling": self.scaling_plan, "memory": MEMORY}.get(suite, self.plan)

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


def public_cases(options: Options) -> list[Case]:
    """Inference alone, by default in float32."""
    models = options.models or (QUICK_PUBLIC if options.quick else tuple(PUBLIC))
    batches = options.batches or ((1,) if options.quick else BATCHES["inference"])
    return [
        Case(model, "inference", dtype, batch, options.device, options.threads, suite="public")
        for model in models
        for batch in batches
        for dtype in options.dtypes or ("f32",)
    ]


def memory_cases(options: Options) -> list[Case]:
    models = options.models or (QUICK_MEMORY_MODELS if options.quick else MEMORY_MODELS)
    return [
        Case(model, mode, dtype, batch, options.device, options.threads, suite="memory")
        for model in models
        for mode in options.modes
        for batch in options.batches or ((4,) if options.quick else (8,))
        for dtype in options.dtypes or ("f32",)
    ]


# The suites of whole models; that of kernels has cases of its own, and scaling some of both.
CASES = {
    "models": model_cases,
    "public": public_cases,
    "scaling": scaling.model_cases,
    "memory": memory_cases,
}
SUITES = ("models", "kernels", "public", "scaling", "memory", "diffusion")


def model_engines(case: Case, options: Options) -> list[str]:
    """dlperf first, then the peers; what can't run is left out unless the user named it."""
    engines = []
    for name in [*OURS, *options.peers]:
        named = options.explicit_peers and name in options.peers
        if case.suite == "scaling" and not named and name not in scaling.ENGINES:
            continue
        if named or why_not(name, case) is None:
            engines.append(name)
    return engines


def left_out(name: str, case: Case, options: Options) -> str | None:
    """Why a quick run does without an engine that could run the case, or None."""
    if not options.quick or options.explicit_peers or case.suite == "scaling":
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
    return [name for name in kernels.ENGINES if name in OURS or name in wanted]


def group_of(case: Case) -> tuple:
    """Cases that one float64 reference serves share it."""
    return case.model, case.mode, case.batch


def steps(options: Options) -> int:
    """Calls of `advance` that a run makes."""
    total = 0
    for suite in options.suites:
        cases = CASES[suite](options) if suite in CASES else []
        for case in cases:
            running = [name for name in model_engines(case, options) if left_out(name, case, options) is None]
            total += len(running) * (1 + options.plan_of(suite).rounds)
        total += len({group_of(case) for case in cases})
    if "diffusion" in options.suites:
        total += len(diffusion.cases(options.quick))
    return total + sum(len(layer_cases(suite, options)) for suite in options.suites)


def layer_cases(suite: str, options: Options) -> list[kernels.KernelCase]:
    """The single layers of a suite."""
    found = {"kernels": kernel_cases, "scaling": scaling.attention_cases}.get(suite)
    return found(options) if found else []


def run_suites(run: Run):
    for suite in run.options.suites:
        if suite in CASES:
            run_models(suite, run)
        elif suite == "diffusion":
            diffusion.run(run)
        run_layers(suite, run)


def run_models(suite: str, run: Run):
    options = run.options
    # A quick run keeps an engine's process from case to case: importing torch anew is a third of its time.
    workers = {} if options.quick and suite != "memory" else None
    with scratch_directory() as libraries:
        try:
            for _, cases in groupby(sorted_cases(suite, options), group_of):
                with scratch_directory() as directory:
                    run_cases([replace(case, directory=directory) for case in cases], run, workers, Path(libraries))
        finally:
            kernels.close(workers or {})


def sorted_cases(suite: str, options: Options) -> list[Case]:
    """A suite's cases in its order, but those of one group together."""
    groups = {}
    for case in CASES[suite](options):
        groups.setdefault(group_of(case), []).append(case)
    return [case for cases in groups.values() for case in cases]


def run_cases(cases: list[Case], run: Run, workers: dict[str, Engine] | None, libraries: Path):
    """Cases that differ in nothing but the dtype: one reference serves them."""
    options, first = run.options, cases[0]
    run.advance(f"{first.name}: float64 reference")
    try:
        what = prepare(first, options.checkpoint)
    except Missing as reason:
        run.note(f"{first.model} was left out: {reason}.")
        return
    run.note(f"{first.model}: {what}.")
    args = {"case": vars(first), "dtypes": list(dict.fromkeys(case.dtype for case in cases))}
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
    plan = options.plan_of(case.suite)
    measurements = measure(
        entries, plan, case.threads, workers, progress=lambda text: run.advance(f"{case.name}: {text}")
    )
    cost = model_cost(case.model, case.batch, case.mode, DTYPES[case.dtype].itemsize)
    return [row_from(m, case.row_fields, cost, run.ceilings, "flops") for m in measurements]


def run_layers(suite: str, run: Run):
    options, engines = run.options, kernel_engines(run.options)
    plan = options.kernel_plan
    # The layers of the kernel suite share processes; where memory is part of the result each has fresh ones.
    workers = None if suite == "scaling" and not options.quick else {}
    with scratch_directory() as directory:
        try:
            for case in layer_cases(suite, options):
                run.advance(f"{case.name} {case.mode} {case.dtype}")
                threads = options.threads
                run.add(kernels.run_kernel(case, engines, plan, threads, run.ceilings, workers, Path(directory)))
        finally:
            kernels.close(workers or {})
