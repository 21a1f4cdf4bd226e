"""torch.compile(backend="dlperf")."""

import copy

import pytest
import torch
import torch.nn.functional as TF
from torch import nn

import dlperf

from .helpers import Call
from .inference import lively, small_resnet


@pytest.fixture
def compiled():
    from dlperf.optimize.compiler import register

    register()
    torch._dynamo.reset()
    yield lambda model: torch.compile(model, backend="dlperf")
    torch._dynamo.reset()


def test_compile_for_inference(compiled):
    model = lively(small_resnet())
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(compiled(model)(x), model(x), rtol=1e-4, atol=1e-5)


def test_compile_for_training(compiled):
    model = small_resnet()
    model.drop.p = 0.0
    twin = copy.deepcopy(model)
    fast = compiled(model)
    x = torch.randn(4, 3, 8, 8)
    for _ in range(2):
        for f, m in ((fast, model), (twin, twin)):
            f(x).square().mean().backward()
            with torch.no_grad():
                for p in m.parameters():
                    p -= 0.01 * p.grad
                    p.grad = None
    for (name, a), b in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)


def test_compile_fuses(compiled):
    model = Call(lambda self, x: TF.relu(self.fc(x) + x), fc=nn.Linear(4, 4))
    with dlperf.backends.trace() as traced, torch.no_grad():
        compiled(model)(torch.randn(2, 4))
    assert [op for op, _ in traced] == ["linear"]


def test_compile_lets_the_convolution_gather_the_norms_statistics(compiled, monkeypatch):
    monkeypatch.setattr(dlperf.backends, "kernel_serves", lambda op, args: op == "conv2d_moments")
    parts = {"conv": nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False), "norm": nn.BatchNorm2d(5)}
    model = Call(lambda self, x: TF.relu(self.norm(self.conv(x))), **parts)
    twin, x = copy.deepcopy(model), torch.randn(2, 3, 9, 9)
    with dlperf.backends.trace() as traced:
        y = compiled(model)(x)
    expected = twin(x)
    for result in (y, expected):
        result.square().sum().backward()
    assert [op for op, _ in traced] == ["conv2d_moments", "batch_norm_given", "batch_norm_update"]
    torch.testing.assert_close(y, expected)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    for a, b in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_compile_options_are_refused():
    from dlperf.optimize.compiler import compile_graph

    with pytest.raises(TypeError, match="no options, got 'fast'"):
        compile_graph(None, [], fast=True)
