"""Training steps that run as plans: what they give, what makes them stale, what can't be captured."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as TF
from torch.utils.checkpoint import checkpoint

import dlperf
from dlperf.backends.cpu._library import FLOATS
from dlperf.backends.cpu.conv import ALGORITHMS
from dlperf.benchmarks.models import find, seeded
from dlperf.optimize.captured import CapturedStep
from dlperf.optimize.engine import MOST_CAPTURES, Fallback
from dlperf.optimize.training import training_of

pytestmark = pytest.mark.skipif(not dlperf.backends.cpu.C, reason="the CPU kernels are not built")


class Block(nn.Module):
    """Convolution, batch norm, residual and ReLU in place, as ResNet's own code writes them."""

    def __init__(self, channels=16, inplace=True):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=inplace)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        Block(),
        Block(inplace=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


class Perceptron(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(12, 32), nn.Linear(32, 4)
        self.dropout, self.scale = nn.Dropout(dropout), 1.0

    def forward(self, x):
        return self.second(self.dropout(TF.gelu(self.first(x)))) * self.scale


class Attends(nn.Module):
    """Query, key and value from one product, as vision transformers have them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.qkv, self.out = nn.LayerNorm(24), nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 4, 6)).permute(2, 0, 3, 1, 4).unbind(0)
        y = TF.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).flatten(2))


def both(model):
    """The model with captured steps, and one of the same weights that runs layer by layer."""
    model = model.train()
    return dlperf.optimize(copy.deepcopy(model)), dlperf.optimize(copy.deepcopy(model), capture=False)


def gradients(model, *inputs, seed=0, loss=lambda y: (y.float() ** 2).mean()):
    torch.manual_seed(seed)
    model.zero_grad(set_to_none=True)
    result = model(*inputs)
    loss(result).backward()
    return result.detach().clone(), [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def settle(model, *inputs, **options):
    """Two calls of a kind: the second runs from plans."""
    for _ in range(2):
        gradients(model, *inputs, **options)
    return model


def captured(model) -> list[CapturedStep]:
    return [s for s in training_of(model).steps.values() if isinstance(s, CapturedStep)]


def reasons(model) -> list[str]:
    training = training_of(model)
    return [s.reason for s in training.steps.values() if isinstance(s, Fallback)] + list(training.uncaptured)


def assert_same(mine, theirs, tolerance=0.0):
    for a, b in zip([mine[0], *mine[1]], [theirs[0], *theirs[1]], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype is b.dtype and a.shape == b.shape
            assert (a.double() - b.double()).norm() <= tolerance * b.double().norm()


X = torch.randn(4, 12, generator=torch.Generator().manual_seed(1))
PICTURES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))


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


def test_a_gradient_of_a_gradient_through_dropout_is_refused():
    mine, _ = both(Perceptron(dropout=0.5))
    settle(mine, X)
    with pytest.raises(RuntimeError, match="capture=False"):
        torch.autograd.grad(mine(X).square().sum(), [mine.first.weight], create_graph=True)


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


def change_in_place(model):
    with torch.no_grad():
        model.first.weight.mul_(2)


def change_data(model):
    model.first.weight.data = model.first.weight.data * 2


def change_through_numpy(model):
    model.first.weight.detach().numpy()[:] *= 2


def replace_parameter(model):
    model.first.weight = nn.Parameter(model.first.weight.detach() * 2)


def change_attribute(model):
    model.scale = 2.0


def replace_layer(model):
    model.second = dlperf.nn.Linear(32, 4, bias=False)
    nn.init.constant_(model.second.weight, 0.1)


def freeze(model):
    model.first.weight.requires_grad_(False)


def load(model):
    model.load_state_dict({k: v * 2 for k, v in model.state_dict().items()})


def hook(model):
    model.first.register_forward_hook(lambda module, args, y: y * 2)


def in_another_dtype(model):
    model.to(torch.bfloat16)


@pytest.mark.parametrize(
    "change",
    [
        *(change_in_place, change_data, change_through_numpy, replace_parameter, change_attribute, replace_layer),
        *(freeze, load, hook, in_another_dtype),
    ],
)
def test_changes_are_seen(change):
    mine, theirs = both(Perceptron())
    settle(mine, X)
    assert captured(mine)
    for m in (mine, theirs):
        change(m)
    x = X.to(mine.first.weight.dtype)
    for _ in range(3):
        assert_same(gradients(mine, x), gradients(theirs, x))


def test_a_parameter_written_before_the_backward_pass_is_an_error():
    mine, _ = both(Perceptron())
    settle(mine, X)
    y = mine(X).sum()
    with torch.no_grad():
        mine.second.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_evaluation_and_no_grad_run_by_layers():
    mine, theirs = both(convolutional())
    settle(mine, PICTURES)
    settle(theirs, PICTURES)
    before = len(training_of(mine).steps)
    with torch.no_grad():
        mine(PICTURES), theirs(PICTURES)
    for m in (mine, theirs):
        m.eval()
    assert torch.allclose(mine(PICTURES), theirs(PICTURES), rtol=1e-5, atol=1e-6)
    assert len(training_of(mine).steps) == before
    mine.train()
    assert torch.isfinite(gradients(mine, PICTURES)[0]).all() and captured(mine)


def test_frozen_batch_norm_stays_frozen():
    mine, theirs = both(convolutional())
    for m in (mine, theirs):
        m[1].bn1.eval()
    for _ in range(3):
        pair = [gradients(m, PICTURES) for m in (mine, theirs)]
    assert captured(mine), reasons(mine)
    assert_same(*pair, tolerance=1e-5)
    assert int(mine[1].bn1.num_batches_tracked) == 0


def test_other_sizes_are_other_kinds():
    mine, theirs = both(Perceptron())
    for rows in (4, 3, 4, 3, 4, 3):
        assert_same(gradients(mine, X[:rows]), gradients(theirs, X[:rows]))
    assert len(captured(mine)) == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e-42])
def test_values_that_are_no_ordinary_numbers(bad):
    mine, theirs = both(Perceptron())
    settle(mine, X)
    x = X.clone()
    x[1, 3] = bad
    for a, b in zip(*(g[1] for g in (gradients(mine, x), gradients(theirs, x))), strict=True):
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


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


def test_copies_and_pickles_begin_anew():
    mine, theirs = both(Perceptron())
    settle(mine, X)
    for copied in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine)), copy.copy(mine)):
        assert isinstance(copied, Perceptron) and type(copied).__name__ == "Perceptron"
        for _ in range(3):
            assert_same(gradients(copied, X), gradients(theirs, X))
        assert captured(copied) and training_of(copied) is not training_of(mine)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    snapshot = dlperf.optimize(mine, mode="inference")
    assert torch.allclose(snapshot(X), theirs.eval()(X), rtol=1e-5, atol=1e-6)


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


def test_an_attribute_that_changes_at_every_call_is_reported():
    mine, _ = both(Perceptron())
    for i in range(3):
        mine.scale = float(i)
        gradients(mine, X)
    assert not captured(mine) and any("had changed" in r for r in reasons(mine))


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
