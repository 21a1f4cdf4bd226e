"""Training steps that run as plans: what they give."""

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as TF

import dlperf
from dlperf.backends.cpu._library import FLOATS
from dlperf.backends.cpu.conv import ALGORITHMS
from dlperf.benchmarks.models import find, seeded

from .captured import (
    PICTURES,
    Attends,
    Block,
    Perceptron,
    X,
    assert_same,
    both,
    captured,
    convolutional,
    gradients,
    reasons,
    settle,
)

pytestmark = pytest.mark.skipif(not dlperf.backends.cpu.C, reason="the CPU kernels are not built")


@pytest.mark.parametrize(
    ("model", "inputs", "tolerance"),
    [
        (Perceptron, (X,), 0.0),
        (lambda: Perceptron(dropout=0.5), (X,), 0.0),
        (Attends, (torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(3)),), 0.0),
        (convolutional, (PICTURES,), 1e-5),
        (convolutional, (PICTURES.contiguous(memory_format=torch.channels_last),), 1e-5),
        (lambda: seeded("vit_tiny"), find("vit_tiny").inputs(1)[0], 0.0),
        (lambda: seeded("unet_digits"), find("unet_digits").inputs(2)[0], 1e-6),
        (lambda: seeded("resnet18"), find("resnet18").inputs(2)[0], 1e-2),
    ],
    ids=["perceptron", "dropout", "attention", "batch norm", "channels_last", "vit", "unet", "resnet"],
)
def test_steps_are_the_layers_steps(model, inputs, tolerance):
    mine, theirs = both(model())
    optimizers = [torch.optim.SGD(m.parameters(), lr=1e-3, momentum=0.9) for m in (mine, theirs)]
    for seed in range(4):
        pair = [gradients(m, *inputs, seed=seed) for m in (mine, theirs)]
        assert_same(*pair, tolerance=tolerance)
        for optimizer in optimizers:
            optimizer.step()
    assert len(captured(mine)) == 1, reasons(mine)
    for name, value in theirs.state_dict().items():
        assert torch.allclose(mine.state_dict()[name], value, atol=0, rtol=max(tolerance, 1e-30)) or tolerance > 0


@pytest.mark.parametrize("model", [convolutional, Perceptron, Attends])
def test_autocast_is_part_of_the_kind(model):
    inputs = {convolutional: PICTURES, Perceptron: X}.get(model, torch.randn(2, 7, 24))
    mine, theirs = both(model())
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pair = [gradients(m, inputs) for m in (mine, theirs)]
        assert pair[0][0].dtype is pair[1][0].dtype
        assert_same(*pair, tolerance=0.0 if model is not convolutional else 0.1)
    for _ in range(3):
        pair = [gradients(m, inputs) for m in (mine, theirs)]
        assert_same(*pair, tolerance=1e-5)
    assert len(captured(mine)) == 2, reasons(mine)


def test_batch_norm_and_relu_become_one_operator_in_both_directions():
    mine, _ = both(convolutional())
    settle(mine, PICTURES)
    step = captured(mine)[0]
    assert step.notes["fuse_batch_norm_relu"] == 4
    operators = [w.name for w in step.work]
    assert "dlperf.activation" not in operators and "dlperf.activation_bwd" not in operators


def test_running_statistics_move_once_a_step():
    mine, theirs = both(convolutional())
    for i in range(5):
        for m in (mine, theirs):
            gradients(m, PICTURES + i)
    for a, b in zip(mine.buffers(), theirs.buffers(), strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-6)
    assert int(mine[1].bn1.num_batches_tracked) == 5


def test_results_and_gradients_are_the_callers_own():
    mine, _ = both(Perceptron())
    settle(mine, X)
    first = gradients(mine, X)
    kept = mine(X), [p.grad for p in mine.parameters()]
    values = kept[0].detach().clone(), [g.clone() for g in kept[1]]
    gradients(mine, X * 3)
    assert torch.equal(kept[0], values[0]) and all(map(torch.equal, kept[1], values[1]))
    assert torch.equal(first[0], values[0])
    memories = [p.grad.untyped_storage().data_ptr() for p in mine.parameters()]
    assert len(set(memories)) == len(memories)


