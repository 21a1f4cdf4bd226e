"""The demo's picture of diffusion: losses, samples, and what the classifier says."""

from pathlib import Path

import numpy as np

from dlperf.diffusion import pictures, quality

from .demo_diffusion import SMOOTHED

LABELS = {"shipped": "the model that ships", "dlperf": "dlperf layers", "torch": "torch layers", "real": "real digits"}
SHORT = {"real": "real", "shipped": "shipped", "dlperf": "dlperf", "torch": "torch"}
COLORS = {"shipped": "#5b8c5a", "dlperf": "#d1495b", "torch": "#2e6f95", "real": "#888888"}


def draw(record: dict, shown: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from .charts import STYLE

    done = {name: run for name, run in record["runs"].items() if "error" not in run}
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(10.5, 6.3))
        grid = figure.add_gridspec(2, 1, height_ratios=(1, 1.1), hspace=0.22)
        top = grid[0].subgridspec(1, 3, width_ratios=(1.7, 1, 1), wspace=0.32)
        losses(figure.add_subplot(top[0]), done)
        judged = {"real": record["real"], "shipped": record["shipped"], **done}
        bars(figure.add_subplot(top[1]), judged, "recognised", "{:.1%}", "recognised")
        bars(figure.add_subplot(top[2]), judged, "frechet_distance", "{:.1f}", "Fréchet distance to real")
        bottom = grid[1].subgridspec(1, len(shown), wspace=0.08)
        for place, (name, x) in zip(bottom, shown.items(), strict=False):
            axis = figure.add_subplot(place)
            axis.imshow(pictures.grid(x, 10), cmap="gray", vmin=0, vmax=255)
            axis.set_axis_off()
            steps = "" if name == "shipped" else f", {record['steps']} steps"
            axis.set_title(f"{LABELS[name]}{steps}", fontsize=9)
        figure.suptitle(
            "Handwritten digits from noise, 50 DDIM steps; the same weights, batches and noise for both layers",
            x=0.125,
            y=0.96,
            ha="left",
            fontsize=11,
        )
        figure.savefig(path)
        plt.close(figure)


def losses(axis, done: dict) -> None:
    for name, run in done.items():
        values = np.asarray(run["losses"])
        window = min(SMOOTHED, max(1, len(values) // 4))
        mean = np.convolve(values, np.full(window, 1 / window), "valid")
        axis.plot(values, color=COLORS[name], linewidth=0.4, alpha=0.25)
        dashed = name == "dlperf"  # drawn last and dashed: where the curves coincide both are seen
        style = {"linewidth": 1.6, "linestyle": (0, (4, 2)), "zorder": 3} if dashed else {"linewidth": 2.4}
        axis.plot(np.arange(window - 1, len(values)), mean, color=COLORS[name], label=LABELS[name], **style)
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_title("training loss")
    if done:
        axis.legend()


def bars(axis, judged: dict, key: str, form: str, title: str) -> None:
    for i, (name, result) in enumerate(judged.items()):
        axis.bar(i, result[key], 0.6, color=COLORS[name])
        axis.annotate(form.format(result[key]), (i, result[key]), ha="center", va="bottom", fontsize=8)
    axis.set_xticks(range(len(judged)), [SHORT[name] for name in judged], fontsize=8)
    axis.grid(axis="x", visible=False)
    axis.margins(y=0.15)
    axis.set_title(title)
    if key == "recognised":
        axis.set_ylim(0, 1.15)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.axhline(quality.WANTED_SHARE, color="#444444", linewidth=0.8, linestyle="--")
