"""The kernel suite: every distinct layer of the models, forward and backward, dlperf's beside torch's."""

import importlib
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from .engines import DTYPES, finite, rel_err
from .layers import Layer, Use, distinct, model_layers
from .models.fusion import fuses_epilogue
from .peers import Case, environment, why_not
from .results import Row, row_from
from .timing import Engine, Entry, Plan, measure, package_job

# As for models: twice torch's own error for the dtype, or this. Winograd may cost a layer the first.
ERROR_FLOOR = {"f32": 1e-5, "bf16": 5e-3}
NAMESPACES = {"dlperf": "dlperf.nn", "dlperf-optimize": "dlperf.nn"}  # all others are torch's
PACKED = ("conv2d", "linear")  # whose weights an inference plan packs once: timed as a plan too
ENGINES = ("dlperf", "dlperf-optimize", "eager-nhwc", "eager", "eager-mkl")


class Attention(torch.nn.Module):
    """Of queries, keys and values stacked, [3, N, heads, S, D]."""

    def __init__(self, nn):
        super().__init__()
        self.attend = nn.functional.scaled_dot_product_attention

    def forward(self, x):
        return self.attend(*x.unbind(0))


class NormSilu(torch.nn.Module):
    """silu(norm(x)), where the norm does not apply it by itself."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return torch.nn.functional.silu(self.norm(x))


def build_group_norm(layer: Layer, nn) -> torch.nn.Module:
    if not layer.epilogue:
        return nn.GroupNorm(**layer.options)
    if hasattr(nn.GroupNorm, "activation"):
        return nn.GroupNorm(**layer.options, activation=layer.epilogue)
    return NormSilu(nn.GroupNorm(**layer.options))


def build(layer: Layer, nn) -> torch.nn.Module:
    o = layer.options
    if layer.kind == "attention":
        return Attention(nn)
    if layer.kind == "group_norm":
        return build_group_norm(layer, nn)
    if layer.kind == "layer_norm":
        return nn.LayerNorm(**o)
    if layer.kind == "conv2d":
        return nn.Conv2d(**o, bias=False)
    if layer.kind == "linear":
        return nn.Linear(**o)
    if layer.kind == "batch_norm":
        return nn.BatchNorm2d(**o)
    return nn.MaxPool2d(**o) if layer.kind == "max_pool" else nn.AdaptiveAvgPool2d(**o)


class LayerSteps:
    """One layer with its inputs; `forward` and `backward` are what is timed."""

    def __init__(self, layer: Layer, nn, dtype: torch.dtype, channels_last: bool):
        generator = torch.Generator().manual_seed(0)

        def random(shape):
            tensor = torch.randn(shape, generator=generator).to(torch.bfloat16 if dtype == torch.bfloat16 else dtype)
            return (
                tensor.contiguous(memory_format=torch.channels_last) if channels_last and tensor.ndim == 4 else tensor
            )

        self.layer = layer
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.module = build(layer, nn)
        # Batch norm keeps float32 parameters beside bfloat16 activations, as under autocast.
        self.module.to(torch.float32 if layer.kind == "batch_norm" and dtype == torch.bfloat16 else dtype)
        if channels_last:
            self.module.to(memory_format=torch.channels_last)
        self.fused = layer.kind == "batch_norm" and fuses_epilogue(type(self.module))
        self.x, self.gradient = random(layer.input), random(layer.output)
        self.residual = random(layer.output) if layer.epilogue == "add+relu" else None
        self.leaves = list(self.module.parameters())
        if not layer.is_first:
            self.leaves += [t.requires_grad_() for t in (self.x, self.residual) if t is not None]
        self.graph = None

    def apply(self) -> torch.Tensor:
        if self.layer.kind != "batch_norm" or not self.layer.epilogue:
            return self.module(self.x)
        if self.fused:
            return self.module(self.x, activation="relu", residual=self.residual)
        y = self.module(self.x)
        if self.residual is not None:
            y += self.residual
        return torch.nn.functional.relu(y, inplace=True)

    def forward(self) -> torch.Tensor:
        with torch.no_grad():
            return self.apply()

    def backward(self):
        if self.graph is None:
            self.graph = self.apply()
        return torch.autograd.grad(self.graph, self.leaves, self.gradient, retain_graph=True)

    def plan(self, dtype: torch.dtype):
        """From now on `forward` is that of an inference plan, which has its weights packed."""
        import dlperf

        planned = dlperf.optimize(self.module.eval(), mode="inference", dtype=dtype)
        x = self.x.detach()

        def forward() -> torch.Tensor:
            with torch.inference_mode():
                return planned(x)

        self.forward = forward

    def results(self, mode: str) -> list[torch.Tensor]:
        return [self.forward()] if mode == "forward" else list(self.backward())


def check(steps: LayerSteps, mode: str, dtype: str) -> dict:
    """Against float64 on the very inputs that the layer sees, rounded to its dtype."""
    layer = steps.layer
    truth = LayerSteps(layer, torch.nn, torch.float64, channels_last=False)
    plain = LayerSteps(layer, torch.nn, DTYPES[dtype], channels_last=True)
    with torch.no_grad():
        for ours in (truth, plain):
            pairs = zip(ours.module.parameters(), steps.module.parameters(), strict=True)
            for mine, its in [*pairs, (ours.x, steps.x), (ours.gradient, steps.gradient)]:
                mine.copy_(its)
            if steps.residual is not None:
                ours.residual.copy_(steps.residual)
    expected = truth.results(mode)
    worst = max(rel_err(got, want) for got, want in zip(steps.results(mode), expected, strict=True))
    torch_error = max(rel_err(got, want) for got, want in zip(plain.results(mode), expected, strict=True))
    tolerance = max(ERROR_FLOOR[dtype], 2 * torch_error)
    return {"rel_err": finite(worst), "tolerance": tolerance, "passed": worst <= tolerance}


class KernelJob:
    def __init__(self, engine: str, layer: dict, mode: str, dtype: str, threads: int):
        torch.set_num_threads(threads)
        nn = importlib.import_module(NAMESPACES.get(engine, "torch.nn"))
        shape = {key: tuple(value) for key, value in layer.items() if key in ("input", "output")}
        config = tuple(tuple(v) if isinstance(v, list) else v for v in layer["config"])
        steps = LayerSteps(Layer(**{**layer, **shape, "config": config}), nn, DTYPES[dtype], engine != "eager")
        if engine == "dlperf-optimize":
            steps.plan(DTYPES[dtype])
        self.info = check(steps, mode, dtype)
        self.step = getattr(steps, mode)


def kernel_job(**args) -> KernelJob:
    return KernelJob(**args)


def uses(models: list[str], batch: int) -> list[tuple[str, Use]]:
    """(model/layer, use) of every distinct layer; one that two models share is listed with the first."""
    listed = {}
    for model in models:
        for use in distinct(model_layers(model, batch)):
            listed.setdefault(use.layer, (f"{model}/{use.name}", use))
    return list(listed.values())


def bound(layer: Layer) -> str:
    """What limits it: "flops" or "bytes". A product of few rows is a matter of reading its weights."""
    return "flops" if layer.flops() > 8 * layer.bytes(4) else "bytes"


@dataclass(frozen=True)
class KernelCase:
    name: str  # model/layer
    use: Use
    mode: str  # forward or backward
    dtype: str
    batch: int
    suite: str = "kernels"
    axis: str = ""
    value: int = 0

    @property
    def row_fields(self) -> dict:
        """What a row says of its case."""
        fields = ("suite", "name", "mode", "dtype", "batch", "axis", "value")
        more = {"label": self.use.layer.label, "repeats": self.use.repeats}
        return {name: getattr(self, name) for name in fields} | more

    def entry(self, engine: str, threads: int, scratch: Path) -> Entry:
        reason = why_not(engine, Case("", "train", self.dtype, self.batch, "cpu", threads))
        args = {"engine": engine, "layer": asdict(self.use.layer), "mode": self.mode}
        args |= {"dtype": self.dtype, "threads": threads}
        env = environment(engine, scratch) if reason is None else {}
        return Entry(engine, package_job("kernels", "kernel_job"), args, env, reason)


def run_kernel(
    case: KernelCase,
    engines,
    plan: Plan,
    threads: int,
    ceilings: dict,
    workers: dict[str, Engine] | None,
    scratch: Path,
) -> list[Row]:
    """One layer's rows. `workers` live across layers; None: fresh ones, whose peak memory is then given."""
    layer, backward = case.use.layer, case.mode == "backward"
    if backward or layer.kind not in PACKED:
        engines = [name for name in engines if name != "dlperf-optimize"]
    measurements = measure([case.entry(e, threads, scratch) for e in engines], plan, threads, workers)
    cost = (layer.flops(backward), layer.bytes(DTYPES[case.dtype].itemsize, backward))
    return [row_from(m, case.row_fields, cost, ceilings, bound(layer)) for m in measurements]


def close(workers: dict[str, Engine]):
    for worker in workers.values():
        worker.close()
