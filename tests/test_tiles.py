"""Products on AMX's tiles: float32 in three parts of bfloat16, what parts can't stand for, and the tiles' edges."""

import math
import os
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import pytest
import torch

import dlperf
from dlperf.backends import cpu
from dlperf.nn import functional as F
from dlperf.testing.compare import assert_matches, relative_error

LAST = torch.channels_last


@pytest.fixture(autouse=True)
def _tiles(kernels):
    if cpu.C.detected_isa() != "avx512_amx":
        pytest.skip(f"needs a processor with AMX: this one has {cpu.C.detected_isa()}")
    before = cpu.C.isa()
    cpu.C.set_isa_cap("avx512_amx")
    yield
    cpu.C.set_isa_cap(before)


def _exact(function, *tensors):
    return function(*(t.double() for t in tensors))


def _linear_ways(x, w):
    """x w^T by every way through the kernels: packed for the call, packed beforehand, x contiguous along its rows."""
    linear = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    linear.weight.data.copy_(w)
    plan = dlperf.optimize(linear.eval(), mode="inference")
    with torch.inference_mode():
        prepared = plan(x)
    return {"call": F.linear(x, w), "plan": prepared, "turned": F.linear(x.t().contiguous().t(), w)}


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e12])
def test_float32_in_parts_is_as_exact_as_float32(scale):
    x, w = torch.randn(300, 700) * scale, torch.randn(130, 700)
    truth = _exact(torch.nn.functional.linear, x, w)
    plain = relative_error(torch.nn.functional.linear(x, w), truth)
    for way, y in _linear_ways(x, w).items():
        assert relative_error(y, truth) <= 2 * plain, way


def test_every_bit_of_float32_counts():
    """Products with the identity give back all 24 bits of what is multiplied, on either side."""
    x = torch.randn(64, 64) * torch.logspace(-10, 10, 64)[:, None]
    eye = torch.eye(64)
    for way, y in _linear_ways(x, eye).items():
        assert torch.equal(y, x), way
    for way, y in _linear_ways(eye, x).items():
        assert torch.equal(y, x.t()), way


ODD = [1e-44, 1e-30, 1e30, math.inf, -math.inf, math.nan]


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("side", ["rows", "columns"])
@pytest.mark.parametrize("where", ["element", "all"])
def test_magnitudes_beyond_the_parts(value, side, where):
    """Each row (column) of the result is as exact as torch's, whatever its magnitude."""
    x, w = torch.randn(100, 70), torch.randn(96, 70)
    odd = x if side == "rows" else w
    if where == "element":
        odd[37, 5] = value
    else:
        odd[37] = torch.randn(70) * value
    truth, expected = _exact(torch.nn.functional.linear, x, w), torch.nn.functional.linear(x, w)
    if side == "columns":
        truth, expected = truth.t(), expected.t()
    for way, y in _linear_ways(x, w).items():
        y = y if side == "rows" else y.t()
        assert torch.equal(y.isnan(), expected.isnan()), way
        assert torch.equal(y.isinf(), expected.isinf()), way
        for i in (0, 36, 37, 38, y.shape[0] - 1):
            least = 2.0**-149  # the spacing of denormals
            good = expected[i].isfinite()
            error = (y[i].double() - truth[i])[good].abs()
            bound = 1e-6 * truth[i][good].abs().max() if good.any() else 0.0
            assert bool((error <= bound + 8 * least).all()), (way, i)


@pytest.mark.parametrize("value", [1e-30, 1e30, math.inf, math.nan])
@pytest.mark.parametrize("where", ["x", "weight"])
def test_convolutions_with_magnitudes_beyond_the_parts(value, where):
    x = torch.randn(2, 40, 9, 11).to(memory_format=LAST).requires_grad_()
    weight = torch.randn(48, 40, 1, 1).requires_grad_()
    with torch.no_grad():
        (x if where == "x" else weight)[1, 3] = value
    gy = torch.randn(2, 48, 9, 11).to(memory_format=LAST)

    def results(function, *tensors):
        y = function(*tensors)
        return [y, *torch.autograd.grad(y, tensors, gy.to(y.dtype))]

    ours = results(F.conv2d, x, weight)
    theirs = results(torch.nn.functional.conv2d, x, weight)
    exact = results(
        torch.nn.functional.conv2d, x.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    )
    for name, got, expected, truth in zip(("y", "gx", "gw"), ours, theirs, exact, strict=True):
        assert torch.equal(got.isnan(), expected.isnan()), name
        if torch.isfinite(truth).all():
            assert_matches(got, truth, baseline=expected, reduction=48 * 99, what=name)


