"""One kind of a training call as two plans, and the autograd function that runs them."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

import torch
from torch import Tensor
from torch import nn as torch_nn

from .. import memory
from . import watch
from .joint import Call, Held, Traced, own_copy, trace
from .plan import Plan
from .structure import Unsupported, build_result, flatten_result, objects_in
from .work import CountWork, Work

requires_grad = attrgetter("requires_grad")


class CapturedStep:
    """Forward and backward plan.

    Attributes:
        notes: what the passes did.
        work: the operators of both directions.
    """

    def __init__(self, traced: Traced, template, results: list[Tensor], wanted: list[bool], fused: bool):
        """``results``: the layers', whose dtypes and strides the plan's have. ``wanted``: the gradients, by value.
        ``fused``: whether roundings may be others than the layers'."""
        joint = traced.split()
        self._joint, self._results, self.wanted, self._template = joint, results, wanted, template
        self.draws, self.notes, self._fused = traced.draws, joint.notes, fused
        self._differentiable = [r.requires_grad for r in results]

    def make_plans(self, values: list[Tensor], others: list[Tensor], gradients: list[Tensor], rng: Tensor) -> _Outcome:
        """Makes the plans from a call's values, which are written into, and runs them once, with others.

        ``rng``: the state of torch's generator before the call.
        """
        # A gradient comes in whatever layout the loss gives it; the plan knows one.
        self._layouts = [(g.dtype, g.shape, g.stride()) for g in gradients]
        joint, results = self._joint, self._results
        del self._joint, self._results
        with torch.no_grad():
            torch.set_rng_state(rng)
            saved = len(joint.forward.outputs) - len(results)
            self.forward = Plan(joint.forward, values, [*results, *[None] * saved])
            torch.set_rng_state(rng)
            flat = self.forward(values)
            grads = [*flat[len(results) :], *gradients]
            self.backward = Plan(joint.backward, grads, [None] * len(self.wanted), join=self._fused)
            del flat, grads
            torch.set_rng_state(rng)
            flat = self.forward(others)
            after = torch.get_rng_state()
            found = self.backward([*flat[len(results) :], *gradients])
        self.work = self.forward.work + self.backward.work
        self.notes["join_sums"] = self.backward.sums if self._fused else 0
        return _Outcome(list(flat[: len(results)]), others, list(found), after)

    def __call__(self, model: torch_nn.Module, call: Call, values: list[Tensor]):
        return build_result(self._template, _Run.apply(self, model, call, *values))

    def run_forward(self, values: tuple[Tensor, ...]) -> tuple[tuple, tuple]:
        """Results, and what the backward pass needs."""
        flat, count = self.forward(list(values)), len(self._differentiable)
        return flat[:count], flat[count:]

    def differentiable(self, results: tuple) -> list:
        return [r for r, d in zip(results, self._differentiable, strict=True) if d]

    def run_backward(self, given: list[Tensor], grads: tuple[Tensor, ...]) -> tuple:
        """``given``: what the forward pass saved; the list is emptied."""
        for grad, (dtype, shape, stride) in zip(self.differentiable(grads), self._layouts, strict=True):
            if grad.dtype is not dtype or grad.stride() != stride:
                grad = torch.empty_strided(shape, stride, dtype=dtype).copy_(grad)
            given.append(grad)
        return self.backward.consume(given)

    def gradients_of_layers(self, model, call: Call, values: tuple[Tensor, ...], grads: tuple[Tensor, ...]) -> list:
        """Gradients that can be differentiated again: the model runs once more, layer by layer."""
        if self.draws:
            raise RuntimeError(
                "a gradient of a gradient was asked for (create_graph=True) through a captured training step that "
                "draws random numbers, which can't be drawn again: use dlperf.optimize(model, capture=False)"
            )
        # Aliases, so that what is passed twice gets a gradient for each place; buffers were written already.
        values = [t.view_as(t) if w else t.clone() for t, w in zip(values, self.wanted, strict=True)]
        found = _through_layers(model, call, values)
        pairs = list(zip(found, grads, strict=True))
        roots, given = self.differentiable([r for r, _ in pairs]), self.differentiable([g for _, g in pairs])
        return _gradients(roots, values, self.wanted, given, create_graph=True)


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx, step: CapturedStep, model, call: Call, *values):
        results, saved = step.run_forward(values)
        ctx.step, ctx.model, ctx.call, ctx.values = step, model, call, values
        ctx.save_for_backward(*saved)
        wanted = {id(r) for r in step.differentiable(results)}
        ctx.mark_non_differentiable(*(r for r in results if id(r) not in wanted))
        return results

    @staticmethod
    def backward(ctx, *grads):
        if torch.is_grad_enabled():
            found = ctx.step.gradients_of_layers(ctx.model, ctx.call, ctx.values, grads)
        else:
            saved = list(ctx.saved_tensors)
            ctx.maybe_clear_saved_tensors()  # unless the graph is retained
            found = ctx.step.run_backward(saved, grads)
        return None, None, None, *found


