"""`dlperf train-ddpm` and `dlperf sample`. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import signal
import time
from pathlib import Path

CHECKPOINT, WEIGHTS = "checkpoint.safetensors", "model.safetensors"
SHOWN_FILES = 5


class CommandError(Exception):
    """One line that says what was wrong with the command; exit code 2."""


class StoppedError(Exception):
    """The run can't go on; one line that says why and what is kept; exit code 1."""


def _at_least(kind, least):
    def parse(text: str):
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {text}")
        return value

    parse.__name__ = kind.__name__
    return parse


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a number in [0, 1), got {text}")
    return value


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", default="digits", metavar="digits|DIR", help="images, MNIST or CIFAR-10 files; default: digits")
    add("--out", default="ddpm-out", metavar="DIR", help="default: ddpm-out; a run that is there is resumed")
    add("--model", default="unet", choices=("unet", "dit"))
    add("--steps", type=_at_least(int, 1), default=10000, metavar="N", help="of training in all; default: 10000")
    add("--minutes", type=_at_least(float, 0), metavar="M", help="stop after this time; the same command goes on")
    add("--batch", type=_at_least(int, 1), metavar="N")
    add("--lr", type=_at_least(float, 0), metavar="RATE")
    add("--ema", type=_share, metavar="DECAY", help="of the averaged weights")
    add("--clip", type=_at_least(float, 0), metavar="NORM", help="of the gradient")
    add("--amp", action="store_true", default=None, help="bfloat16 autocast")
    add("--schedule", choices=("linear", "squaredcos_cap_v2", "sigmoid"), default="linear")
    add("--unconditional", action="store_true", help="leave the labels out")
    add("--size", type=_at_least(int, 4), metavar="PIXELS", help="of a folder's images; default: 32")
    add("--strict", action="store_true", help="refuse a folder with an image that can't be read")
    add("--seed", type=int, metavar="N", help="default: 0")
    add("--save-every", type=_at_least(int, 1), default=1000, metavar="N", help="steps; default: 1000")
    add("--sample-every", type=_at_least(int, 0), default=0, metavar="N", help="steps between grids; default: the last")
    add("--fresh", action="store_true", help="start anew, over what is in --out")


def add_sample_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("checkpoint", nargs="?", metavar="CKPT", help="default: the digits that ship with dlperf")
    add("--n", type=_at_least(int, 1), default=64, metavar="N", help="pictures; default: 64")
    add("--steps", type=_at_least(int, 1), default=50, metavar="N", help="default: 50")
    add("--scheduler", choices=("ddim", "ddpm", "dpm"), default="ddim")
    add("--guidance", type=_at_least(float, 0), default=1.0, metavar="SCALE", help="classifier-free; default: 1, none")
    add("--label", metavar="NAME", help="of one class alone; default: every class in turn")
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
    add("--out", default="grid.png", metavar="PNG", help="default: grid.png")
    add("--path", metavar="GIF|PNG", help="the way from noise; default: a GIF beside --out; a PNG gives a strip")
    add("--columns", type=_at_least(int, 1), metavar="N")


