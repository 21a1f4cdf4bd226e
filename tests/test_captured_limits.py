"""Training steps that run as plans: what can't be captured, and what the report says of it."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import dlperf
from dlperf.optimize.engine import MOST_CAPTURES
from dlperf.optimize.training import training_of

from .captured import Perceptron, X, assert_same, both, captured, gradients, reasons, settle

pytestmark = pytest.mark.skipif(not dlperf.backends.cpu.C, reason="the CPU kernels are not built")


def test_a_gradient_of_a_gradient_through_dropout_is_refused():
    mine, _ = both(Perceptron(dropout=0.5))
    settle(mine, X)
    with pytest.raises(RuntimeError, match="capture=False"):
        torch.autograd.grad(mine(X).square().sum(), [mine.first.weight], create_graph=True)


class Counts(Perceptron):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Branches(Perceptron):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class WritesItsInput(Perceptron):
    def forward(self, x):
        return super().forward(x.add_(1))


class ReturnsItsInput(Perceptron):
    def forward(self, x):
        return super().forward(x), x


class PythonDraws(Perceptron):
    def forward(self, x):
        import random

        return super().forward(x) * (2.0 if random.random() < 0.5 else 3.0)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Counts, "attribute 'calls'"),
        (Branches, "can't be traced"),
        (WritesItsInput, "or its input"),
        (ReturnsItsInput, "shares memory"),
    ],
)
def test_what_cannot_be_captured_runs_by_layers(model, words):
    mine, theirs = both(model())
    for _ in range(3):
        outs = []
        for m in (mine, theirs):
            m.zero_grad()
            y = m(X.clone())
            y = y[0] if isinstance(y, tuple) else y
            y.sum().backward()
            outs.append((y.detach(), [p.grad for p in m.parameters()]))
        assert_same(*outs)
    assert not captured(mine) and any(words in r for r in reasons(mine)), reasons(mine)
    if model is Counts:
        assert mine.calls == 3


def test_hooks_of_submodules_run_and_the_models_own_do_not_keep_it_from_capture():
    seen = []
    mine, _ = both(Perceptron())
    mine.register_forward_hook(lambda *_: seen.append("model"))
    mine.first.weight.register_hook(lambda g: seen.append("gradient"))
    settle(mine, X)
    assert captured(mine)
    seen.clear()
    gradients(mine, X)
    assert seen == ["model", "gradient"]
    mine.first.register_forward_hook(lambda *_: seen.append("first"))
    gradients(mine, X)
    assert "first" in seen and "a submodule has a hook" in reasons(mine)


def test_checkpointing_and_anomaly_detection_see_layers():
    mine, theirs = both(Perceptron())
    settle(mine, X)
    for m in (mine, theirs):
        m.zero_grad()
        checkpoint(m, X, use_reentrant=False).sum().backward()
    assert torch.equal(mine.first.weight.grad, theirs.first.weight.grad)
    assert any("checkpointing" in r for r in reasons(mine))
    with torch.autograd.set_detect_anomaly(True):
        gradients(mine, X)
    assert any("anomaly" in r for r in reasons(mine))


def test_an_optimized_model_within_another():
    inner = dlperf.optimize(Perceptron().train())
    outer = nn.Sequential(inner, nn.Linear(4, 2)).train()
    for _ in range(3):
        outer(X).sum().backward()
    assert captured(inner)
    again = dlperf.optimize(outer)
    for _ in range(3):
        again(X).sum().backward()
    assert captured(again) and training_of(again[0]) is None


def test_captures_have_an_end():
    mine, theirs = both(Perceptron())
    big = torch.randn(20, 12)
    for rows in range(1, 11):
        for _ in range(3):
            assert_same(gradients(mine, big[:rows]), gradients(theirs, big[:rows]))
    assert len(captured(mine)) == MOST_CAPTURES
    assert any("captured already" in r for r in reasons(mine))


def test_compiled_models_are_traced_through_their_layers():
    mine, theirs = both(Perceptron())
    compiled = torch.compile(mine, backend="eager")
    assert torch.allclose(compiled(X), theirs(X), rtol=1e-5, atol=1e-6)


def test_capture_is_refused_where_it_means_nothing():
    with pytest.raises(ValueError, match="capture"):
        dlperf.optimize(Perceptron(), mode="inference", capture=False)
    with pytest.raises(TypeError, match="capture"):
        dlperf.optimize(Perceptron(), capture="yes")


def test_report_tells_what_is_captured():
    mine, _ = both(Perceptron())
    settle(mine, X)
    report = dlperf.report(mine)
    assert [c.reason for c in report.calls] == [""] and "captured" in str(report)


def test_function_transforms_and_functional_calls_go_through():
    mine, theirs = both(Perceptron())
    settle(mine, X)
    found = []
    for m in (mine, theirs):
        parameters = {k: v.detach() for k, v in m.named_parameters()}

        def loss(parameters, x, m=m):
            return torch.func.functional_call(m, parameters, (x,)).square().sum()

        found.append(
            [
                *torch.func.grad(loss)(parameters, X).values(),
                *torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, X[:, None]).values(),
                loss({k: v * 2 for k, v in parameters.items()}, X),
            ]
        )
    assert all(map(torch.allclose, *found))
    assert_same(gradients(mine, X), gradients(theirs, X))