def test_gradients_accumulate():
    mine, theirs = both(Perceptron())
    settle(mine, X)
    for m in (mine, theirs):
        m.zero_grad()
        for scale in (1, 2):
            m(X * scale).sum().backward()
    assert captured(mine)
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_backward_twice_where_the_graph_is_retained_and_not_otherwise():
    mine, _ = both(Perceptron())
    settle(mine, X)
    y = mine(X).sum()
    mine.zero_grad()
    y.backward(retain_graph=True)
    once = [p.grad.clone() for p in mine.parameters()]
    y.backward()
    assert all(torch.equal(p.grad, 2 * g) for p, g in zip(mine.parameters(), once, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_gradients_of_gradients_and_of_a_few_parameters():
    mine, theirs = both(Perceptron())
    settle(mine, X)
    found = []
    for m in (mine, theirs):
        (g,) = torch.autograd.grad(m(X).square().sum(), [m.first.weight], create_graph=True)
        m.zero_grad()
        g.square().sum().backward()
        found.append([g.detach(), *(p.grad for p in m.parameters())])
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_inputs_get_their_gradients():
    mine, theirs = both(Attends())
    found = []
    for m in (mine, theirs):
        for _ in range(3):
            x = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(3)).requires_grad_()
            m(x).square().sum().backward()
        found.append(x.grad)
    assert captured(mine) and torch.equal(*found)


class Several(nn.Module):
    """Results in a dictionary, one of them without a gradient, one of them integers; a parameter that is not used."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.unused = nn.Linear(12, 6), nn.Linear(2, 2)

    def forward(self, x, mask=None):
        y = self.layer(x)
        if mask is not None:
            y = y.masked_fill(mask, 0.0)
        return {"a": y, "b": (y * 2, y.detach() + 1), "best": y.argmax(-1), "name": "several"}


def test_structured_results_and_unused_ones():
    mine, theirs = both(Several())
    mask = torch.zeros(4, 6, dtype=torch.bool)
    for m in (mine, theirs):
        for _ in range(3):
            m.zero_grad()
            result = m(X, mask=mask)
            result["b"][0].sum().backward()  # nothing comes back to "a"
    assert captured(mine), reasons(mine)
    again = mine(X, mask=mask)
    assert again["name"] == "several" and not again["b"][1].requires_grad and again["best"].dtype is torch.int64
    assert mine.unused.weight.grad is None
    assert torch.equal(mine.layer.weight.grad, theirs.layer.weight.grad)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(9, 8), nn.Linear(8, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, i):
        return self.head(torch.tanh(self.embed(i)))


def test_shared_parameters_get_the_sum():
    mine, theirs = both(Tied())
    for _ in range(3):
        pair = [gradients(m, torch.tensor([[1, 2, 8]])) for m in (mine, theirs)]
    assert captured(mine) and len(pair[0][1]) == 1
    assert_same(*pair)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e-42])
def test_values_that_are_no_ordinary_numbers(bad):
    mine, theirs = both(Perceptron())
    settle(mine, X)
    x = X.clone()
    x[1, 3] = bad
    for a, b in zip(*(g[1] for g in (gradients(mine, x), gradients(theirs, x))), strict=True):
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


def test_threads_do_not_mix_their_steps():
    mine, theirs = both(Perceptron())
    settle(mine, X)
    inputs = [X * (i + 1) for i in range(4)]
    expected = [torch.autograd.grad(theirs(x).square().sum(), list(theirs.parameters())) for x in inputs]
    wrong = []

    def run(i):
        for _ in range(20):
            found = torch.autograd.grad(mine(inputs[i]).square().sum(), list(mine.parameters()))
            if not all(map(torch.equal, found, expected[i])):
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and captured(mine)


def test_two_calls_before_one_backward_pass():
    mine, theirs = both(Perceptron())
    settle(mine, X)
    for m in (mine, theirs):
        m.zero_grad()
        (m(X) * m(X * 2)).sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize(
    "loss",
    [
        lambda y: y.sum(),
        lambda y: y.t().contiguous().square().mean(),
        lambda y: y[0, 0] * 2,
        lambda y: y.double().sum(),
    ],
    ids=["expanded", "transposed", "one element", "another dtype"],
)
def test_gradients_of_any_layout(loss):
    mine, theirs = both(Perceptron())
    settle(mine, X)
    assert_same(gradients(mine, X, loss=loss), gradients(theirs, X, loss=loss))
    assert captured(mine)


@pytest.mark.parametrize("algorithm", ["direct", "winograd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("kernel", "size", "channels"), [(1, 7, (24, 16)), (3, 8, (16, 40)), (3, 5, (3, 8)), (5, 6, (8, 8))]
)
def test_a_gradient_joins_another_as_the_kernel_writes_it(isa, algorithm, dtype, kernel, size, channels):
    c, k = channels
    generator = torch.Generator().manual_seed(0)
    gy, weight, other = (
        torch.randn(*shape, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)
        for shape in ((2, k, size, size), (k, c, kernel, kernel), (2, c, size, size))
    )
    C, threads = dlperf.backends.cpu.C, torch.get_num_threads()
    shape = C.Conv2dShape(
        *(2, size, size, c, k, kernel, kernel, size, size),
        *(1, 1, kernel // 2, kernel // 2, 1, 1, 1, *weight.stride()),
        *(FLOATS[dtype], 0, 0.0, ALGORITHMS[algorithm]),
    )
    workspace = C.scratch(C.conv2d_workspace_bytes(shape, 1, threads, False))

    def run(residual):
        gx = torch.full_like(other, float("nan"))
        C.conv2d_bwd_input(shape, gy.data_ptr(), weight.data_ptr(), 0, residual, gx.data_ptr(), workspace, threads)
        return gx

    alone, joined = run(0), run(other.data_ptr())
    exact = TF.conv_transpose2d(gy.double(), weight.double(), padding=kernel // 2) + other.double()
    if dtype is torch.float32:
        assert torch.equal(joined, alone + other)
    apart = (alone + other).double() - exact
    assert ((joined.double() - exact).norm() <= 1.01 * apart.norm() + 1e-7 * exact.norm()).item()


def test_sums_of_gradients_join_convolutions():
    mine, theirs = both(nn.Sequential(Block(), Block(), nn.Flatten(), nn.Linear(16 * 64, 3)))
    x = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)
    settle(mine, x)
    settle(theirs, x)
    assert_same(gradients(mine, x), gradients(theirs, x), tolerance=1e-5)
    step = captured(mine)[0]
    assert "'add'" not in step.backward.source
    assert step.backward.source.count("'conv2d_bwd_input'") == 3


class Sliced(Perceptron):
    """Results that are views with gaps, and turned."""

    def forward(self, x):
        y = super().forward(x)
        return y[:, ::2], y.t()


def test_results_that_are_views():
    mine, theirs = both(Sliced())
    found = []
    for m in (mine, theirs):
        for _ in range(3):
            m.zero_grad()
            a, b = m(X)
            (a.square().sum() + b.cumsum(0).sum()).backward()
        found.append([a.detach(), b.detach(), *(p.grad for p in m.parameters())])
    assert all(map(torch.equal, *found))


class AttendsWithDropout(Attends):
    """torch's attention with dropout, whose mask is drawn in place."""

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 4, 6)).permute(2, 0, 3, 1, 4).unbind(0)
        return x + self.out(TF.scaled_dot_product_attention(q, k, v, dropout_p=0.2).transpose(1, 2).flatten(2))


def test_torchs_own_draws_are_repeated():
    mine, theirs = both(AttendsWithDropout())
    x = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(3))
    for seed in range(4):
        assert_same(gradients(mine, x, seed=seed), gradients(theirs, x, seed=seed), tolerance=1e-5)
    assert captured(mine), reasons(mine)
