"""What the shared cases do not reach: long rows, TMA kernels, random streams, bad values, determinism."""

import math

import pytest
import torch

import dlperf
from dlperf.diffusion.functional import ddpm_step
from dlperf.kernels import _attention_plan, _launch, _moments, conv, dropout, layer_norm, matmul, precompile, softmax
from dlperf.nn import functional as F
from dlperf.ops.attention import attention, attention_bwd
from dlperf.testing.cases import FAMILIES
from dlperf.testing.compare import assert_matches
from dlperf.testing.run import run_case


@pytest.fixture(autouse=True)
def _triton():
    with dlperf.backend("triton"):
        yield


@pytest.mark.parametrize("transposed_a", [False, True])
@pytest.mark.parametrize("transposed_b", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_persistent_products(transposed_a, transposed_b, residual, monkeypatch):
    calls = []
    original = matmul._persistent
    monkeypatch.setattr(matmul, "_persistent", lambda *args: (calls.append(1), original(*args)))
    a = torch.randn(256, 304).half().t() if transposed_a else torch.randn(304, 256).half()
    b = torch.randn(256, 296).half().t() if transposed_b else torch.randn(296, 256).half()
    bias, r = torch.randn(296).half(), torch.randn(304, 296).half() if residual else None
    with _launch.as_capability(90):
        y = F.linear(a, b, bias, residual=r, activation="relu")
    assert calls
    truth = a.double() @ b.double().t() + bias.double() + (0 if r is None else r.double())
    assert_matches(y, truth.relu(), reduction=256)


def test_misaligned_rows_do_not_go_to_tma():
    a, b = torch.randn(400, 257).half()[:, 1:], torch.randn(400, 256).half()
    with _launch.as_capability(90):
        y = F.linear(a, b)
    assert_matches(y, a.double() @ b.double().t(), reduction=256)


@pytest.mark.parametrize("logarithm", [False, True])
@pytest.mark.parametrize("dim", [0, 1])
def test_long_softmax(logarithm, dim, monkeypatch):
    monkeypatch.setattr(softmax, "LONGEST", 32)
    monkeypatch.setattr(softmax, "CHUNK", 32)
    x = torch.randn(130, 70).requires_grad_()
    function = F.log_softmax if logarithm else F.softmax
    y = function(x, dim)
    g = torch.randn_like(y)
    (gx,) = torch.autograd.grad(y, x, g)
    wide = x.detach().double().requires_grad_()
    truth = (torch.log_softmax if logarithm else torch.softmax)(wide, dim)
    assert_matches(y, truth, reduction=130)
    assert_matches(gx, torch.autograd.grad(truth, wide, g.double())[0], reduction=130)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_softmax_of_rows_that_are_not_finite(value):
    x = torch.randn(3, 9)
    x[1, 4] = value
    x[2] = value
    torch.testing.assert_close(F.softmax(x, 1), torch.softmax(x, 1), equal_nan=True)


def test_long_rows_of_layer_norm(monkeypatch):
    monkeypatch.setattr(layer_norm, "LONGEST", 64)
    monkeypatch.setattr(layer_norm, "CHUNK", 64)
    x, w, b = (torch.randn(*s).requires_grad_() for s in ((37, 200), (200,), (200,)))
    y = F.layer_norm(x, (200,), w, b)
    g = torch.randn_like(y)
    grads = torch.autograd.grad(y, (x, w, b), g)
    wide = [t.detach().double().requires_grad_() for t in (x, w, b)]
    truth = torch.nn.functional.layer_norm(wide[0], (200,), *wide[1:])
    assert_matches(y, truth, reduction=200)
    for got, expected in zip(grads, torch.autograd.grad(truth, wide, g.double()), strict=True):
        assert_matches(got, expected, reduction=200)


def test_a_target_that_is_no_class_is_nan():
    loss = F.cross_entropy(torch.randn(4, 5), torch.tensor([0, 7, 1, 2]), reduction="none")
    assert torch.isnan(loss).tolist() == [False, True, False, False]


def test_attention_dropout_draws_the_same_words_as_the_reference():
    pair = torch.tensor([99, 3])
    for keys in (40, 41, 300, 301):  # few and many; four to a block, and not
        q, k, v = (torch.randn(2, 4, s, 16) for s in (33, keys, keys))
        k, v = k[:, :2], v[:, :2]
        out, stats = attention(q, k, v, None, pair, False, 0.25, 0.4)
        go = torch.randn_like(out)
        grads = attention_bwd(go, q, k, v, None, pair, out, stats, False, 0.25, 0.4, False)
        with dlperf.backend("reference"):
            wide = [t.double() for t in (q, k, v)]
            truth, truth_stats = attention(*wide, None, pair, False, 0.25, 0.4)
            expected = attention_bwd(*(go.double(), *wide, None, pair, truth, truth_stats, False, 0.25, 0.4, False))
        assert_matches(out, truth, reduction=keys + 16)
        for got, true in zip(grads[:3], expected[:3], strict=True):
            assert_matches(got, true, reduction=2 * (keys + 33))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("case", FAMILIES["attention"], ids=str)
def test_attention_in_blocks_of_keys(case, dtype, monkeypatch):
    """Few keys on the kernels of many."""
    monkeypatch.setattr(_attention_plan, "SHORT_HEAD", 0)
    outcome = run_case(case, dtype, "triton")
    assert outcome.declined is None and outcome.comparisons
    assert outcome.ok, outcome.failures()


@pytest.mark.parametrize("transposed", [False, True])
def test_strides_that_take_64_bits(transposed, monkeypatch):
    monkeypatch.setattr(matmul, "NARROW", 8)
    a, b, r = torch.randn(70, 50), torch.randn(50, 40), torch.randn(70, 40)
    a = a.t().contiguous().t() if transposed else a
    truth = r.double() + a.double() @ b.double()
    assert_matches(F.linear(a, b.t(), residual=r), truth, reduction=50)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_many_tiles_of_moments_are_merged_first(kernel_size, monkeypatch):
    monkeypatch.setattr(_moments, "MOST_PARTS", 2)
    monkeypatch.setattr(_moments, "GROUP", 4)
    x, w = torch.randn(6, 8, 13, 11) + 3, torch.randn(20, 8, kernel_size, kernel_size)
    y, mean, var = conv.conv2d_moments(x, w, [1, 1], [0, 0], [1, 1], 1)
    truth = torch.nn.functional.conv2d(x.double(), w.double())
    assert_matches(mean, truth.mean((0, 2, 3)), reduction=y.numel() // 20)
    assert_matches(var, truth.var((0, 2, 3), unbiased=False), reduction=y.numel() // 20)


def test_rows_without_keys_are_zero_and_their_gradients_too():
    q, k, v = (torch.randn(1, 1, 5, 16).requires_grad_() for _ in range(3))
    out = F.scaled_dot_product_attention(q, k, v, torch.zeros(5, 5, dtype=torch.bool))
    grads = torch.autograd.grad(out.sum(), (q, k, v))
    assert not out.any() and not any(g.any() for g in grads)


def test_launches_of_cases_are_noted_and_not_run(monkeypatch):
    monkeypatch.setattr(dropout.dropout_kernel, "jit", None)
    found = precompile.launched_by_cases(["dropout"], "cpu")
    x = torch.ones(3)
    assert not precompile.launched_by([lambda: 1 / 0])
    assert precompile.launched_by([lambda: 1 / 0, lambda: F.relu(x)])
    assert {v.kernel for v in found} == {"dropout.dropout_kernel"}
    assert {"fp32", "fp16"} <= {d for v in found for d in v.dtypes}


def test_a_lazily_negated_view():
    """torch has no negative strides; this is its only tensor whose memory does not hold its values."""
    x = torch.randn(5, 6, dtype=torch.cfloat).conj().imag
    assert x.is_neg() and x.stride() == (12, 2)
    assert_matches(F.silu(x), torch.nn.functional.silu(x.double()))
    assert_matches(F.linear(x, x), x.double() @ x.double().t(), reduction=6)


def test_in_place_activation():
    x = torch.randn(7, 9)
    expected = x.relu()
    assert F.relu(x, inplace=True) is x
    assert torch.equal(x, expected)


def test_the_same_bits_twice():
    x, w = torch.randn(4, 24, 9, 9), torch.randn(24, 24, 3, 3)
    gy = torch.randn(4, 24, 9, 9)
    runs = []
    for _ in range(2):
        xs, ws = x.clone().requires_grad_(), w.clone().requires_grad_()
        runs.append(torch.autograd.grad(F.conv2d(xs, ws, padding=1), (xs, ws), gy))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_noise_is_the_reference_stream_in_any_memory_format():
    sample = torch.zeros(2, 3, 5, 7)
    steps = {"alpha_bar": 0.078, "alpha_bar_prev": 0.0788, "seed": -9, "step": 4, "first_sample": 3}
    plain = ddpm_step(sample, sample, **steps)
    last = ddpm_step(*(sample.contiguous(memory_format=torch.channels_last),) * 2, **steps)
    with dlperf.backend("reference"):
        truth = ddpm_step(sample.double(), sample.double(), **steps)
    assert_matches(plain, truth)
    assert_matches(last, truth)
