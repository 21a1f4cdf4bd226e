"""What every operator shares: registration with torch, and the three ways a call can go.

    compiling, subclasses, modes   ->  torch.ops.dlperf.<name>        (schema, fake, autograd registered once)
    torch.func transforms          ->  an autograd.Function with a generated vmap rule
    eager, gradient needed         ->  a lean autograd.Function       (same setup and backward)
    eager, no gradient             ->  the backend's function itself  (few microseconds)

Backward operators are operators of their own, so gradients can be differentiated again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter

from .. import backends

_library = torch.library.Library("dlperf", "DEF")
# Every operator by name.
OPERATORS: dict[str, Operator] = {}

_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_functorch_level = torch._C._functorch.peek_interpreter_stack
_unwrap_if_dead = torch._C._functorch.unwrap_if_dead
_is_grad_enabled = torch.is_grad_enabled
_is_autocast_enabled = torch.is_autocast_enabled


class Operator:
    """One operator of dlperf.

    Args:
        schema: ``name(Tensor x, ..., int[] stride, str activation) -> Tensor``, torch's schema language. What the
            operator mutates is marked ``Tensor(a!)``; such an operator has no gradient.
        fake: ``fake(*args)`` returns empty outputs of the right shape, strides and dtype. Backends allocate
            their outputs with the same function.
        setup: ``setup(ctx, args, output)`` keeps what backward needs: ``ctx.save_for_backward`` for tensors, attributes
            for the rest.
        backward: ``backward(ctx, *grads)`` returns one gradient (or None) per Tensor argument, in order.
            ``ctx.needs_input_grad`` is indexed by argument. None: not differentiable.
    """

    def __init__(
        self,
        schema: str,
        *,
        fake: Callable,
        setup: Callable | None = None,
        backward: Callable | None = None,
    ):
        self.name = schema.partition("(")[0].strip()
        self.fake = fake
        _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        self.op = getattr(torch.ops.dlperf, self.name).default
        arguments = self.op._schema.arguments
        self.arity = len(arguments)
        self.tensor_slots = tuple(i for i, a in enumerate(arguments) if "Tensor" in str(a.type))
        self.differentiable = backward is not None
        for key in ("CPU", "CUDA"):
            _library.impl(self.name, self.run, key)
        torch.library.register_fake(f"dlperf::{self.name}", fake, lib=_library)
        if backward is not None:
            self._setup, self._backward = setup, backward
            torch.library.register_autograd(
                f"dlperf::{self.name}", self._padded_backward, setup_context=self._library_setup, lib=_library
            )
            self.function, self.transformable = self._make_functions()
            # What Function.apply ends in, where no transform is active.
            self._apply = super(torch.autograd.Function, self.function).apply
        OPERATORS[self.name] = self

    def __call__(self, *args):
        if torch.compiler.is_compiling():
            return self.op(*args)
        needs_grad = False
        for slot in self.tensor_slots:
            t = args[slot]
            if t is None:
                continue
            kind = type(t)
            if (kind is not Tensor and kind is not Parameter) or t.is_neg():
                return self._interposed(args)
            if t.requires_grad:
                needs_grad = True
        if _dispatch_modes() or _function_modes() or _functorch_level() is not None:
            return self._interposed(args)
        if needs_grad and self.differentiable and _is_grad_enabled():
            args = list(args)
            for slot in self.tensor_slots:
                if args[slot] is not None:
                    args[slot] = _unwrap_if_dead(args[slot])
            return self._apply(*args)
        return self.run(*args)

    def _interposed(self, args):
        """A subclass, mode or transform must see the call."""
        if self.differentiable and _functorch_level() is not None:
            return self.transformable.apply(*args)
        return self.op(*args)

    def run(self, *args):
        """The plain path: picks the backend and calls it, without autograd."""
        return self._run_on(backends.select(self.name, args), args)

    def _run_on(self, module, args):
        if module.__name__.endswith(".reference"):
            return self._run_reference(module, args)
        return getattr(module, self.name)(*args)

    def _run_reference(self, module, args):
        device = next((a.device.type for a in args if isinstance(a, Tensor)), "cpu")
        if _autocast_is_on(device):
            with torch.autocast(device, enabled=False):
                result = getattr(module, self.name)(*args)
        else:
            result = getattr(module, self.name)(*args)
        return _with_layout_of(self.fake(*args), result)

    # --- autograd ---------------------------------------------------------------------------------

    def _library_setup(self, ctx, inputs, output):
        ctx.set_materialize_grads(False)
        ctx.dlperf_backend = None
        self._setup(ctx, inputs, output)

    def _padded_backward(self, ctx, *grads):
        for grad in grads:
            if grad is not None:
                break
        else:
            return (None,) * self.arity
        with backends.prefer(ctx.dlperf_backend):
            given = self._backward(ctx, *grads)
        padded = [None] * self.arity
        for slot, grad in zip(self.tensor_slots, given, strict=True):
            padded[slot] = grad
        return tuple(padded)

    def _make_functions(self):
        operator = self

        class OperatorFunction(torch.autograd.Function):
            @staticmethod
            def forward(ctx, *args):
                module = backends.select(operator.name, args)
                output = operator._run_on(module, args)
                ctx.set_materialize_grads(False)
                ctx.dlperf_backend = backends.choice(module)
                operator._setup(ctx, args, output)
                return output

            backward = staticmethod(operator._padded_backward)

        class TransformableFunction(torch.autograd.Function):
            generate_vmap_rule = True

            @staticmethod
            def forward(*args):
                return operator.op(*args)

            @staticmethod
            def setup_context(ctx, inputs, output):
                operator._library_setup(ctx, inputs, output)

            @staticmethod
            def backward(ctx, *grads):
                return operator._padded_backward(ctx, *grads)

        for function in (OperatorFunction, TransformableFunction):
            function.__name__ = function.__qualname__ = f"dlperf::{self.name}"
        return OperatorFunction, TransformableFunction


def _with_layout_of(pattern, result):
    """The reference's result, restrided where its memory order is not the one that the operator promises."""
    if isinstance(result, Tensor):
        if result.stride() == pattern.stride() or result.numel() == 0:
            return result if result.shape == pattern.shape else result.reshape(pattern.shape)
        out = torch.empty_strided(pattern.shape, pattern.stride(), dtype=result.dtype, device=result.device)
        return out.copy_(result)
    if result is None:
        return None
    return tuple(r if p is None else _with_layout_of(p, r) for p, r in zip(pattern, result, strict=True))


