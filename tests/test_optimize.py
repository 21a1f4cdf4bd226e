"""optimize(mode="train") and report: sharing, structure, reasons."""

import copy
import io

import pytest
import torch
from torch import nn as torch_nn

import dlperf
from dlperf.nn import LAYERS
from dlperf.testing.compare import assert_matches


class Odd(torch_nn.Module):
    """A model with what makes copying hard: lists, a bound method, a shared layer, an unused attribute."""

    def __init__(self):
        super().__init__()
        self.first = torch_nn.Linear(4, 4)
        self.shared = self.first
        self.act = torch_nn.SiLU()
        self.norm = torch_nn.BatchNorm1d(4)
        self.listed = [self.act, {"norm": self.norm}]
        self.call = self.compute
        self.config = {"width": 4}

    def compute(self, x):
        return self.listed[1]["norm"](self.listed[0](self.shared(self.first(x))))

    def forward(self, x):
        return self.call(x)


@pytest.fixture
def odd():
    torch.manual_seed(0)
    return Odd()


def test_layers_are_exchanged_and_the_model_is_left_alone(odd):
    before = {name: type(m) for name, m in odd.named_modules()}
    fast = dlperf.optimize(odd)
    assert {name: type(m) for name, m in odd.named_modules()} == before
    assert isinstance(fast, Odd) and type(fast).__name__ == "Odd"
    for name, module in fast.named_modules():
        assert type(module) is LAYERS.get(before[name], type(fast))
    assert type(fast.act) is dlperf.nn.SiLU


def test_attributes_refer_to_the_copies(odd):
    fast = dlperf.optimize(odd)
    assert fast.shared is fast.first and fast.first is not odd.first
    assert fast.listed[0] is fast.act and fast.listed[1]["norm"] is fast.norm
    assert fast.call.__self__ is fast
    assert odd.listed[0] is odd.act and odd.call.__self__ is odd


def test_parameters_and_buffers_are_shared_in_both_directions(odd):
    fast = dlperf.optimize(odd)
    for (name, p), (fast_name, q) in zip(odd.named_parameters(), fast.named_parameters(), strict=True):
        assert name == fast_name and p is q
    fast(torch.randn(8, 4))
    assert odd.norm.num_batches_tracked == 1
    assert torch.equal(odd.norm.running_mean, fast.norm.running_mean)
    odd.double()
    assert fast.norm.running_mean.dtype is torch.float64 and fast.first.weight.dtype is torch.float64


def test_same_outputs_gradients_and_state_dict(odd):
    twin, truth = copy.deepcopy(odd), copy.deepcopy(odd).double()
    fast = dlperf.optimize(odd)
    assert list(fast.state_dict()) == list(twin.state_dict())
    x = torch.randn(8, 4)
    outputs = [model(x.to(next(model.parameters()).dtype)) for model in (fast, truth, twin)]
    assert_matches(*outputs[:2], baseline=outputs[2], reduction=4)
    # Not the squares: their sum is nearly constant behind a batch norm, and its gradients are rounding alone.
    for y in outputs:
        (y * torch.cos(torch.arange(y.numel(), dtype=y.dtype)).view_as(y)).sum().backward()
    for p, true, q in zip(fast.parameters(), truth.parameters(), twin.parameters(), strict=True):
        assert_matches(p.grad, true.grad, baseline=q.grad, reduction=8 * 4)
    fast.load_state_dict(twin.state_dict(), strict=True)
    twin.load_state_dict(fast.state_dict(), strict=True)


def test_hooks_of_the_original_run_in_the_copy(odd):
    seen = []
    odd.act.register_forward_hook(lambda module, args, out: seen.append(type(module)))
    dlperf.optimize(odd)(torch.randn(3, 4))
    assert seen == [dlperf.nn.SiLU]


def test_hooks_added_to_the_copy_do_not_run_in_the_original(odd):
    seen = []
    dlperf.optimize(odd).act.register_forward_hook(lambda *_: seen.append(1))
    odd(torch.randn(3, 4))
    assert seen == []


def test_subclasses_stay_and_the_report_says_why():
    class MySiLU(torch_nn.SiLU):
        def forward(self, x):
            return x * 2

    fast = dlperf.optimize(torch_nn.Sequential(MySiLU(), torch_nn.SiLU()))
    assert isinstance(fast[0], MySiLU)
    torch.testing.assert_close(fast[0](torch.ones(2)), torch.full((2,), 2.0))
    rows = dlperf.report(fast).rows
    assert rows[0].served_by == "torch" and "subclass of SiLU" in rows[0].detail
    assert rows[1].served_by in ("cpu", "reference")


def test_parametrized_layers_stay():
    layer = torch_nn.utils.parametrizations.weight_norm(torch_nn.Linear(3, 3))
    fast = dlperf.optimize(torch_nn.Sequential(layer))
    x = torch.randn(2, 3)
    torch.testing.assert_close(fast(x), layer(x))
    assert "parametrized" in dlperf.report(fast).rows[0].detail


def test_optimized_models_pickle_and_deepcopy(odd):
    fast = dlperf.optimize(torch_nn.Sequential(torch_nn.Linear(3, 3), torch_nn.SiLU()))
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    x = torch.randn(2, 3)
    assert torch.equal(loaded(x), fast(x))
    assert torch.equal(copy.deepcopy(fast)(x), fast(x))


def test_report_of_a_run_tells_what_served(odd):
    report = dlperf.report(dlperf.optimize(odd), torch.randn(3, 4))
    served = {row.path: row for row in report.rows}
    assert served["act"].detail == "activation"
    assert served["act"].served_by in ("cpu", "reference")
    assert "served by" in str(report)
    assert odd.training, "the report must leave the mode as it was"


def test_report_names_fallbacks():
    model = dlperf.optimize(torch_nn.Sequential(torch_nn.SiLU())).double()
    report = dlperf.report(model, torch.ones(2, dtype=torch.float64))
    assert report.rows[0].served_by == "reference"
    assert any("float64" in reason or "not built" in reason for reason in report.fallbacks)


@pytest.mark.parametrize(
    "model, error, words",
    [
        (lambda: "resnet50", TypeError, "'model' must be a torch.nn.Module, not str"),
        (lambda: torch.jit.script(torch_nn.Linear(2, 2)), TypeError, "before torch.jit"),
        (lambda: torch.compile(torch_nn.Linear(2, 2)), TypeError, "before torch.compile"),
    ],
)
def test_what_cannot_be_optimized_is_refused(model, error, words):
    with pytest.raises(error, match=words):
        dlperf.optimize(model())


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'mode' must be one of 'train'"):
        dlperf.optimize(torch_nn.Linear(2, 2), mode="turbo")
