"""Winograd's algorithm for 3x3 convolution: results, the infinities it must not spread, and who may use it."""

import hypothesis
import hypothesis.strategies as st
import pytest
import torch

import dlperf
from dlperf import nn
from dlperf.backends import cpu
from dlperf.backends.cpu import conv as kernels_of_conv
from dlperf.backends.cpu.conv import ALGORITHMS, force_algorithm
from dlperf.nn import functional as F
from dlperf.testing.compare import assert_matches, relative_error

LAST = torch.channels_last
# What a layer computed this way may be off by, relative to its largest output.
LAYER_BOUND = 1e-5
# The same relative to the largest sum of magnitudes, where a layer has few terms that may cancel.
SUM_BOUND = 4e-6

pytestmark = pytest.mark.usefixtures("kernels")


def _chosen(x_size, weight_size, direction=0, prepacked=False, dtype=torch.float32, **geometry) -> str:
    """The algorithm that such a convolution gets."""
    x, weight = torch.empty(x_size, dtype=dtype), torch.empty(weight_size, dtype=dtype)
    y = torch.nn.functional.conv2d(x, weight, **geometry)
    stride, padding, dilation = (geometry.get(k, v) for k, v in (("stride", 1), ("padding", 0), ("dilation", 1)))
    n, c, h, w = x.shape
    shape = kernels_of_conv.C.Conv2dShape(
        *(n, h, w, c, y.shape[1], weight.shape[2], weight.shape[3], y.shape[2], y.shape[3]),
        *(stride, stride, padding, padding, dilation, dilation, geometry.get("groups", 1), *weight.stride()),
        *(kernels_of_conv.FLOATS[dtype], 0, 0.0, kernels_of_conv.algorithm()),
    )
    number = kernels_of_conv.C.conv2d_algorithm(shape, direction, prepacked)
    return {v: k for k, v in ALGORITHMS.items()}[number]


@pytest.fixture
def no_tiles():
    """Where AMX is, the direct sum takes what other processors leave to Winograd."""
    before = cpu.C.isa()
    cpu.C.set_isa_cap("avx512_bf16")
    yield
    cpu.C.set_isa_cap(before)


