"""The command line: dlperf info | check | bench | demo | train-ddpm | sample."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from . import __version__


class UsageError(Exception):
    """One line that says what was wrong with the command and how to mend it; exit code 2."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"dlperf: {message} (see {self.prog} --help)\n")


def _console():
    from rich.console import Console

    return Console()


# --- info -------------------------------------------------------------------------------------------


def _info(args) -> int:
    import torch
    from rich.table import Table

    from . import backends
    from .backends import cpu

    console = _console()
    table = Table(show_header=False, title="dlperf info")
    table.add_row("dlperf", __version__)
    table.add_row("python", platform.python_version())
    table.add_row("torch", torch.__version__)
    table.add_row("triton", _version("triton"))
    table.add_row("processor", _processor())
    table.add_row("threads", str(torch.get_num_threads()))
    if cpu.available() is None:
        table.add_row("instruction set", f"{cpu.isa()} (this processor has {cpu.C.detected_isa()})")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    table.add_row("gpu", ", ".join(gpus) or "none")
    console.print(table)

    table = Table(title="backends, in the order they are tried")
    for column in ("device", "backend", "state"):
        table.add_column(column, overflow="fold")
    for device, order in backends.ORDER.items():
        for name in order:
            module = backends.load(name)
            table.add_row(device, name, module.available() or getattr(module, "state", lambda: "available")())
    console.print(table)
    if backends.named():
        console.print(f"DLPERF_BACKEND pins every call to {backends.named()!r}")
    return 0


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


# --- check ------------------------------------------------------------------------------------------


def _check(args) -> int:
    from rich.progress import Progress
    from rich.table import Table

    from . import backends
    from .backends import cpu
    from .testing.cases import FAMILIES
    from .testing.check import check, machine

    backend = args.backend or ("cpu" if args.device == "cpu" else "triton")
    if backend == "triton" and args.device == "cpu" and not os.environ.get("TRITON_INTERPRET"):
        return _check_in_the_interpreter(args)
    reason = backends.load(backend).available()
    if reason is not None:
        raise UsageError(f"the {backend!r} backend is not available: {reason}")
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise UsageError("--device cuda: torch sees no GPU here")
    unknown = [f for f in args.family if f not in FAMILIES]
    if unknown:
        raise UsageError(f"--family {unknown[0]}: expected one of {', '.join(FAMILIES)}")
    isas = _isas(args.isa) if backend == "cpu" else [None]

    console = _console()
    console.print(", ".join(f"{k} {v}" for k, v in machine().items()), highlight=False)
    if backend == "triton" and args.device == "cuda":
        console.print(_precompile(args.family or FAMILIES), highlight=False)
    all_ok = True
    for isa in isas:
        if isa is not None:
            cpu.C.set_isa_cap(isa)
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task("checking", total=None)
            results = check(
                backend,
                device=args.device,
                families=args.family or None,
                progress=lambda family, bar=bar, task=task: bar.update(task, advance=1, description=family),
            )
        table = Table(title=f"{backend} backend" + (f", {isa}" if isa else ""))
        for column in ("family", "served", "declined", "failed", "worst error / bound", ""):
            table.add_column(column, justify="left" if column in ("family", "") else "right")
        for r in results:
            declined = sum(r.declined.values())
            verdict = "[green]ok[/green]" if r.ok else "[red]FAILED[/red]"
            if not r.claimed:
                verdict = "not claimed"
            table.add_row(r.family, str(r.served), str(declined), str(len(r.failures)), f"{r.worst:.2f}", verdict)
        console.print(table)
        for r in results:
            for failure in r.failures[:10]:
                console.print(f"{r.family}: {failure}", style="red", highlight=False)
            if r.claimed and r.served == 0:
                console.print(f"{r.family}: the backend claims this family and served no case", style="red")
        all_ok = all_ok and all(r.ok for r in results)
    if args.record is not None:
        console.print(_record(backend, args, results), highlight=False)
    return 0 if all_ok else 1


def _precompile(families) -> str:
    import torch

    from .kernels import precompile

    start, device = time.monotonic(), torch.cuda.current_device()
    variants = precompile.launched_by_cases(families, f"cuda:{device}")
    compiled = precompile.compile_all(variants, device)
    return f"{compiled} of {len(variants)} variants of the kernels compiled in {time.monotonic() - start:.0f} s"


