"""The demo's second half: digits from noise.

The checkpoint that ships is sampled into grid.png. Then a small DDPM is trained on the real digits, with dlperf's
layers and with torch's, from the same weights, batches and noise, each in a process of its own and in turns. A
classifier that has only seen real digits judges the samples of all three.
"""

import importlib
import json
import math
import time
from pathlib import Path

import torch

from dlperf.diffusion import data, pictures, quality
from dlperf.diffusion.models import build, default_config, load_model
from dlperf.diffusion.sampling import sample
from dlperf.diffusion.schedulers import DDIMScheduler
from dlperf.diffusion.train import TrainConfig, Trainer

from .timing import SETTLE_SECONDS, Engine, EngineError, package_job

STEPS, STEPS_A_TURN = 1000, 50
BATCH, RATE, WARMUP = 64, 2e-3, 100
SAMPLES = {"shipped": 1000, "trained": 500}
GRID, COLUMNS, FRAMES = 100, 10, 25
SHOWN = 60  # of each model, in the figure
SMOOTHED = 50  # steps
FALL = 0.5  # the loss at the end is below this share of the first
SEED_OF_SAMPLES = 0
WRITTEN = ("grid.png", "grid.gif", "diffusion.png", "diffusion.json")


class DenoiserJob:
    """Training in a worker. `train` and `digits` are what the parent calls."""

    def __init__(self, engine: str, namespace: str, threads: int, seed: int):
        torch.set_num_threads(threads)
        self.ours = engine == "dlperf"
        self.layers = importlib.import_module(namespace)
        config = TrainConfig(default_config("unet", 1, 8, 10), batch=BATCH, lr=RATE, warmup=WARMUP, seed=seed)
        self.run = Trainer(config, data.read("digits"), self.layers)
        self.info = {"parameters": sum(p.numel() for p in self.run.model.parameters())}

    def train(self, steps: int) -> dict:
        start = time.perf_counter()
        losses = [self.run.step() for _ in range(steps)]
        return {"losses": losses, "seconds": time.perf_counter() - start}

    def digits(self, count: int, path: str) -> None:
        """Writes samples of the averaged weights; torch's layers are called as they are, dlperf's optimized."""
        model = build(self.run.config.model, self.layers)
        model.load_state_dict(self.run.ema)
        model.eval()
        called = model if self.ours else model.__call__
        x, labels = quality.digits_from(called, self.run.scheduler.config, count, SEED_OF_SAMPLES)
        torch.save((x, labels), path)


def denoiser_job(**args) -> DenoiserJob:
    return DenoiserJob(**args)


def turns(steps: int) -> list[int]:
    """Steps of each turn."""
    return [min(STEPS_A_TURN, steps - i) for i in range(0, steps, STEPS_A_TURN)]


def train(namespaces: dict[str, str], directory: Path, threads: int, steps: int, seed: int, advance) -> dict[str, dict]:
    """Per engine: the losses, seconds and a file of samples; or an error."""
    runs = {name: {"losses": [], "seconds": 0.0} for name in namespaces}
    workers = {name: Engine(name, threads=threads) for name in namespaces}

    def attempt(name, action):
        if "error" not in runs[name]:
            try:
                action(workers[name], runs[name], name)
            except EngineError as error:
                runs[name]["error"] = str(error)

    def set_up(worker, run, name):
        args = {"engine": name, "namespace": namespaces[name], "threads": threads, "seed": seed}
        run |= worker.ask(120, do="setup", job=package_job("demo_diffusion", "denoiser_job"), args=args)["info"]

    def finish(worker, run, name):
        run["samples"] = str(directory / f"{name}.pt")
        args = {"count": SAMPLES["trained"], "path": run["samples"]}
        worker.ask(300, do="call", method="digits", args=args)

    try:
        for name in namespaces:
            attempt(name, set_up)
        for i, count in enumerate(turns(steps)):
            for name in namespaces:

                def take_turn(worker, run, name, count=count):
                    done = worker.ask(300, do="call", method="train", args={"steps": count})["value"]
                    run["losses"] += done["losses"]
                    run["seconds"] += done["seconds"]

                advance(f"denoiser, step {i * STEPS_A_TURN} of {steps}, {name}")
                attempt(name, take_turn)
                time.sleep(SETTLE_SECONDS)
        for name in namespaces:
            advance(f"sampling, {name}")
            attempt(name, finish)
    finally:
        for worker in workers.values():
            worker.close()
    return runs