def _results(x, weight, bias, padding, activation="none"):
    """y, gx and gw for the loss (y * gy).sum() with a fixed gy."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = F.conv2d(x, weight, bias, padding=padding, activation=activation)
    gy = torch.cos(torch.arange(y.numel(), dtype=torch.float64)).reshape(y.shape).to(y.dtype)
    return (y.detach(), *torch.autograd.grad(y, (x, weight), gy))


def _truth(x, weight, bias, padding, activation="none"):
    with dlperf.backend("reference"):
        return _results(x.double(), weight.double(), None if bias is None else bias.double(), padding, activation)


# sizes around the 4x4 tile, channels around vectors and panels
SHAPES = [
    ((1, 16, 4, 4), 16, 1),
    ((2, 20, 7, 9), 35, 1),
    ((1, 17, 5, 6), 100, 0),
    ((2, 48, 10, 3), 70, 2),
    ((3, 33, 8, 8), 64, (0, 2)),
    ((2, 3, 9, 5), 5, 1),
    ((1, 250, 6, 6), 40, 1),
    ((9, 64, 28, 28), 64, 1),
    # many filters: made where they are multiplied, 128 tiles at a time
    ((1, 256, 5, 5), 260, 1),
    ((3, 300, 29, 28), 256, 1),
]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, LAST], ids=["oihw", "ohwi"])
@pytest.mark.parametrize("size, filters, padding", SHAPES, ids=str)
def test_forward_and_gradients(size, filters, padding, memory_format, isa):
    x = torch.randn(size).contiguous(memory_format=LAST)
    weight = torch.randn(filters, size[1], 3, 3).contiguous(memory_format=memory_format)
    bias = torch.randn(filters)
    with force_algorithm("winograd"):
        got = _results(x, weight, bias, padding)
    with force_algorithm("direct"):
        direct = _results(x, weight, bias, padding)
    truth = _truth(x, weight, bias, padding)
    for name, a, d, t in zip(("y", "gx", "gw"), got, direct, truth, strict=True):
        assert a.stride() == d.stride()
        assert not torch.equal(a, d), f"{name}: both algorithms gave the same bits, so one did not run"
        assert relative_error(a, t) <= LAYER_BOUND, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, LAST], ids=["oihw", "ohwi"])
@pytest.mark.parametrize("size, filters, padding", SHAPES, ids=str)
def test_half_types(size, filters, padding, memory_format, dtype, isa):
    """Widened as they are read, rounded once as they are written: no worse than the direct sum."""
    x = torch.randn(size).to(dtype).contiguous(memory_format=LAST)
    weight = torch.randn(filters, size[1], 3, 3).to(dtype).contiguous(memory_format=memory_format)
    bias = torch.randn(filters).to(dtype)
    with force_algorithm("winograd"):
        got = _results(x, weight, bias, padding)
    with force_algorithm("direct"):
        direct = _results(x, weight, bias, padding)
    for a, d, t in zip(got, direct, _truth(x, weight, bias, padding), strict=True):
        assert a.stride() == d.stride() and a.dtype == dtype
        assert relative_error(a, t) <= 1.05 * relative_error(d, t) + LAYER_BOUND


# The second: no whole vectors, panels and pieces of channels.
@pytest.mark.parametrize("channels, filters", [(256, 256), (250, 310)])
def test_many_filters_in_a_plan(channels, filters, isa):
    """A pack of many filters holds the weight alone, and serves any batch."""
    layer = torch.nn.Conv2d(channels, filters, 3, padding=1)
    model = dlperf.optimize(torch.nn.Sequential(layer), mode="inference")
    for n in (1, 5):
        x = torch.randn(n, channels, 12, 12).contiguous(memory_format=LAST)
        assert _chosen(x.shape, layer.weight.shape, prepacked=True, padding=1) == "winograd"
        with torch.inference_mode():
            truth = torch.nn.functional.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1)
            for _ in range(2):  # the first call is the layers', the second the plan's
                assert relative_error(model(x), truth) <= LAYER_BOUND


def test_half_types_ran_it(isa):
    x, weight = torch.randn(4, 64, 20, 20).contiguous(memory_format=LAST), torch.randn(64, 64, 3, 3)
    for dtype in (torch.bfloat16, torch.float16):
        results = []
        for name in ("winograd", "direct"):
            with force_algorithm(name):
                results.append(_results(x.to(dtype), weight.to(dtype), None, 1))
        for a, d in zip(*results, strict=True):
            assert not torch.equal(a, d)


def test_epilogue(isa):
    x, weight = torch.randn(2, 24, 9, 7).contiguous(memory_format=LAST), torch.randn(40, 24, 3, 3)
    bias, residual = torch.randn(40), torch.randn(2, 40, 9, 7).contiguous(memory_format=LAST)
    for activation in ("none", "relu", "silu", "gelu"):
        with force_algorithm("winograd"):
            y = F.conv2d(x, weight, bias, padding=1, residual=residual, activation=activation)
        with dlperf.backend("reference"):
            args = (t.double() for t in (x, weight, bias))
            truth = F.conv2d(*args, padding=1, residual=residual.double(), activation=activation)
        assert relative_error(y, truth) <= LAYER_BOUND, activation


def _magnitudes(x, weight, padding):
    """What y, gx and gw come to at most, were every tap as large as the largest: all taps enter a transform's points,
    those too that a small picture has no use for."""
    x = x.double().abs().requires_grad_()
    largest = weight.double().abs().amax((2, 3), keepdim=True).expand_as(weight).clone().requires_grad_()
    y = torch.nn.functional.conv2d(x, largest, padding=padding)
    return (y.detach(), *torch.autograd.grad(y, (x, largest), torch.ones_like(y)))


@hypothesis.given(
    st.integers(1, 3), st.integers(1, 40), st.integers(1, 80), st.integers(1, 13), st.integers(1, 13),
    st.integers(1, 2), st.integers(0, 2**31)
)  # fmt: skip
@hypothesis.settings(deadline=None, max_examples=30)
def test_any_size(n, c, k, h, w, padding, seed):
    torch.manual_seed(seed)
    x, weight = torch.randn(n, c, h, w).contiguous(memory_format=LAST), torch.randn(k, c, 3, 3)
    with force_algorithm("winograd"):
        got = _results(x, weight, None, padding)
    for a, t, most in zip(got, _truth(x, weight, None, padding), _magnitudes(x, weight, padding), strict=True):
        assert (a - t).abs().max() <= SUM_BOUND * most.max()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 3e38])
def test_infinities_stay_where_they_belong(value, isa):
    x = torch.randn(2, 16, 12, 12).contiguous(memory_format=LAST)
    x[1, 3, 5, 6] = value
    weight = torch.randn(32, 16, 3, 3)
    with force_algorithm("winograd"):
        got = _results(x, weight, None, 1)
    with force_algorithm("direct"):
        direct = _results(x, weight, None, 1)
    for a, d in zip(got, direct, strict=True):
        assert torch.equal(torch.isnan(a), torch.isnan(d))
        finite = torch.isfinite(d)
        assert torch.equal(finite, torch.isfinite(a))
        assert_matches(a[finite], d[finite].double(), reduction=16 * 9)
    assert torch.isfinite(got[0][0]).all() and not torch.isfinite(got[0][1]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels, filters", [(64, 64), (250, 310)])
def test_infinity_with_packed_weights(channels, filters, dtype, no_tiles):
    layer = torch.nn.Conv2d(channels, filters, 3, padding=1).to(dtype)
    x = torch.randn(2, channels, 16, 16).to(dtype).contiguous(memory_format=LAST)
    x[1, 1, 3, 3] = float("inf")
    model = dlperf.optimize(torch.nn.Sequential(layer), mode="inference")
    assert _chosen(x.shape, layer.weight.shape, prepacked=True, padding=1, dtype=dtype) == "winograd"
    with torch.inference_mode():
        model(x)  # the layers' own call
        y, expected = model(x), layer(x)
    assert torch.equal(torch.isfinite(y), torch.isfinite(expected))
    finite = torch.isfinite(expected)
    assert_matches(y[finite], expected[finite].double(), reduction=channels * 9)


def test_who_is_served():
    big = ((8, 64, 28, 28), (64, 64, 3, 3))
    assert _chosen(*big, padding=1) == "winograd"
    assert _chosen(*big, padding=1, direction=1) == "winograd"
    assert _chosen(*big, padding=1, direction=2) == "winograd"
    assert _chosen(*big, padding=1, stride=2) == "direct"
    assert _chosen(*big, padding=2, dilation=2) == "direct"
    with_tiles = cpu.C.isa() == "avx512_amx"
    assert _chosen(*big, padding=1, dtype=torch.bfloat16) == ("direct" if with_tiles else "winograd")
    assert _chosen(*big, padding=1, dtype=torch.float16) == "winograd"
    assert _chosen((8, 64, 28, 28), (64, 32, 3, 3), groups=2) == "direct"
    assert _chosen((8, 64, 28, 28), (64, 64, 1, 1)) == "direct"
    assert _chosen((8, 3, 28, 28), (64, 3, 3, 3)) == "direct"
    assert _chosen((1, 512, 4, 4), (512, 512, 3, 3), padding=1, prepacked=True) == "direct"


def test_strict_is_direct():
    x, weight = torch.randn(8, 64, 28, 28).contiguous(memory_format=LAST), torch.randn(64, 64, 3, 3)
    fast = F.conv2d(x, weight, padding=1)
    with dlperf.precision("strict"):
        strict = F.conv2d(x, weight, padding=1)
        with dlperf.precision("fast"):
            assert torch.equal(F.conv2d(x, weight, padding=1), fast)
    with force_algorithm("direct"):
        assert torch.equal(F.conv2d(x, weight, padding=1), strict)
    assert not torch.equal(fast, strict)
    assert torch.equal(F.conv2d(x, weight, padding=1), fast)


def test_strict_reaches_plans():
    layer = nn.Conv2d(64, 64, 3, padding=1)
    model = dlperf.optimize(torch.nn.Sequential(layer), mode="inference")
    x = torch.randn(8, 64, 28, 28).contiguous(memory_format=LAST)
    fast = model(x)
    with dlperf.precision("strict"):
        assert not torch.equal(model(x), fast)
    assert torch.equal(model(x), fast)


def test_precision_wants_a_mode():
    with pytest.raises(ValueError, match=r"precision\(mode\): expected one of fast, strict, got 'exact'"):
        dlperf.precision("exact")


def test_same_bits_whatever_the_alignment():
    weight = torch.randn(32, 32, 3, 3)
    x = torch.randn(2, 32, 16, 16).contiguous(memory_format=LAST)
    moved = torch.empty(x.numel() + 1)[1:].view(2, 16, 16, 32).permute(0, 3, 1, 2).copy_(x)
    with force_algorithm("winograd"):
        for a, b in zip(_results(x, weight, None, 1), _results(moved, weight, None, 1), strict=True):
            assert torch.equal(a, b)


def test_smaller_team_than_planned():
    """Asked for more threads than OpenMP gives, the kernels still compute everything."""
    x, weight = torch.randn(2, 40, 12, 12).contiguous(memory_format=LAST), torch.randn(70, 40, 3, 3)
    truth = _truth(x, weight, None, 1)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            with force_algorithm("winograd"):
                got = _results(x, weight, None, 1)
            for a, t in zip(got, truth, strict=True):
                assert relative_error(a, t) <= LAYER_BOUND
    finally:
        torch.set_num_threads(before)