def _check_in_the_interpreter(args) -> int:
    """Triton decides at import whether it interprets: so in a process of its own."""
    command = [sys.executable, "-c", "import sys; from dlperf.cli import main; sys.exit(main())", "check"]
    command += ["--backend", "triton", *(["--family", *args.family] if args.family else [])]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONWARNINGS": "ignore::RuntimeWarning"}
    return subprocess.run(command, env=environment).returncode


def _record(backend: str, args, results) -> str:
    """Writes which kernels passed on this card, and says where."""
    import torch

    from . import backends

    if backend not in ("triton", "cuda") or args.device != "cuda":
        raise UsageError("--record takes --backend triton or cuda with --device cuda: other backends need no record")
    verified = importlib.import_module(
        ".kernels.verified" if backend == "triton" else ".backends.cuda.verified", __package__
    )
    family_of = backends.load(backend).FAMILY_OF
    failed = {family_of[op] for r in results if r.failures for op in r.operators}
    # what broke before it was served can be any kernel of its family
    failed |= {r.family for r in results if r.failures}
    passed = sorted({family_of[op] for r in results if r.ok for op in r.operators} - failed)
    name = torch.cuda.get_device_name()
    path = Path(args.record) if args.record else verified.cached_record(name)
    verified.write(path, name, passed)
    return f"verified on {name}: {', '.join(passed) or 'nothing'}; recorded in {path}"


def _isas(names: list[str]) -> list[str]:
    from .backends import cpu

    have = list(cpu.C.ISAS)[: list(cpu.C.ISAS).index(cpu.C.detected_isa()) + 1]
    if not names:
        return [cpu.isa()]
    if "all" in names:
        return have
    for name in names:
        if name not in have:
            raise UsageError(f"--isa {name}: this processor has {', '.join(have)}")
    return names


# --- the commands -----------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="dlperf", description="Faster PyTorch vision and diffusion models: checks and benchmarks.")
    parser.add_argument("--version", action="version", version=f"dlperf {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="info|check|bench|demo|train-ddpm|sample")

    command = commands.add_parser("info", help="versions, instruction set, GPU, backends and their state")
    command.set_defaults(run=_info)

    command = commands.add_parser("check", help="every operator and gradient against float64, on this machine")
    command.add_argument("--backend", choices=("cpu", "triton", "cuda", "reference"), help="default: the device's own")
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    command.add_argument(
        "--isa", nargs="+", default=[], metavar="ISA", help="scalar avx2 avx512 avx512_bf16 avx512_amx, or all"
    )
    command.add_argument("--family", nargs="+", default=[], metavar="NAME", help="only these families")
    command.add_argument(
        "--record",
        nargs="?",
        const="",
        metavar="FILE",
        help="with --backend triton --device cuda: what passes may be chosen on this card from now on "
        "(default: a file in the user's cache)",
    )
    command.set_defaults(run=_check)

    _add_benchmark_commands(commands)
    _add_diffusion_commands(commands)
    return parser


def _add_benchmark_commands(commands) -> None:
    from .benchmarks import bench, demo

    command = commands.add_parser("bench", help="complete models and single kernels beside their peers")
    bench.add_arguments(command)
    command.set_defaults(run=bench.run)

    command = commands.add_parser(
        "demo", help="learn to read and to draw real digits, with dlperf's and torch's layers"
    )
    demo.add_arguments(command)
    command.set_defaults(run=demo.run)


def _add_diffusion_commands(commands) -> None:
    from .diffusion import commands as diffusion

    command = commands.add_parser("train-ddpm", help="train a diffusion model on digits or a folder of pictures")
    diffusion.add_train_arguments(command)
    command.set_defaults(run=diffusion.train)

    command = commands.add_parser("sample", help="pictures from a checkpoint, or from the digits that ship")
    diffusion.add_sample_arguments(command)
    command.set_defaults(run=diffusion.sample)


def main(argv: list[str] | None = None) -> int:
    from . import backends
    from .diffusion.commands import CommandError, StoppedError

    args = _parser().parse_args(argv)
    try:
        try:
            backends.check_environment()
        except ValueError as error:
            raise UsageError(str(error)) from None
        return args.run(args)
    except (UsageError, CommandError) as error:
        print(f"dlperf: {error}", file=sys.stderr)
        return 2
    except StoppedError as error:
        print(f"dlperf: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dlperf: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
