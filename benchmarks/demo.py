"""`dlperf demo`: a small ResNet learns to read scikit-learn's 1,797 handwritten digits, and a small DDPM to draw them.

Each is trained with dlperf's layers and with torch's. Both start from the same weights and see the same batches; each
trains in a process of its own, in turns. This file is the ResNet's part, demo_diffusion.py the other.
"""

import argparse
import importlib
import importlib.util
import json
import sys
import time
from pathlib import Path

import torch

from . import demo_diffusion, machine
from .console import Console
from .models.resnet import resnet_digits
from .timing import SETTLE_SECONDS, Engine, EngineError, package_job, scratch_directory

NAMESPACES = {"dlperf": "dlperf.nn", "torch": "torch.nn"}
LABELS = {"dlperf": "dlperf layers", "torch": "torch layers"}
COLORS = {"dlperf": "#d1495b", "torch": "#2e6f95"}
EPOCHS, BATCH, PEAK_RATE = 20, 64, 0.1
WANTED_ACCURACY = 0.97
HELD_OUT = 360
SHOWN = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", nargs="?", choices=("resnet", "diffusion"), help="default: both")
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help=f"of the ResNet; default: {EPOCHS}")
    parser.add_argument(
        "--steps",
        type=int,
        default=demo_diffusion.STEPS,
        metavar="N",
        help=f"of the DDPM; default: {demo_diffusion.STEPS}",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights, split and batches; default: 0")
    parser.add_argument("--threads", type=int, metavar="N", help="default: every core this process may use")
    parser.add_argument("--out", default="demo-out", metavar="DIR", help="default: demo-out")


def prepare(directory: Path, seed: int):
    """Writes the split digits and the first weights, which both engines read."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 8 - 1  # [1797, 1, 8, 8] in -1..1
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    labels = torch.from_numpy(digits.target).long()
    torch.save((images[order], labels[order]), directory / "digits.pt")
    torch.manual_seed(seed)
    torch.save(resnet_digits(torch.nn).state_dict(), directory / "state.pt")


class DigitsJob:
    """Training in a worker. `epoch` and `held_out` are what the parent calls."""

    def __init__(self, engine: str, directory: str, threads: int, epochs: int, seed: int):
        torch.set_num_threads(threads)
        images, labels = torch.load(Path(directory) / "digits.pt", weights_only=True)
        self.train_x, self.train_y = images[HELD_OUT:], labels[HELD_OUT:]
        self.test_x, self.test_y = images[:HELD_OUT], labels[:HELD_OUT]
        self.model = resnet_digits(importlib.import_module(NAMESPACES[engine]))
        self.model.load_state_dict(torch.load(Path(directory) / "state.pt", weights_only=True))
        self.model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=PEAK_RATE, momentum=0.9, weight_decay=5e-4)
        self.batches = torch.Generator().manual_seed(seed + 1)
        steps = epochs * len(self.train_x.split(BATCH))
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, PEAK_RATE, total_steps=steps)
        self.info = {"parameters": sum(p.numel() for p in self.model.parameters())}

    def epoch(self) -> dict:
        order = torch.randperm(len(self.train_x), generator=self.batches)
        losses = []
        self.model.train()
        start = time.perf_counter()
        for batch in order.split(BATCH):
            x = self.train_x[batch].contiguous(memory_format=torch.channels_last)
            loss = torch.nn.functional.cross_entropy(self.model(x), self.train_y[batch])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            losses.append(loss.item())
        return {"losses": losses, "seconds": time.perf_counter() - start}

    def held_out(self) -> dict:
        self.model.eval()
        with torch.inference_mode():
            guesses = self.model(self.test_x).argmax(1)
        correct = (guesses == self.test_y).float().mean().item()
        return {"accuracy": correct, "guesses": guesses[:SHOWN].tolist()}


def digits_job(**args) -> DigitsJob:
    return DigitsJob(**args)


def train(directory: Path, threads: int, epochs: int, seed: int, advance) -> dict[str, dict]:
    """Per engine: losses of every step, held-out accuracy of every epoch, seconds; or an error."""
    runs = {name: {"losses": [], "accuracies": [], "epoch_seconds": []} for name in NAMESPACES}
    workers = {name: Engine(name, threads=threads) for name in NAMESPACES}

    def attempt(name, action):
        if "error" not in runs[name]:
            try:
                action(workers[name], runs[name])
            except EngineError as error:
                runs[name]["error"] = str(error)

    def set_up(worker, run):
        args = {"engine": worker.name, "directory": str(directory), "threads": threads, "epochs": epochs, "seed": seed}
        run |= worker.ask(120, do="setup", job=package_job("demo", "digits_job"), args=args)["info"]

    def take_epoch(worker, run):
        done = worker.ask(120, do="call", method="epoch", args={})["value"]
        run["losses"] += done["losses"]
        run["epoch_seconds"].append(done["seconds"])
        tested = worker.ask(120, do="call", method="held_out", args={})["value"]
        run["accuracies"].append(tested["accuracy"])
        run["guesses"] = tested["guesses"]

    try:
        for name in NAMESPACES:
            attempt(name, set_up)
        for epoch in range(epochs):
            for name in NAMESPACES:
                advance(f"epoch {epoch + 1} of {epochs}, {LABELS[name]}")
                attempt(name, take_epoch)
                time.sleep(SETTLE_SECONDS)
    finally:
        for worker in workers.values():
            worker.close()
    for run in runs.values():
        if "error" not in run:
            run["seconds"] = sum(run["epoch_seconds"])
            run["accuracy"] = run["accuracies"][-1]
    return runs


def draw(runs: dict[str, dict], directory: Path, threads: int, path: Path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from .charts import STYLE

    images, labels = torch.load(directory / "digits.pt", weights_only=True)
    done = {name: run for name, run in runs.items() if "error" not in run}
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(10.5, 5.6))
        grid = figure.add_gridspec(2, 3, height_ratios=(4, 1.1), width_ratios=(2.2, 1, 1), hspace=0.42, wspace=0.32)
        loss, accuracy, seconds = (figure.add_subplot(grid[0, i]) for i in range(3))
        for name, run in done.items():
            dashed = name == "dlperf"  # drawn last and dashed: where the curves coincide both are seen
            style = {"linewidth": 1.6, "linestyle": (0, (4, 2)), "zorder": 3} if dashed else {"linewidth": 2.4}
            loss.plot(run["losses"], color=COLORS[name], label=LABELS[name], **style)
        loss.set_yscale("log")
        loss.set_xlabel("step")
        loss.set_title("training loss")
        loss.legend()
        names = list(done)
        for axis, key, form, title in (
            (accuracy, "accuracy", "{:.2%}", "held-out accuracy"),
            (seconds, "seconds", "{:.2f} s", "training time"),
        ):
            for i, name in enumerate(names):
                axis.bar(i, done[name][key], 0.6, color=COLORS[name])
                axis.annotate(form.format(done[name][key]), (i, done[name][key]), ha="center", va="bottom")
            axis.set_xticks(range(len(names)), names)
            axis.grid(axis="x", visible=False)
            axis.margins(y=0.12)
            axis.set_title(title)
        accuracy.set_ylim(0.9, 1.0)
        accuracy.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        accuracy.axhline(WANTED_ACCURACY, color="#444444", linewidth=0.8, linestyle="--")
        strip = grid[1, :].subgridspec(1, SHOWN, wspace=0.25)
        for i, guess in enumerate(done[names[0]]["guesses"] if names else []):
            axis = figure.add_subplot(strip[0, i])
            axis.imshow(images[i, 0], cmap="gray_r")
            axis.set_xticks([])
            axis.set_yticks([])
            right = guess == labels[i]
            axis.set_xlabel(str(guess), color="#333333" if right else "#a12a2a", fontweight="bold", fontsize=10)
            if i == 0:
                axis.set_title(f"held-out digits and what the model with {LABELS[names[0]]} reads", fontsize=9, pad=8)
        figure.suptitle(
            f"A small ResNet on 1,437 handwritten digits, {threads} threads", x=0.125, ha="left", fontsize=11
        )
        figure.savefig(path)
        plt.close(figure)


def run(args) -> int:
    problem = why_not(args)
    if problem:
        print(f"dlperf demo: {problem}", file=sys.stderr)
        return 2
    out, console = Path(args.out), Console()
    threads = args.threads or machine.cores()
    parts = (
        [demo_resnet]
        if args.part == "resnet"
        else [demo_ddpm]
        if args.part == "diffusion"
        else [demo_resnet, demo_ddpm]
    )
    with scratch_directory() as scratch:
        passed = [part(args, Path(scratch), out, threads, console) for part in parts]
    return 0 if all(passed) else 1


def demo_resnet(args, directory: Path, out: Path, threads: int, console: Console) -> bool:
    prepare(directory, args.seed)
    with console.progress(args.epochs * len(NAMESPACES)) as advance:
        runs = train(directory, threads, args.epochs, args.seed, advance)
    draw(runs, directory, threads, out / "digits.png")
    record = {"machine": machine.describe("cpu", threads), "epochs": args.epochs, "seed": args.seed, "runs": runs}
    (out / "digits.json").write_text(json.dumps(record, indent=1) + "\n")
    for name, result in runs.items():
        if "error" in result:
            console.print(f"{LABELS[name]}: {result['error']}")
        else:
            console.print(f"{LABELS[name]}: {result['accuracy']:.2%} of held-out digits, {result['seconds']:.2f} s")
    console.print(f"wrote {out / 'digits.png'}, {out / 'digits.json'}")
    return all(result.get("accuracy", 0) > WANTED_ACCURACY for result in runs.values())


def demo_ddpm(args, directory: Path, out: Path, threads: int, console: Console) -> bool:
    total = len(NAMESPACES) * (1 + len(demo_diffusion.turns(args.steps))) + 1
    with console.progress(total) as advance:
        record = demo_diffusion.run(NAMESPACES, directory, out, threads, args.steps, args.seed, advance)
    for line in demo_diffusion.lines(record, LABELS):
        console.print(line)
    console.print(f"wrote {', '.join(str(out / name) for name in demo_diffusion.WRITTEN)}")
    return demo_diffusion.passed(record)


def why_not(args) -> str | None:
    """What is wrong with the command and how to mend it, or None."""
    missing = [name for name in ("sklearn", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed: pip install 'dlperf[bench]'"
    if args.epochs < 1:
        return f"--epochs {args.epochs}: give a number of 1 or more"
    if args.steps < 1:
        return f"--steps {args.steps}: give a number of 1 or more"
    if args.threads is not None and args.threads < 1:
        return f"--threads {args.threads}: give a number of 1 or more"
    try:
        Path(args.out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"--out {args.out}: can't be written ({error.strerror}); name another folder"
    return None
