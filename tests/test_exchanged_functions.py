"""optimize(mode="train"): the functions that a model's own forward calls are dlperf's, and nothing else notices."""

import copy
import inspect
import io
import threading

import pytest
import torch
import torch.nn.functional as TF
from torch import nn as torch_nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import dlperf
from dlperf import backends
from dlperf.nn._exchange import is_on
from dlperf.testing.compare import assert_matches


class Attention(torch_nn.Module):
    """As vision models write it: torch's functions between layers."""

    def __init__(self, width=16, heads=2, dropout=0.0):
        super().__init__()
        self.qkv = torch_nn.Linear(width, 3 * width)
        self.proj = torch_nn.Linear(width, width)
        self.heads, self.dropout = heads, dropout

    def forward(self, x, *, scale: float | None = None):
        b, s, e = x.shape
        q, k, v = self.qkv(x).view(b, s, 3, self.heads, e // self.heads).permute(2, 0, 3, 1, 4)
        y = TF.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0, scale=scale)
        return self.proj(TF.gelu(y.transpose(1, 2).reshape(b, s, e)))


class Net(torch_nn.Module):
    def __init__(self, way="plain", dropout=0.0):
        super().__init__()
        self.blocks = torch_nn.ModuleList(Attention(dropout=dropout) for _ in range(2))
        self.way = way

    def part(self, x):
        return self.blocks[1](TF.layer_norm(x, (16,))) + (x @ x.transpose(1, 2)).softmax(-1) @ x

    def forward(self, x):
        x = self.blocks[0](x)
        if self.way == "fails":
            raise KeyboardInterrupt
        if self.way == "breaks the graph":
            torch._dynamo.graph_break()
        if self.way.startswith("checkpoint"):
            return checkpoint(self.part, x, use_reentrant=self.way.endswith("reentrant"))
        return self.part(x)


def build(way="plain", dropout=0.0) -> Net:
    torch.manual_seed(0)
    return Net(way, dropout)


def served(model, *inputs) -> set[tuple[str, str]]:
    with backends.trace() as traced:
        model(*inputs)
    return set(traced)


def gradients(model, x) -> list[torch.Tensor]:
    model.zero_grad()
    x = x.clone().requires_grad_()
    model(x).square().sum().backward()
    return [x.grad, *(p.grad.clone() for p in model.parameters())]


@pytest.fixture
def x():
    return torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))


def test_functions_and_methods_are_dlperfs(x):
    names = {name for name, _ in served(dlperf.optimize(build()), x)}
    assert names == {"attention", "activation", "layer_norm", "softmax", "bmm", "linear"}
    assert not served(build(), x)


@pytest.mark.parametrize("way", ["plain", "checkpoint", "checkpoint reentrant"])
def test_results_and_gradients_are_torchs(x, way):
    model = build(way)
    expected = gradients(model, x)
    for got, wanted in zip(gradients(dlperf.optimize(model), x), expected, strict=True):
        assert_matches(got, wanted)


@pytest.mark.parametrize("way", ["checkpoint", "checkpoint reentrant"])
def test_checkpointing_with_dropout_draws_the_same_mask_twice(x, way):
    model = dlperf.optimize(build(way, dropout=0.5))
    torch.manual_seed(3)
    checkpointed = gradients(model, x)
    model.way = "plain"
    torch.manual_seed(3)
    for got, wanted in zip(gradients(model, x), checkpointed, strict=True):
        assert_matches(got, wanted)


def test_attention_with_dropout_stays_torchs(x):
    names = {name for name, _ in served(dlperf.optimize(build(dropout=0.5)), x)}
    assert "attention" not in names and "linear" in names


