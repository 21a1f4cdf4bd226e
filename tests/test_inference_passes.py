"""optimize(mode=\"inference\"): the passes, on small graphs."""

import pytest
import torch
import torch.nn.functional as TF
from torch import nn

from dlperf.optimize.plan import Plan

from .helpers import Call
from .inference import captured, check, plan_of


class Attention(nn.Module):
    def __init__(self, width=16, heads=2):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        b, s, w = x.shape
        q, k, v = (p(x).view(b, s, self.heads, -1).transpose(1, 2) for p in (self.q, self.k, self.v))
        y = TF.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).contiguous().view(b, s, w))


@pytest.mark.parametrize(
    "layers, shape",
    [
        ((nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (2, 4, 5, 5)),
        ((nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6, affine=False)), (2, 4, 5, 5)),
        ((nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)), (2, 4, 7)),
        ((nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)), (3, 4)),
    ],
)
def test_batch_norm_is_folded(layers, shape):
    program = captured(nn.Sequential(*layers), torch.randn(shape))
    assert program.notes["fold_batch_norm"] == 1
    assert not any("batch_norm" in str(n.target) for n in program.graph.nodes if n.op == "call_function")


def test_batch_norm_stays_where_the_convolution_is_read_twice():
    model = Call(lambda self, x: self.bn(y := self.conv(x)) + y, conv=nn.Conv2d(3, 3, 1), bn=nn.BatchNorm2d(3))
    assert captured(model, torch.randn(2, 3, 4, 4)).notes["fold_batch_norm"] == 0


@pytest.mark.parametrize("permuted", [True, False])
def test_layer_scale_is_folded(permuted):
    def forward(self, x):
        y = self.fc(x) if not permuted else self.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + y * (self.gamma if not permuted else self.gamma[:, None, None])

    model = Call(forward, fc=nn.Linear(6, 6), gamma=nn.Parameter(torch.randn(6)))
    program = captured(model, torch.randn(2, 6, 3, 3) if permuted else torch.randn(2, 3, 6))
    assert program.notes["fold_channel_scale"] == 1


def test_dropout_and_identities_are_removed():
    model = nn.Sequential(nn.Dropout(0.5), nn.Identity(), nn.Linear(4, 4), nn.Dropout1d(0.5))
    program = captured(model, torch.randn(2, 3, 4))
    assert not any("dropout" in str(n.target) or "clone" in str(n.target) for n in program.graph.nodes)


def test_projections_are_joined():
    program = captured(Attention(), torch.randn(2, 5, 16))
    assert program.notes["join_projections"] == 1
    products = [
        n for n in program.graph.nodes if n.op == "call_function" and "linear" in getattr(n.target, "__name__", "")
    ]
    assert len(products) == 2


def test_projections_of_different_inputs_are_not_joined():
    model = Call(
        lambda self, x, y: TF.scaled_dot_product_attention(self.a(x), self.b(y), y),
        a=nn.Linear(8, 8),
        b=nn.Linear(8, 8),
    )
    assert captured(model, torch.randn(2, 5, 8), torch.randn(2, 5, 8)).notes["join_projections"] == 0


@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("act", [TF.relu, TF.gelu, TF.silu, None])
def test_residual_and_activation_are_fused(swap, act):
    def forward(self, x):
        y = x + self.fc(x) if swap else self.fc(x) + x
        return y if act is None else act(y)

    program = captured(Call(forward, fc=nn.Linear(4, 4)), torch.randn(3, 4))
    assert program.notes["fuse_residuals"] == 1
    assert program.notes["fuse_activations"] == (act is not None)
    assert sum(n.op == "call_function" for n in program.graph.nodes) == 1


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: TF.relu(y := self.fc(x)) * y,
        lambda self, x: TF.relu(self.fc(x)) + x,
        lambda self, x: self.fc(x) + x[:1],
        lambda self, x: torch.add(self.fc(x), x, alpha=2),
    ],
    ids=["read twice", "activation before the sum", "broadcast", "alpha"],
)
def test_what_the_epilogue_does_not_compute_is_left(forward):
    assert captured(Call(forward, fc=nn.Linear(4, 4)), torch.randn(3, 4)).notes["fuse_residuals"] == 0


def test_residual_through_a_permutation_is_fused():
    model = Call(lambda self, x: x + self.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), fc=nn.Linear(6, 6))
    assert captured(model, torch.randn(2, 6, 3, 4)).notes["fuse_residuals"] == 1


def test_constants_are_computed_once():
    model = Call(lambda self, x: x * (self.w.exp() + torch.arange(4)).sqrt(), w=nn.Parameter(torch.randn(4)))
    program = captured(model, torch.randn(3, 4))
    assert program.notes["fold_constants"] >= 3
    assert sum(n.op == "call_function" for n in program.graph.nodes) == 1


@pytest.mark.parametrize("function", [lambda x: x * x.sigmoid(), lambda x: x.sigmoid() * x])
def test_silu_is_recognised(function):
    assert captured(Call(lambda self, x: function(x)), torch.randn(5)).notes["recognise_activations"] == 1


def test_tanh_gelu_is_recognised():
    def gelu(self, x):
        return 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * torch.pow(x, 3.0))))

    assert captured(Call(gelu), torch.randn(5)).notes["recognise_activations"] == 1


def _write_into_a_view(x):
    y = x * 2
    y[:, 0].zero_()
    return y


def _read_the_view_of_a_write(x):
    y = x * 2
    v = y.transpose(0, 1)
    y.relu_()
    return v * 1


def _write_twice_and_read_all(x):
    y = x * 2
    z = y.add_(1)
    w = z.relu_()
    return y + z + w


def _write_in_a_narrower_dtype(x):
    y = x * 2
    return y.add_(torch.ones(4, dtype=torch.float64))


def _read_before_the_write(x):
    y = x * 2
    z = y + 1
    y.relu_()
    return y + z


@pytest.mark.parametrize(
    "function",
    [
        _write_into_a_view,
        _read_the_view_of_a_write,
        _write_twice_and_read_all,
        _write_in_a_narrower_dtype,
        _read_before_the_write,
    ],
)
def test_in_place_operators_inside_a_model(function):
    fast = check(Call(lambda self, x: function(x)), torch.randn(3, 4))
    assert isinstance(plan_of(fast), Plan)