def capture_step(model, call: Call, values: list[Tensor], work: list[Work]) -> CapturedStep:
    """The call's plans, which were seen to do what its layers do. The model and its tensors are left as they are.

    Args:
        values: parameters and buffers, then the call's tensors.
        work: takes the operators that the layers call.

    Raises:
        Unsupported: with the reason.
    """
    held = Held(model)
    parameters, own = len(held.parameters), len(held.all)
    wanted, rng = [t.requires_grad for t in values], torch.get_rng_state()

    def fresh() -> list[Tensor]:
        return [v.detach().clone() if parameters <= i < own else v.detach() for i, v in enumerate(values)]

    def others() -> list[Tensor]:
        """Nearby values in memory of their own: what a plan takes from where it was made would show."""
        scaled = [v.detach() * _SCALE if v.is_floating_point() else v.detach().clone() for v in values]
        return [s if s.stride() == v.stride() else f for s, v, f in zip(scaled, values, fresh(), strict=True)]

    def leaves(tensors: list[Tensor]) -> list[Tensor]:
        return [v.requires_grad_(w) for v, w in zip(tensors, wanted, strict=True)]

    template, results, gradients, layers = _observe(model, call, leaves(others()), slice(parameters, own), work)
    torch.set_rng_state(rng)
    traced = trace(model, call, leaves(fresh()), gradients)
    narrow = call.autocast is not None or any(r.dtype.itemsize < 4 for r in results)

    def planned(fused: bool) -> CapturedStep:
        memory.empty_cache()  # each of these runs takes memory in sizes of its own
        step = CapturedStep(traced, template, results, wanted, fused)
        step.make_plans(fresh(), others(), gradients, rng).check(layers, narrow, fused)
        return step

    step = planned(fused=False)
    if traced.fuse() or step.backward.sums:
        del step
        step = planned(fused=True)
    return step


def _observe(model, call: Call, values: list[Tensor], state: slice, work: list[Work]):
    """A call layer by layer: its result's template and tensors (of no data), their gradients, and what it gives."""
    model = own_copy(model)
    Held(model).put(values)
    attributes, versions = watch.python_state(model), [watch.version(v) for v in values]
    with CountWork() as counted:
        result, found = call.repeat(model, values[state.stop :])
    work += counted.work
    _check_results(found, values)
    changed = watch.changed_attribute(attributes, model)
    if changed is not None:
        raise Unsupported(f"the model changes its attribute {changed}")
    written = [v for i, v in enumerate(values) if watch.version(v) != versions[i] and not state.start <= i < state.stop]
    if written:
        raise Unsupported("the model writes into its parameters or its input")
    kept = {id(v) for m in model.modules() for v in m.__dict__.values()}
    if any(id(o) in kept for o in objects_in(result)):
        raise Unsupported("the model returns an object that it keeps")
    rng = torch.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    roots = [r for r in found if r.requires_grad]
    gradients = [torch.empty_like(r).normal_(generator=generator) for r in roots]
    wanted = [v.requires_grad for v in values]
    given = _gradients(roots, values, wanted, gradients)
    outcome = _Outcome([r.detach() for r in found], [v.detach() for v in values], given, rng)
    examples = [
        torch.empty_strided(r.shape, r.stride(), dtype=r.dtype, device="meta").requires_grad_(r.requires_grad)
        for r in found
    ]
    return flatten_result(result, []), examples, gradients, outcome