CALLS = {
    "layer_norm": lambda x: TF.layer_norm(x, (8,)),
    "group_norm": lambda x: TF.group_norm(x, 2),
    "batch_norm": lambda x: TF.batch_norm(x, torch.zeros(4), torch.ones(4), training=True),
    "max_pool2d": lambda x: TF.max_pool2d(x, 2),
    "softmax": lambda x: torch.softmax(x, -1) + torch.softmax(x, -1, torch.float32),
    "log_softmax": lambda x: x.log_softmax(-1) + TF.log_softmax(x, dim=-1),
    "upsample": lambda x: TF.interpolate(x, scale_factor=2.0),
    "attention": lambda x: TF.scaled_dot_product_attention(query=x, key=x, value=x, is_causal=True),
    "bmm": lambda x: x.flatten(0, 1) @ x.flatten(0, 1).transpose(1, 2),
    "conv2d": lambda x: TF.conv2d(x, x[:, :, :3, :3]),
    "mse": lambda x: TF.mse_loss(x, x + 1),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_function_alone(name):
    class Alone(torch_nn.Module):
        def forward(self, x):
            return CALLS[name](x)

    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    fast = dlperf.optimize(Alone())
    assert_matches(fast(x), Alone()(x))
    assert served(fast, x)


def test_an_in_place_function_stays_in_place():
    class InPlace(torch_nn.Module):
        def forward(self, x):
            TF.relu(x, inplace=True)
            return x

    assert dlperf.optimize(InPlace())(torch.tensor([-1.0, 1.0])).tolist() == [0.0, 1.0]


def test_nothing_is_left_on_after_a_failure(x):
    with pytest.raises(KeyboardInterrupt):
        dlperf.optimize(build("fails"))(x)
    assert torch._C._len_torch_function_stack() == 0


def test_layers_run_without_the_mode(x, monkeypatch):
    seen = []
    plain = dlperf.nn.functional.linear
    monkeypatch.setattr(dlperf.nn.functional, "linear", lambda *a, **k: (seen.append(is_on()), plain(*a, **k))[1])

    class Watched(torch_nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch_nn.Linear(16, 16)

        def forward(self, x):
            seen.append(is_on())
            return self.layer(x)

    dlperf.optimize(Watched())(x)
    assert seen == [True, False]


def test_signatures_names_and_classes_are_the_users(x):
    model = build()
    fast = dlperf.optimize(model)
    assert inspect.signature(fast.blocks[0].forward) == inspect.signature(model.blocks[0].forward)
    assert repr(fast) == repr(model)
    assert isinstance(fast, Net) and type(fast).__qualname__ == "Net" and type(fast).__module__ == __name__
    assert type(dlperf.optimize(fast)) is type(fast) is type(dlperf.optimize(model))


@pytest.mark.parametrize("how", ["deepcopy", "torch.save"])
def test_copies_exchange_too(x, how):
    fast = dlperf.optimize(build())
    if how == "deepcopy":
        other = copy.deepcopy(fast)
    else:
        buffer = io.BytesIO()
        torch.save(fast, buffer)
        buffer.seek(0)
        other = torch.load(buffer, weights_only=False)
    assert torch.equal(other(x), fast(x))
    assert served(other, x) == served(fast, x)
    assert other.blocks[0] is not fast.blocks[0]


def test_a_class_that_refuses_subclasses_keeps_its_functions(x):
    class Refuses(Attention):
        def __init_subclass__(cls):
            raise RuntimeError("no subclasses")

    fast = dlperf.optimize(Refuses())
    assert type(fast) is Refuses
    assert {name for name, _ in served(fast, x)} == {"linear"}


@pytest.mark.parametrize("way", ["plain", "breaks the graph"])
def test_compiled(x, way):
    model = build(way)
    fast = torch.compile(dlperf.optimize(model), backend="aot_eager")
    for got, wanted in zip(gradients(fast, x), gradients(model, x), strict=True):
        assert_matches(got, wanted)


def test_traced_by_fx(x):
    class Function(torch_nn.Module):
        def forward(self, x):
            return TF.gelu(x) @ x.transpose(1, 2)

    model = Function()
    assert_matches(torch.fx.symbolic_trace(dlperf.optimize(model))(x), model(x))


def test_a_mode_of_the_users_sees_the_calls(x):
    class Seen(TorchFunctionMode):
        def __init__(self):
            super().__init__()
            self.names = set()

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.names.add(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    model, seen = build(), Seen()
    with seen:
        got = dlperf.optimize(model)(x)
    assert_matches(got, model(x))
    assert seen.names


def test_threads_do_not_share_the_mode(x):
    fast, results = dlperf.optimize(build()), []
    inside, go = threading.Event(), threading.Event()
    fast.blocks[0].register_forward_pre_hook(lambda *_: (inside.set(), go.wait(10))[0])
    thread = threading.Thread(target=lambda: results.append(fast(x)))
    thread.start()
    inside.wait(10)
    with backends.trace() as traced:
        TF.gelu(x)
    go.set()
    thread.join()
    assert not traced and len(results) == 1