def plain(*tensors: Tensor) -> bool:
    """Whether nothing but eager torch sees these tensors: exact types, no mode, no transform, not compiling."""
    if torch.compiler.is_compiling() or _dispatch_modes() or _function_modes() or _functorch_level() is not None:
        return False
    return all((type(t) is Tensor or type(t) is Parameter) and not t.is_neg() for t in tensors)


class _Capture(threading.local):
    active = False


_capture = _Capture()


@contextmanager
def capturing():
    """Inside, this thread's calls are recorded on real tensors, to be repeated on tensors that lie as those do."""
    before, _capture.active = _capture.active, True
    try:
        yield
    finally:
        _capture.active = before


def lies_as_in_eager(*tensors: Tensor) -> bool:
    """Whether what is decided by the places of these tensors in memory holds when the call runs."""
    return all(type(t) in (Tensor, Parameter) for t in tensors) if _capture.active else plain(*tensors)


def save_inputs(ctx, args, output) -> None:
    """A ``setup`` that keeps every argument: tensors where autograd can see them, the rest in ``ctx.rest``."""
    ctx.save_for_backward(*(a for a in args if isinstance(a, Tensor)))
    ctx.rest = tuple(None if isinstance(a, Tensor) else a for a in args)
    ctx.is_tensor = tuple(isinstance(a, Tensor) for a in args)


def backward_through_reference(name: str) -> Callable:
    """A ``backward`` that differentiates the reference implementation: for derivatives that are rarely wanted.

    Pair it with :func:`save_inputs`. Differentiable to any order.
    """

    def backward(ctx, *grads):
        saved = iter(ctx.saved_tensors)
        args = [next(saved) if is_tensor else value for is_tensor, value in zip(ctx.is_tensor, ctx.rest, strict=True)]
        wanted = [i for i, a in enumerate(args) if ctx.is_tensor[i] and ctx.needs_input_grad[i]]
        create_graph = torch.is_grad_enabled()
        # Aliases, so that an argument passed twice gets a gradient for each place.
        for i in wanted:
            leaf = args[i] if create_graph else args[i].detach().requires_grad_()
            args[i] = leaf.view_as(leaf) if create_graph else leaf
        with torch.enable_grad():
            outputs = getattr(backends.load("reference"), name)(*args)
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        pairs = [
            (o, g) for o, g in zip(outputs, grads, strict=True) if g is not None and o is not None and o.requires_grad
        ]
        found = torch.autograd.grad(
            [o for o, _ in pairs],
            [args[i] for i in wanted],
            [g for _, g in pairs],
            allow_unused=True,
            create_graph=create_graph,
        )
        by_slot = dict(zip(wanted, found, strict=True))
        return tuple(by_slot.get(i) for i in _tensor_slots(name))

    return backward


def _tensor_slots(name: str) -> Sequence[int]:
    arguments = getattr(torch.ops.dlperf, name).default._schema.arguments
    return [i for i, a in enumerate(arguments) if "Tensor" in str(a.type)]


def _autocast_is_on(device: str) -> bool:
    """False for devices that torch.autocast does not know, as "meta"."""
    return (device in ("cpu", "cuda") or torch.amp.is_autocast_available(device)) and _is_autocast_enabled(device)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype that torch.autocast wants matrix-like operators to compute in on x's device, or None."""
    device = "cpu" if x.is_cpu else x.device.type
    if not _autocast_is_on(device) or not x.is_floating_point() or x.dtype is torch.float64:
        return None
    return torch.get_autocast_dtype(device)