@hypothesis.settings(
    max_examples=40, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
    m=st.integers(1, 330), n=st.sampled_from([1, 15, 16, 17, 31, 32, 33, 48, 64, 65, 130, 1030]),
    k=st.sampled_from([1, 2, 31, 32, 33, 63, 65, 400, 1100, 1700]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    act=st.sampled_from(["none", "relu", "gelu", "silu"]),
)  # fmt: skip
def test_any_size(m, n, k, dtype, act):
    """Sizes around a tile (16 by 16 by 32), a block of rows (288), a chunk and a group of columns."""
    x, w, b, r = (torch.randn(s).div(s[-1] ** 0.5).to(dtype) for s in ((m, k), (n, k), (n,), (m, n)))
    y = F.linear(x, w, b, residual=r, activation=act)
    with dlperf.backend("reference"):
        truth = F.linear(x.double(), w.double(), b.double(), residual=r.double(), activation=act)
        plain = F.linear(x, w, b, residual=r, activation=act)
    assert_matches(y, truth, baseline=plain, reduction=k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [40, 2000])
def test_transposed_operands_of_any_size(dtype, k):
    """Weight gradients: both operands are turned into tiles, rows past the last whole tile included."""
    for m, n in ((1, 1), (33, 47), (64, 32), (100, 513), (500, 70)):
        a, b = torch.randn(k, m).to(dtype), torch.randn(k, n).to(dtype)
        truth = a.double().t() @ b.double()
        assert_matches(F.mm(a.t(), b), truth, baseline=a.t() @ b, reduction=k, what=f"{m}x{n}")


def test_the_callers_tiles_are_left_as_they_were():
    """oneDNN keeps its own configuration of the tiles from call to call."""
    x, w = torch.randn(64, 64).bfloat16(), torch.randn(64, 64).bfloat16()
    theirs, ours = torch.nn.functional.linear(x, w), F.linear(x, w)
    for _ in range(20):
        assert torch.equal(F.linear(x, w), ours)
        assert torch.equal(torch.nn.functional.linear(x, w), theirs)


def test_float32_without_tiles():
    """DLPERF_FLOAT32_TILES=0: multiply-adds, so other roundings, and the error of one that is as good."""
    code = """if True:
        import torch
        from dlperf.nn import functional as F
        torch.manual_seed(0)
        x, w = torch.randn(200, 300), torch.randn(64, 300)
        y = F.linear(x, w)
        assert (y.double() - x.double() @ w.double().t()).abs().max() < 1e-4
        print(y.flatten().view(torch.int32).tolist()[:500])
    """
    printed = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "DLPERF_FLOAT32_TILES": value},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for value in ("0", "1", "")
    ]
    assert printed[0] != printed[1] == printed[2]


def test_gelu_of_16_bits_is_torchs_everywhere():
    """The table of cubics, over all of bfloat16."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    x = x[x.abs() >= 2.0**-120].reshape(-1, 1).expand(-1, 32).contiguous()  # the tiles take denormals for zero
    eye = torch.eye(32, dtype=torch.bfloat16)
    finite = x[:, 0].isfinite()
    y = torch.empty_like(x)
    for row in range(0, x.shape[0], 4096):
        # Each row's first result is its first value; beside an infinity stand 0 x infinity.
        part = x[row : row + 4096].clone()
        part[:, 1:] = 0
        y[row : row + 4096] = F.linear(part, eye, activation="gelu")
    truth = torch.nn.functional.gelu(x[:, 0].double())
    error = (y[:, 0].double() - truth)[finite].abs()
    assert bool((error <= 2.0**-8 * truth[finite].abs() + 1e-6).all())


@hypothesis.settings(
    max_examples=60, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
    n=st.integers(1, 3),
    channels=st.sampled_from([1, 3, 5, 16, 20, 64]),
    filters=st.sampled_from([7, 16, 33, 96]),
    size=st.tuples(st.integers(5, 40), st.integers(5, 40)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.integers(1, 2),
    odd=st.sampled_from([None, math.inf, math.nan]),
)
def test_pixels_copied_with_their_borders(n, channels, filters, size, kernel, stride, padding, dilation, odd):
    """bfloat16 convolutions and their inputs' gradients; one odd pixel changes what reads it and nothing else."""
    spans = [dilation * (k - 1) + 1 for k in kernel]
    hypothesis.assume(all(s + 2 * p >= span for s, p, span in zip(size, padding, spans, strict=True)))
    x = torch.randn(n, channels, *size).bfloat16().contiguous(memory_format=LAST)
    weight = (torch.randn(filters, channels, *kernel) / math.prod(kernel) ** 0.5).bfloat16()
    if odd is not None:
        x[-1, channels // 2, size[0] // 2, size[1] - 1] = odd
    x.requires_grad_()
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    exact = x.detach().double().requires_grad_()
    truth = torch.nn.functional.conv2d(exact, weight.double(), **options)
    y = F.conv2d(x, weight, **options)
    finite = truth.isfinite()
    assert torch.equal(y.isfinite(), finite)
    assert relative_error(y[finite].detach(), truth[finite].detach()) < 1e-2
    layer = torch.nn.Conv2d(channels, filters, kernel, bias=False, **options).eval()
    layer.weight.data.copy_(weight.float())
    plan = dlperf.optimize(layer, mode="inference", dtype=torch.bfloat16)
    with torch.inference_mode():
        assert torch.equal(plan(x.detach()).nan_to_num(), y.detach().nan_to_num())
    if odd is None:
        seed = torch.randn_like(truth)
        (gradient,) = torch.autograd.grad(y, x, seed.bfloat16())
        (expected,) = torch.autograd.grad(truth, exact, seed.bfloat16().double())
        assert relative_error(gradient, expected) < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_who_computes_a_block_is_not_seen_in_it(dtype):
    """The same bits every time, though threads take blocks of each other's shares."""
    x = torch.randn(3, 64, 30, 27).to(dtype).contiguous(memory_format=LAST)
    layers = [torch.nn.Conv2d(64, 96, 3, padding=1), torch.nn.Conv2d(64, 96, 3, stride=2), torch.nn.Conv2d(64, 200, 1)]
    for layer in layers:
        plan = dlperf.optimize(layer.eval(), mode="inference", dtype=dtype)
        with torch.inference_mode():
            first = plan(x)
            for _ in range(30):
                assert torch.equal(plan(x), first), layer
