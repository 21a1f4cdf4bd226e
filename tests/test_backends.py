"""Selection: order, names, reasons; and that the backends' functions fit the operators' schemas."""

import inspect
import os
import subprocess
import sys
import threading

import pytest
import torch

import dlperf
from dlperf import backends
from dlperf.nn import functional as F
from dlperf.ops import _frame


@pytest.mark.parametrize("name", backends.NAMES)
def test_functions_have_the_schemas_arguments(name):
    module = backends.load(name)
    for op, operator in _frame.OPERATORS.items():
        function = getattr(module, op, None)
        if function is None:
            continue
        expected = [a.name for a in operator.op._schema.arguments]
        assert list(inspect.signature(function).parameters) == expected, f"{name}.{op}"


def test_the_reference_has_every_operator():
    reference = backends.load("reference")
    assert [op for op in _frame.OPERATORS if not hasattr(reference, op)] == []


def test_a_named_backend_that_cannot_serve_raises_with_its_reason():
    with dlperf.backend("triton"), pytest.raises(dlperf.BackendError, match="'triton' backend was asked for"):
        F.silu(torch.ones(3))


def test_a_named_backend_is_never_replaced():
    with dlperf.backend("cpu"), pytest.raises(dlperf.BackendError, match="float64"):
        F.silu(torch.ones(3, dtype=torch.float64))


def test_auto_falls_back_and_says_so():
    before = sum(backends.fallbacks().values())
    with backends.trace() as calls:
        F.silu(torch.ones(3, dtype=torch.float64))
    assert calls == [("activation", "reference")]
    assert sum(backends.fallbacks().values()) == before + 1


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="expected one of auto, cpu"):
        dlperf.backend("opencl")


def test_backend_blocks_nest_and_are_per_thread():
    seen = []
    with dlperf.backend("reference"):
        with dlperf.backend("auto"):
            assert backends.named() is None
        assert backends.named() == "reference"
        thread = threading.Thread(target=lambda: seen.append(backends.named()))
        thread.start()
        thread.join()
    assert seen == [None]
    assert backends.named() is None


def test_backward_stays_with_the_backend_of_forward():
    x = torch.randn(5, requires_grad=True)
    with dlperf.backend("reference"):
        y = F.silu(x)
    with backends.trace() as calls:
        y.sum().backward()
    assert calls == [("activation_bwd", "reference")]


def test_backward_in_a_thread_of_autograd_is_forwards():
    """As of tensors on a GPU: the backend named in forward is named there, and its calls are collected."""
    x = torch.randn(5, requires_grad=True)
    seen = []

    def backward(y):
        torch.autograd.grad(y.sum(), x)
        seen.append((backends.named(), backends._state.trace))  # as before

    with dlperf.backend("reference"), backends.trace() as calls:
        thread = threading.Thread(target=backward, args=(F.silu(x),))
        thread.start()
        thread.join()
    assert calls == [("activation", "reference"), ("activation_bwd", "reference")]
    assert seen == [(None, None)]


def test_a_gradient_that_the_named_backend_declines_raises_in_a_thread_of_autograd_too(monkeypatch):
    reference = backends.load("reference")
    served = reference.why_not
    x = torch.randn(5, requires_grad=True)
    raised = []

    def backward(y):
        try:
            y.sum().backward()
        except dlperf.BackendError as error:
            raised.append(str(error))

    with dlperf.backend("reference"):
        y = F.silu(x)
    monkeypatch.setattr(reference, "why_not", lambda op, *args: "no" if op.endswith("_bwd") else served(op, *args))
    thread = threading.Thread(target=backward, args=(y,))
    thread.start()
    thread.join()
    assert raised and "'reference' backend was asked for" in raised[0]


@pytest.mark.parametrize(
    "variable, mend",
    [
        ("DLPERF_BACKEND", "expected one of auto"),
        ("DLPERF_ISA", "expected one of"),
        ("DLPERF_FLOAT32_TILES", "expected 0 or 1"),
    ],
)
def test_bad_environment_variables_are_named(variable, mend):
    code = "import torch, dlperf.nn.functional as F; F.silu(torch.ones(3))"
    environment = {**os.environ, variable: "sse9"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert variable in done.stderr and mend in done.stderr
