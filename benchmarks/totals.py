"""The layers of a model summed: each as often as the model runs it."""

from dataclasses import dataclass

from .layers import distinct, model_layers
from .models import MODELS
from .peers import BASELINE
from .results import Results, Row, find


@dataclass(frozen=True)
class Total:
    model: str
    mode: str
    dtype: str
    layers: int  # how many the model runs
    ours_ms: float
    torch_ms: float

    @property
    def speedup(self) -> float:
        return self.torch_ms / self.ours_ms


def model_totals(results: Results) -> list[Total]:
    """Of the models all of whose layers were measured and passed their check, on both sides.

    A layer that models share is measured once and counts in each.
    """
    measured: dict[tuple, dict] = {}  # by mode, dtype and batch: the rows by the layer's shape
    models: dict[str, None] = {}
    for (_, name, mode, dtype, batch), rows in results.cases("kernels").items():
        models.setdefault(name.partition("/")[0])
        measured.setdefault((mode, dtype, batch), {})[name] = rows
    totals = []
    for (mode, dtype, batch), rows in measured.items():
        by_layer = {}
        for name, its_rows in rows.items():
            model, _, path = name.partition("/")
            if model in MODELS:
                by_layer[dict(model_layers(model, batch)).get(path)] = its_rows
        for model in filter(MODELS.__contains__, models):
            total = _total(model, mode, dtype, batch, by_layer)
            if total is not None:
                totals.append(total)
    return totals


def _total(model: str, mode: str, dtype: str, batch: int, by_layer: dict) -> Total | None:
    uses = distinct(model_layers(model, batch))
    pairs: list[tuple[int, Row | None, Row | None]] = []
    for use in uses:
        rows = by_layer.get(use.layer, [])
        pairs.append((use.repeats, find(rows, "dlperf"), find(rows, BASELINE)))
    if not all(a and b and a.comparable and b.comparable for _, a, b in pairs):
        return None
    sums = [sum(n * pair[i].median_ms for n, *pair in pairs) for i in (0, 1)]
    return Total(model, mode, dtype, sum(n for n, *_ in pairs), *sums)