def _check_results(results: list, values: list[Tensor]) -> None:
    if not all(type(r) is Tensor and r.is_cpu for r in results):
        raise Unsupported("a result is no plain tensor on the CPU")
    if not any(r.requires_grad for r in results):
        raise Unsupported("no result requires a gradient")
    own = [r.untyped_storage().data_ptr() for r in results if r.numel()]
    if len(set(own)) < len(own) or not set(own).isdisjoint(v.untyped_storage().data_ptr() for v in values):
        raise Unsupported("a result shares memory with another, with an input or with a parameter")


def _through_layers(model, call: Call, values: list[Tensor]) -> list:
    model = own_copy(model)
    held = Held(model)
    held.put(values)
    return call.repeat(model, values[len(held.all) :])[1]


def _gradients(roots, values, wanted: list[bool], given, create_graph: bool = False) -> list[Tensor | None]:
    sources = [v for v, w in zip(values, wanted, strict=True) if w]
    found = iter(torch.autograd.grad(roots, sources, given, allow_unused=True, create_graph=create_graph))
    return [next(found) if w else None for w in wanted]


# How far what a plan gives may be from what the layers give, of its norm. The same kernels in the same order give the
# same. Fused ones round once where layers round twice, masks of ReLU flip with that, and each flip is a whole term: in
# 16 bits a deep network's gradients at its start may be as far from each other as they are long, all of them right. Of
# those only the length is looked at; what fusions do is tested by itself.
_SAME = {"wide": 1e-3, "narrow": 2e-2}
_FUSED = {"wide": 5e-2, "narrow": 0.5}
_LONGER = 4
_SCALE = 1 - 2**-5


@dataclass
class _Outcome:
    """What a step gives: results, values afterwards, gradients (None where there are none), the generator's state."""

    results: list[Tensor]
    values: list[Tensor]
    gradients: list[Tensor | None]
    rng: Tensor

    def check(self, layers: _Outcome, narrow: bool, fused: bool) -> None:
        """Raises Unsupported where this is not what the layers give. ``narrow``: it computes in 16 bits."""
        if not torch.equal(self.rng, layers.rng):
            raise Unsupported("the captured step draws other random numbers than the model")
        for what in ("results", "values", "gradients"):
            if not self._agrees(layers, what, narrow, fused):
                name = "buffers" if what == "values" else what
                raise Unsupported(f"the captured step gives other {name} than the model")

    def _agrees(self, layers: _Outcome, what: str, narrow: bool, fused: bool) -> bool:
        allowed = (_FUSED if fused else _SAME)["narrow" if narrow else "wide"]
        mine, theirs = getattr(self, what), getattr(layers, what)
        if len(mine) != len(theirs) or any((m is None) != (t is None) for m, t in zip(mine, theirs, strict=True)):
            return False
        pairs = [(m, t) for m, t in zip(mine, theirs, strict=True) if m is not None]
        for m, t in pairs:
            if m.shape != t.shape or m.dtype is not t.dtype or not torch.equal(torch.isfinite(m), torch.isfinite(t)):
                return False
        sizes = torch.tensor([_norm(t) for _, t in pairs])
        if fused and narrow and what == "gradients":
            length = torch.tensor([_norm(m) for m, _ in pairs]).norm()
            return bool(length <= _LONGER * sizes.norm()) and bool(sizes.norm() <= _LONGER * length)
        apart = torch.tensor([_norm(m.double() - t.double()) for m, t in pairs])
        if fused:
            return bool(apart.norm() <= allowed * sizes.norm())
        return not (apart > allowed * (sizes + 1e-3 * sizes.norm())).any()


def _norm(t: Tensor) -> float:
    return float(t.double().nan_to_num(posinf=0.0, neginf=0.0).norm())
