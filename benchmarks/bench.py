"""`dlperf bench`: options, the run, and what it leaves in --out."""

import argparse
import importlib.util
import sys
import time
from pathlib import Path

import torch

from . import compare, machine, printed, suites
from .compare import BadArgument
from .console import Console
from .engines import finite, read_checkpoint
from .models import MODELS, PUBLIC, seeded
from .peers import ENGINES, OURS, PEERS, default_peers
from .results import Results
from .timing import EngineError, ask_once, package_job


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", nargs="?", choices=suites.SUITES, help="default: models and kernels")
    parser.add_argument("--mode", choices=("inference", "train"), help="default: both")
    parser.add_argument("--dtype", choices=("f32", "bf16"), help="default: both")
    parser.add_argument("--batch", nargs="+", type=int, metavar="N", help="default: 1 and 8, in training 8; --quick: 4")
    parser.add_argument(
        "--model",
        nargs="+",
        metavar="NAME",
        help=f"of {', '.join(MODELS)}; in the suite public of {', '.join(PUBLIC)}; default: some of each kind",
    )
    parser.add_argument("--peers", metavar="LIST", help=f"comma-separated, of {', '.join(PEERS)}; or all")
    parser.add_argument("--quick", action="store_true", help="few rounds, few cases: under 6 minutes on 2 cores")
    parser.add_argument("--threads", type=int, metavar="N", help="default: every core this process may use")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--checkpoint", metavar="PATH", help="a state_dict (.pt or .safetensors) for the one --model")
    compare.add_arguments(parser)
    parser.add_argument("--out", default="bench-out", metavar="DIR", help="default: bench-out")


def options_from(args) -> suites.Options:
    """The checked options; raises BadArgument."""
    known = PUBLIC if args.suite == "public" else MODELS
    for name in args.model or ():
        if name not in known:
            raise BadArgument(f"--model {name}: no such model; choose from {', '.join(known)}")
    if args.suite == "public" and args.mode == "train":
        raise BadArgument("--mode train: the models of the suite public are measured in inference only")
    for batch in args.batch or ():
        if batch < 1:
            raise BadArgument(f"--batch {batch}: give numbers of 1 or more")
    if args.threads is not None and args.threads < 1:
        raise BadArgument(f"--threads {args.threads}: give a number of 1 or more")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise BadArgument("--device cuda: torch sees no GPU here; leave the option out to measure the CPU")
    if args.device == "cuda" and args.suite not in (None, "models"):
        raise BadArgument(
            f"--device cuda: the suite {args.suite} measures the CPU; use `dlperf bench models --device cuda`"
        )
    check_checkpoint(args)
    threads = args.threads or machine.cores()
    peers = peers_from(args.peers)
    if args.device == "cuda" and args.peers is None:
        peers = [name for name in peers if "cuda" in ENGINES[name].devices]
    default = ("models",) if args.device == "cuda" else ("models", "kernels")
    return suites.Options(
        suites=(args.suite,) if args.suite else default,
        models=tuple(dict.fromkeys(args.model or ())),
        modes=(args.mode,) if args.mode else ("inference", "train"),
        dtypes=(args.dtype,) if args.dtype else (),
        batches=tuple(sorted(set(args.batch or ()))),
        peers=tuple(peers),
        explicit_peers=args.peers is not None,
        quick=args.quick,
        threads=threads,
        device=args.device,
        checkpoint=str(Path(args.checkpoint).resolve()) if args.checkpoint else None,
    )


def peers_from(text: str | None) -> list[str]:
    if text is None:
        return default_peers()
    if text == "all":
        return list(PEERS)
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in PEERS:
            raise BadArgument(f"--peers {name}: no such peer; choose from {', '.join(PEERS)}, or all")
    if not names:
        raise BadArgument(f"--peers: the list is empty; choose from {', '.join(PEERS)}, or all")
    return list(dict.fromkeys(names))


def check_checkpoint(args):
    if args.checkpoint is None:
        return
    if args.model is None or len(args.model) != 1:
        raise BadArgument("--checkpoint: say which model it belongs to, with one --model NAME")
    try:
        seeded(args.model[0]).load_state_dict(read_checkpoint(args.checkpoint))
    except Exception as error:  # whatever a broken file makes the loaders raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadArgument(f"--checkpoint {args.checkpoint}: not a state_dict of {args.model[0]} ({reason})") from None