def _require(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(f"{', '.join(missing)} not installed: pip install 'dlperf[bench]'")


def _folder(option: str, path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"{option} {path}: can't be written ({error.strerror})") from None


# --- training ---------------------------------------------------------------------------------------


def train(args) -> int:
    from rich.console import Console

    from . import checkpoint, data
    from .train import TrainingError

    _require("safetensors", "matplotlib", "PIL", *(["sklearn"] if args.data == "digits" else []))
    out, console = Path(args.out), Console()
    try:
        pictures = data.read(args.data, args.size, args.strict)
    except data.DataError as error:
        raise CommandError(str(error)) from None
    for path, reason in pictures.skipped[:SHOWN_FILES]:
        console.print(f"skipped {path}: {reason}", highlight=False, soft_wrap=True)
    if pictures.skipped:
        console.print(f"{len(pictures.skipped)} images can't be read and were skipped", highlight=False)
    _folder("--out", out)
    checkpoint.remove_leftovers(out / CHECKPOINT)
    run = _start(args, out / CHECKPOINT, pictures, console)
    try:
        interrupted = _train(run, args, out, console)
        if not interrupted:
            _show(run, out, out / f"samples-{run.step_count:06d}.png")
        run.export(out / WEIGHTS)
    except TrainingError as error:
        raise StoppedError(str(error)) from None
    except OSError as error:
        raise StoppedError(f"{out}: {error.strerror or error}; the checkpoint from before is whole") from None
    console.print(f"step {run.step_count}, loss {_recent(run.losses):.4f}: {out / WEIGHTS}", highlight=False)
    return 130 if interrupted else 0


def _start(args, path: Path, pictures, console):
    from .checkpoint import CheckpointError
    from .models import default_config
    from .train import TrainConfig, Trainer

    given = {k: getattr(args, k) for k in ("batch", "lr", "ema", "clip", "amp", "seed")}
    given = {k: v for k, v in given.items() if v is not None}
    try:
        if path.exists() and not args.fresh:
            run = Trainer.resume(path, pictures)
            for name, value in given.items():
                if getattr(run.config, name) != value:
                    raise CommandError(
                        f"--{name} {value}: the run in {path.parent} has {getattr(run.config, name)}; "
                        "--fresh starts anew"
                    )
            console.print(f"resumed from step {run.step_count}", highlight=False)
            return run
        classes = 0 if args.unconditional or pictures.labels is None else len(pictures.classes)
        channels, height, width = pictures.images.shape[1:]
        if height != width:
            raise CommandError(f"{args.data}: expected square pictures, got {height}x{width}")
        config = default_config(args.model, channels, height, classes)
        return Trainer(TrainConfig(config, {"beta_schedule": args.schedule}, **given), pictures)
    except (CheckpointError, ValueError) as error:
        raise CommandError(str(error)) from None


def _recent(losses: list[float]) -> float:
    last = losses[-100:]
    return sum(last) / len(last) if last else float("nan")


def _train(run, args, out: Path, console) -> bool:
    """Trains until the last step, the time or an interrupt; True for the latter. The checkpoint is of the last step."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    stop = []
    end = time.monotonic() + 60 * args.minutes if args.minutes is not None else float("inf")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with _on_interrupt(stop), Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("training", total=args.steps, completed=run.step_count)
        while run.step_count < args.steps and not stop and time.monotonic() < end:
            run.step()
            bar.update(task, advance=1, description=f"loss {_recent(run.losses):.4f}")
            if run.step_count % args.save_every == 0:
                run.save(out / CHECKPOINT)
            if args.sample_every and run.step_count % args.sample_every == 0:
                _show(run, out, out / f"samples-{run.step_count:06d}.png")
        run.save(out / CHECKPOINT)
    return bool(stop)


@contextlib.contextmanager
def _on_interrupt(stop: list):
    """The first Ctrl-C lets the step end and the checkpoint be written; the second stops at once."""

    def handle(number, frame):
        stop.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not the main thread: nobody sends it a signal
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _show(run, out: Path, path: Path) -> None:
    """The loss so far, and a grid from the averaged weights."""
    from . import pictures
    from .models import build
    from .sampling import sample
    from .schedulers import DDIMScheduler

    if run.losses:
        pictures.plot_losses(run.losses, out / "loss.png")
    model = build(run.config.model)
    model.load_state_dict(run.ema)
    classes = run.config.model.get("classes") or 0
    labels = [i % classes for i in range(40)] if classes else None
    shape = (40, *run.pictures.images.shape[1:])
    scheduler = DDIMScheduler.from_config(run.scheduler.config)
    x = sample(model.eval(), shape, 25, scheduler, 1.0, labels, progress=False)
    pictures.save(pictures.grid(x, 10), path)


# --- sampling ---------------------------------------------------------------------------------------


def sample(args) -> int:
    from rich.console import Console

    from . import pictures
    from .checkpoint import CheckpointError
    from .models import load_model
    from .sampling import SCHEDULERS
    from .sampling import sample as run

    _require("safetensors", "PIL")
    out, console = Path(args.out), Console()
    moving = Path(args.path) if args.path else out.with_suffix(".gif")
    for option, path in (("--out", out), ("--path", moving)):
        if path.suffix.lower() not in (".png", ".gif"):
            raise CommandError(f"{option} {path}: expected a name that ends in .png or .gif")
        _folder(option, path.parent)
    if out == moving:
        raise CommandError(f"--path {moving}: expected another name than --out")
    try:
        model, info = load_model(args.checkpoint)
    except CheckpointError as error:
        raise CommandError(str(error)) from None
    classes = info["classes"] if info["model"].get("classes") else []
    labels = _labels(args, classes)
    guidance = args.guidance
    if guidance != 1.0 and not classes:
        raise CommandError(f"--guidance {guidance}: the checkpoint's model has no classes")
    scheduler = SCHEDULERS[args.scheduler].from_config(info["schedule"])
    states: list = []
    start = time.perf_counter()
    try:
        x = run(
            model,
            (args.n, *info["picture"]),
            args.steps,
            scheduler,
            guidance,
            labels,
            seed=args.seed,
            on_step=lambda i, x: states.append(x),
        )
    except ValueError as error:
        raise CommandError(str(error)) from None
    seconds = time.perf_counter() - start
    columns = args.columns or (len(classes) if classes and not args.label else 8)
    columns = min(columns, args.n)
    try:
        pictures.save(pictures.grid(x, columns), out)
        stride = max(1, len(states) // (25 if moving.suffix.lower() == ".gif" else 10))
        pictures.save_path(moving, states[::-stride][::-1], columns)  # the last is always among them
    except OSError as error:
        raise StoppedError(f"{out}: {error.strerror or error}") from None
    console.print(
        f"{args.n} pictures in {args.steps} steps of {args.scheduler}: {seconds:.1f} s; wrote {out}, {moving}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _labels(args, classes: list[str]):
    if args.label is None:
        return [i % len(classes) for i in range(args.n)] if classes else None
    if args.label not in classes:
        known = f"one of {', '.join(classes)}" if classes else "none: the checkpoint's model has no classes"
        raise CommandError(f"--label {args.label}: expected {known}")
    return [classes.index(args.label)] * args.n
