"""dlperf.report(model): which kernel serves each layer, or why torch does."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from io import StringIO

import torch
from torch import nn as torch_nn

from .. import backends
from ..nn import LAYERS
from .engine import Fallback
from .inference import InferenceModel
from .structure import describe_key
from .swap import why_not_swapped
from .training import training_of
from .work import CountWork, share_served


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        path: its name in the model ("" is the model itself).
        layer: its class.
        served_by: the backend ("cpu", "triton", ...), "torch", or "not called".
        detail: the operators called, or why torch serves.
    """

    path: str
    layer: str
    served_by: str
    detail: str


@dataclass(frozen=True)
class Call:
    """A kind of call of a model optimized for inference, or of its training steps.

    Attributes:
        inputs: dtypes and shapes.
        reason: why it runs layer by layer; "" where it was captured.
        share: of the multiply-adds, what dlperf's kernels serve; None where there are none.
        fused: what the passes did, name -> how often.
        steps: kernels and operators that one call runs.
    """

    inputs: str
    reason: str
    share: float | None
    fused: dict[str, int]
    steps: int

    def __str__(self) -> str:
        share = "" if self.share is None else f"; {self.share:.1%} of the multiply-adds served by dlperf"
        if self.reason:
            return f"{self.inputs}: layer by layer, because {self.reason}{share}"
        fused = ", ".join(f"{name} {n}" for name, n in self.fused.items() if n)
        return f"{self.inputs}: captured, {self.steps} steps{share} ({fused})"


@dataclass
class Report:
    """What ``dlperf.report`` returns; print it for a table.

    Attributes:
        rows: the layers.
        ran: whether the model was called for the report.
        fallbacks: why backends declined calls -> how often.
        share: of the run's multiply-adds, what dlperf's kernels served; None where nothing ran.
        calls: of a model optimized for inference, every kind of call that it has seen; of one optimized for training,
            every kind of training step that it has seen twice.
        uncaptured: the reasons of calls that were not looked up at all -> how often.
    """

    rows: list[Row]
    ran: bool
    fallbacks: dict[str, int] = field(default_factory=dict)
    share: float | None = None
    calls: list[Call] = field(default_factory=list)
    uncaptured: dict[str, int] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """Layers by what serves them."""
        return dict(Counter(row.served_by for row in self.rows))

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        table = Table(title="dlperf report" if self.ran else "dlperf report (give inputs to see what runs)")
        for column in ("layer", "class", "served by", "detail"):
            table.add_column(column, overflow="fold")
        for row in self.rows:
            table.add_row(row.path or "(model)", row.layer, row.served_by, row.detail)
        out = StringIO()
        console = Console(file=out, width=120)
        console.print(table)
        console.print(", ".join(f"{n} layers served by {who}" for who, n in sorted(self.counts().items())))
        if self.share is not None:
            console.print(f"{self.share:.1%} of the multiply-adds served by dlperf", highlight=False)
        for call in self.calls:
            console.print(str(call), highlight=False)
        for reason, calls in self.uncaptured.items():
            console.print(f"layer by layer: {reason} ({calls} calls)", highlight=False)
        for reason, calls in self.fallbacks.items():
            console.print(f"fallback: {reason} ({calls} calls)", highlight=False)
        return out.getvalue()


def _layers(model: torch_nn.Module):
    """Modules that compute: leaves, and those that hold parameters of their own."""
    for path, module in model.named_modules():
        if not module._modules or any(p is not None for p in module._parameters.values()):
            yield path, module


def report(model: torch_nn.Module, *inputs, **kwargs) -> Report:
    """Tells, layer by layer, what serves it.

    Args:
        model: any Module, optimized or not.
        inputs, kwargs: where given, the model is called with them once, in eval mode and without gradients, and the
            report tells what really ran; without, it tells what each layer's class and parameters allow.

    Raises:
        TypeError: ``model`` is no Module.
    """
    if not isinstance(model, torch_nn.Module):
        raise TypeError(f"report(): argument 'model' must be a torch.nn.Module, not {type(model).__name__}")
    if isinstance(model, InferenceModel):
        if inputs or kwargs:
            model(*inputs, **kwargs)
        found = Report(_static_rows(model.wrapped), ran=bool(inputs or kwargs))
        return _with_calls(found, model._engine.plans, model._engine.uncaptured)
    found = _report_of_run(model, inputs, kwargs) if inputs or kwargs else Report(_static_rows(model), ran=False)
    training = training_of(model)
    return found if training is None else _with_calls(found, training.steps, training.uncaptured)


def _static_rows(model: torch_nn.Module) -> list[Row]:
    sample = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return [_static_row(path, module, sample) for path, module in _layers(model)]


def _with_calls(found: Report, plans: dict, uncaptured: dict[str, int]) -> Report:
    for key, plan in plans.items():
        if isinstance(plan, str):
            continue  # seen once
        fallback = isinstance(plan, Fallback)
        reason, fused = (plan.reason, {}) if fallback else ("", plan.notes)
        call = Call(describe_key(key[0]), reason, share_served(plan.work), fused, len(plan.work))
        found.calls.append(call)
    if found.calls and found.share is None:
        found.share = found.calls[-1].share
    found.uncaptured.update(uncaptured)
    return found


def _static_row(path: str, module: torch_nn.Module, sample: torch.Tensor) -> Row:
    name = type(module).__name__
    if type(module) not in LAYERS.values():
        return Row(path, name, "torch", why_not_swapped(module))
    own = module.why_not() if hasattr(module, "why_not") else None
    if own is not None:
        return Row(path, name, "torch", own)
    tensor = next((p for p in module.parameters(recurse=False) if p.is_floating_point()), sample)
    reasons = []
    for candidate in backends.ORDER.get(tensor.device.type, backends.OTHER_DEVICES):
        backend = backends.load(candidate)
        reason = backend.available() or backend.why_not_dtype(tensor.dtype)
        if reason is None:
            return Row(path, name, candidate, "; ".join(reasons))
        reasons.append(f"{candidate}: {reason}")
    return Row(path, name, "torch", "; ".join(reasons))


def _report_of_run(model: torch_nn.Module, inputs: tuple, kwargs: dict) -> Report:
    calls: dict[str, list[tuple[str, str]]] = {}
    open_calls: list[int] = []
    handles = []
    before = backends.fallbacks()
    was_training = [m for m in model.modules() if m.training]

    with backends.trace() as traced:

        def enter(module, _):
            open_calls.append(len(traced))

        def leave_as(path):
            def leave(module, _inputs, _output):
                calls.setdefault(path, []).extend(traced[open_calls.pop() :])

            return leave

        try:
            for path, module in _layers(model):
                handles.append(module.register_forward_pre_hook(enter))
                handles.append(module.register_forward_hook(leave_as(path)))
            model.eval()
            with torch.no_grad(), CountWork() as counted:
                model(*inputs, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
            for module in was_training:
                module.training = True

    rows = []
    for path, module in _layers(model):
        name = type(module).__name__
        if path not in calls:
            rows.append(Row(path, name, "not called", ""))
        elif calls[path]:
            served = sorted({backend for _, backend in calls[path]})
            rows.append(Row(path, name, "+".join(served), ", ".join(dict.fromkeys(op for op, _ in calls[path]))))
        else:
            rows.append(Row(path, name, "torch", why_not_swapped(module)))
    after = backends.fallbacks()
    new = {f"{op} on {b}: {why}": n - before.get((op, b, why), 0) for (op, b, why), n in after.items()}
    found = {reason: n for reason, n in new.items() if n > 0}
    return Report(rows, ran=True, fallbacks=found, share=share_served(counted.work))