def run(args) -> int:
    console = Console()
    try:
        old = compare.load(args)
        if args.results is not None:
            return compare.run(old, compare.read(args.results, "--results"), args.threshold, console)
        compare.repeat(args, old)
        options = options_from(args)
        out = output_directory(args.out)
    except BadArgument as error:
        print(f"dlperf bench: {error}", file=sys.stderr)
        return 2
    start = time.monotonic()
    settings = {**settings_of(options), "given": compare.given(args)}
    results = Results(machine.describe(options.device, options.threads), settings)
    ceilings = measure_ceilings(options, results, console)
    state = suites.Run(options, results, ceilings)
    state.results.notes += opening_notes(options, results.machine)
    with console.progress(suites.steps(options)) as advance:
        state.advance = advance
        state.finished = lambda rows: results.save(out / "results.json")  # an interrupted run keeps what it has
        suites.run_suites(state)
    results.settings["seconds"] = round(time.monotonic() - start)
    results.save(out / "results.json")
    printed.print_tables(results, console)
    written = [out / "results.json", *write_pictures(results, out, console)]
    for note in results.notes:
        console.print(f"* {note}")
    console.print(f"{results.settings['seconds']} s; wrote {', '.join(str(path) for path in written)}")
    failed = 1 if any(row.error for row in results.rows if row.engine in OURS) else 0
    return max(failed, compare.run(old, results, args.threshold, console)) if old else failed


def output_directory(path: str) -> Path:
    out = Path(path)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.json").touch()
    except OSError as error:
        raise BadArgument(f"--out {path}: can't be written ({error.strerror}); name another folder") from None
    return out


def settings_of(options: suites.Options) -> dict:
    models, kernels = options.plan, options.kernel_plan
    return {
        "quick": options.quick,
        "suites": list(options.suites),
        "rounds": {"models": models.rounds, "kernels": kernels.rounds},
        "least_rounds": {"models": models.least, "kernels": kernels.least},
        "budget_seconds": {"models": finite(models.budget), "kernels": finite(kernels.budget)},
        "turn_seconds": {"models": models.seconds, "kernels": kernels.seconds},
        "checkpoint": Path(options.checkpoint).name if options.checkpoint else None,
    }


def measure_ceilings(options: suites.Options, results: Results, console: Console) -> dict:
    console.print("Measuring this machine's ceilings ...")
    job, args = package_job("ceilings", "ceilings_job"), {"device": options.device, "threads": options.threads}
    try:
        ceilings = ask_once(job, args, options.threads, limit=300)
    except EngineError as error:
        results.notes.append(f"The ceilings could not be measured ({error}): no shares are given.")
        return {}
    results.machine["ceilings"] = ceilings
    console.print(
        f"{results.machine.get('gpu', results.machine['cpu'])}, {results.machine['threads']} threads: "
        f"{ceilings['f32']:.0f} GFLOP/s float32, {ceilings['bf16']:.0f} bfloat16, {ceilings['gbps']:.0f} GB/s"
    )
    return ceilings


def opening_notes(options: suites.Options, described: dict) -> list[str]:
    notes = []
    if options.checkpoint:
        notes.append(f"Weights: the checkpoint {Path(options.checkpoint).name}.")
    elif set(options.suites) & set(suites.CASES):
        notes.append("Weights: random (--checkpoint PATH loads real ones). Speed does not depend on them.")
    if described["isa"] == "avx512_amx" and described["device"] == "cpu":
        notes.append(
            "This processor has AMX. The float32 ceiling is that of multiply-adds: products of float32 in three parts "
            "of bfloat16 may pass it."
        )
    if options.quick:
        notes.append(
            f"Quick run: {options.plan.least} to {options.plan.rounds} rounds a case, as many as "
            f"{options.plan.budget:.0f} seconds allow. Small differences mean nothing. An engine keeps its process "
            "from case to case, so peak memory is not measured."
        )
    if "memory" in options.suites:
        notes.append("Peak memory: a fresh process for each engine and case, and a few steps. Its times mean nothing.")
    if "kernels" in options.suites:
        notes.append(
            "Kernels: bytes are counted as every operand read once and every result written once; a layer whose "
            "tensors stay in the caches can pass the bandwidth of a large copy."
        )
    return notes


def write_pictures(results: Results, out: Path, console: Console) -> list[Path]:
    missing = [name for name in ("matplotlib", "jinja2") if importlib.util.find_spec(name) is None]
    if missing:
        console.print(f"No charts and no report: {', '.join(missing)} not installed (pip install 'dlperf[bench]').")
        return []
    from . import charts, report

    pictures = charts.write_all(results, out)
    return [*pictures, report.write(results, pictures, out / "report.html")]