def sample_shipped(path: Path, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """grid.png and grid.gif, from the checkpoint that ships; and the samples, more than the grid shows."""
    model, info = load_model()
    count = SAMPLES["shipped"]
    labels, states = torch.arange(count) % COLUMNS, []
    x = sample(
        model,
        (count, *info["picture"]),
        quality.STEPS,
        DDIMScheduler.from_config(info["schedule"]),
        class_labels=labels,
        seed=seed,
        progress=False,
        on_step=lambda i, x: states.append(x[:GRID]),
    )
    pictures.save(pictures.grid(x[:GRID], COLUMNS), path)
    stride = max(1, len(states) // FRAMES)
    pictures.save_path(path.with_suffix(".gif"), states[::-stride][::-1], COLUMNS)
    return x, labels


def judged(x: torch.Tensor, labels: torch.Tensor) -> dict:
    """The share recognised, and the Fréchet distance to the real digits."""
    one = quality.judge()
    return {"samples": len(x), "recognised": one.share(x, labels), "frechet_distance": one.distance(x)}


def smoothed(losses: list[float]) -> float:
    """The mean of the last steps."""
    last = losses[-SMOOTHED:]
    return sum(last) / len(last) if last else math.nan


def run(namespaces: dict[str, str], directory: Path, out: Path, threads: int, steps: int, seed: int, advance) -> dict:
    """Writes grid.png, grid.gif, diffusion.png and diffusion.json to `out`; gives what the last of them holds."""
    from . import demo_diffusion_figure

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        advance("sampling the digits that ship")
        x, labels = sample_shipped(out / "grid.png", SEED_OF_SAMPLES)
        one = quality.judge()
        record = {"shipped": judged(x, labels)}
        record["real"] = {"recognised": one.held_out, "frechet_distance": one.distance_of_halves()}
        record["steps"], record["seed"] = steps, seed
        record["runs"] = train(namespaces, directory, threads, steps, seed, advance)
        shown = {"shipped": x[:SHOWN]}
        for name, result in record["runs"].items():
            path = result.pop("samples", None)
            if "error" not in result:
                samples, labels = torch.load(path, weights_only=True)
                result |= judged(samples, labels)
                shown[name] = samples[:SHOWN]
        demo_diffusion_figure.draw(record, shown, out / "diffusion.png")
    finally:
        torch.set_num_threads(before)
    (out / "diffusion.json").write_text(json.dumps(record, indent=1) + "\n")
    return record


def passed(record: dict) -> bool:
    """The shipped digits are recognised, and both losses fell."""
    if record["shipped"]["recognised"] < quality.WANTED_SHARE:
        return False
    return all("error" not in r and smoothed(r["losses"]) < FALL * r["losses"][0] for r in record["runs"].values())


def lines(record: dict, labels: dict[str, str]) -> list[str]:
    """What the demo prints."""

    def of(result: dict) -> str:
        return f"{result['recognised']:.1%} recognised, Fréchet distance {result['frechet_distance']:.2f}"

    said = [f"real digits: {of(record['real'])}", f"digits that ship: {of(record['shipped'])}"]
    for name, result in record["runs"].items():
        if "error" in result:
            said.append(f"{labels[name]}: {result['error']}")
            continue
        fall = f"loss {result['losses'][0]:.2f} to {smoothed(result['losses']):.3f}"
        said.append(f"{labels[name]}, {record['steps']} steps in {result['seconds']:.0f} s: {fall}; {of(result)}")
    return said
