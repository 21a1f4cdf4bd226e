import math

import hypothesis
import hypothesis.strategies as st
import pytest
import torch

import dlperf
from dlperf import nn
from dlperf.nn import functional as F
from dlperf.testing.compare import assert_matches
from tests.family import check_case, parametrize

T = torch.nn.functional
LAST = torch.channels_last


@parametrize("conv")
def test_case(case, dtype, isa):
    check_case(case, dtype, "cpu")


@parametrize("conv")
def test_reference(case, dtype):
    check_case(case, dtype, "reference")


def _doubles(*shapes):
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


# name -> (function, shapes, arguments)
SECOND_OPINIONS = {
    "conv2d": ("conv2d", [(2, 4, 7, 8), (6, 2, 3, 2), (6,)], {"stride": (2, 1), "padding": (1, 2), "groups": 2}),
    "conv2d-dilated": ("conv2d", [(2, 4, 9, 8), (6, 4, 3, 3)], {"dilation": (1, 3), "padding": 3}),
    "conv2d-same": ("conv2d", [(2, 4, 7, 8), (6, 4, 4, 3), (6,)], {"padding": "same", "dilation": (3, 2)}),
    "conv2d-valid": ("conv2d", [(4, 7, 8), (6, 4, 4, 3), (6,)], {"padding": "valid", "stride": [2, 3]}),
    "conv1d": ("conv1d", [(2, 4, 9), (6, 2, 3), (6,)], {"stride": 2, "padding": 2, "groups": 2}),
    "conv1d-same": ("conv1d", [(4, 9), (6, 4, 2), (6,)], {"padding": "same"}),
    "conv_transpose2d": (
        "conv_transpose2d",
        [(2, 4, 5, 6), (4, 3, 3, 3), (6,)],
        {"stride": (3, 2), "padding": (1, 0), "output_padding": (2, 1), "groups": 2, "dilation": (1, 2)},
    ),
    "conv_transpose2d-wide-output-padding": (
        "conv_transpose2d",
        [(4, 5, 6), (4, 3, 2, 3)],
        {"output_padding": (0, 4), "dilation": (1, 5), "stride": (1, 2), "padding": (0, 2)},
    ),
    "conv_transpose1d": ("conv_transpose1d", [(4, 6), (4, 5, 4), (5,)], {"stride": 2, "padding": 1}),
}


@pytest.mark.parametrize("name, shapes, arguments", SECOND_OPINIONS.values(), ids=SECOND_OPINIONS)
def test_reference_is_torchs(name, shapes, arguments):
    tensors = _doubles(*shapes)
    y, expected = getattr(F, name)(*tensors, **arguments), getattr(T, name)(*tensors, **arguments)
    torch.testing.assert_close(y, expected)
    gy = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, tensors, gy), torch.autograd.grad(expected, tensors, gy))


@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_gradients(activation):
    x, w, b, r = _doubles((2, 2, 4, 3), (4, 1, 2, 3), (4,), (2, 4, 3, 1))

    def conv(x, w, b, r):
        return F.conv2d(x, w, b, (2, 3), 1, 1, 2, residual=r, activation=activation)

    def transposed(x, w, b):
        return F.conv_transpose2d(x, w, b, (2, 1), 1, (1, 0), 2, 1, activation=activation)

    x2, w2, b2 = _doubles((1, 2, 2, 3), (2, 2, 3, 2), (4,))
    for function, arguments in ((conv, (x, w, b, r)), (transposed, (x2, w2, b2))):
        assert torch.autograd.gradcheck(function, arguments)
        assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True)


@pytest.mark.parametrize("function, shape", [(F.conv2d, (12, 10, 3, 3)), (F.conv_transpose2d, (10, 12, 3, 3))])
def test_double_backward_through_the_kernels(kernels, function, shape):
    def second(dtype):
        torch.manual_seed(0)
        x = torch.randn(2, 10, 7, 6, dtype=torch.float64).to(dtype).requires_grad_()
        w = torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_()
        b = torch.randn(12, dtype=torch.float64).to(dtype).requires_grad_()
        y = function(x, w, b, stride=2, padding=1, activation="relu")
        gx, gw, gb = torch.autograd.grad(y.square().sum(), (x, w, b), create_graph=True)
        return torch.autograd.grad(gx.square().sum() + gw.square().sum() + gb.sum(), (x, w, b))

    single = second(torch.float32)
    with dlperf.backend("reference"):
        double = second(torch.float64)
    for name, got, truth in zip("xwb", single, double, strict=True):
        assert_matches(got, truth, reduction=10**4, what=name)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("groups", [1, 16])
def test_nan_and_infinity_spread_as_in_torch(kernels, isa, value, where, groups):
    operands = [torch.randn(2, 16, 5, 7), torch.randn(32, 16 // groups, 3, 3), torch.randn(32)]
    operands[where].view(-1)[11] = value
    # Whether a weight meets the zeros of the padding differs between torch's own algorithms.
    padding = 0 if where == 1 else 1
    expected = T.conv2d(*operands, padding=padding, groups=groups)
    for activation in (None, "relu"):
        y = F.conv2d(*operands, padding=padding, groups=groups, activation=activation)
        assert torch.equal(y.isnan(), expected.isnan())
        assert torch.equal(y.isinf(), expected.isinf() if activation is None else expected.isposinf())


def _formats(*shape):
    x = torch.randn(shape)
    return {"contiguous": x, "channels_last": torch.empty(shape, memory_format=LAST).copy_(x)}


@pytest.mark.parametrize("shape", [(2, 4, 5, 6), (2, 1, 5, 6), (2, 4, 1, 1), (1, 4, 5, 6), (2, 4, 1, 6)])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_memory_format_is_kept(shape, memory_format):
    x = _formats(*shape)[memory_format].requires_grad_()
    c = shape[1]
    y = F.conv2d(x, torch.randn(3, c, 3, 3), padding=1)
    assert y.stride() == T.conv2d(x, torch.randn(3, c, 3, 3), padding=1).stride()
    assert F.conv_transpose2d(x, torch.randn(c, 3, 2, 2), stride=2).stride()[1] == (
        1 if memory_format == "channels_last" else 4 * shape[2] * shape[3]
    )
    (gx,) = torch.autograd.grad(y.sum(), x)
    assert gx.stride() == x.stride()


@pytest.mark.parametrize("last", [(False, True), (True, False), (True, True)], ids=str)
@pytest.mark.parametrize(
    "size, filter", [((2, 4, 5, 6), (3, 4, 3, 3)), ((2, 1, 5, 6), (8, 1, 3, 3)), ((2, 4, 5, 6), (3, 4, 1, 1))]
)
def test_either_operand_makes_the_result_channels_last(size, filter, last, kernels):
    """A model moved to channels_last runs so from its first layer on, whatever its input."""
    x, weight = torch.randn(size), torch.randn(filter)
    x = torch.empty(size, memory_format=LAST).copy_(x) if last[0] else x
    weight = torch.empty(filter, memory_format=LAST).copy_(weight) if last[1] else weight
    y = F.conv2d(x, weight, padding=1)
    assert y.is_contiguous(memory_format=LAST)
    assert y.stride() == T.conv2d(x, weight, padding=1).stride()
    assert_matches(y, T.conv2d(x.double(), weight.double(), padding=1), reduction=filter[1] * 9)


def test_a_slice_of_channels_is_still_channels_last():
    x = torch.randn(2, 8, 5, 6).contiguous(memory_format=LAST)[:, :4]
    assert F.conv2d(x, torch.randn(3, 4, 1, 1)).is_contiguous(memory_format=LAST)


def test_an_empty_batch_has_gradients(kernels):
    x, w, b = torch.randn(0, 4, 5, 6, requires_grad=True), torch.randn(3, 4, 3, 3).requires_grad_(), torch.ones(3)
    y = F.conv2d(x, w, b.requires_grad_())
    gx, gw, gb = torch.autograd.grad(y.sum(), (x, w, b))
    assert gx.shape == x.shape and torch.equal(gw, torch.zeros_like(w)) and torch.equal(gb, torch.zeros(3))


def test_the_weights_gradient_has_the_weights_layout(kernels):
    for memory_format in (torch.contiguous_format, LAST):
        w = torch.randn(6, 4, 3, 3).contiguous(memory_format=memory_format).requires_grad_()
        (gw,) = torch.autograd.grad(F.conv2d(torch.randn(2, 4, 7, 7), w).square().sum(), w)
        assert gw.stride() == w.stride()


def _gradients_in_every_layout(gy):
    yield "contiguous", gy.contiguous()
    yield "channels_last", gy.contiguous(memory_format=LAST)
    yield "sliced", torch.nn.functional.pad(gy, (1, 2))[..., 1:-2]
    yield "width first", gy.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_gradients_arrive_in_any_layout(kernels, memory_format):
    x = _formats(2, 4, 7, 6)[memory_format].requires_grad_()
    w, b = torch.randn(6, 4, 3, 3, requires_grad=True), torch.randn(6, requires_grad=True)
    y, expected = F.conv2d(x, w, b), T.conv2d(x, w, b)
    for name, gy in _gradients_in_every_layout(torch.randn_like(y)):
        got, wanted = (torch.autograd.grad(o, (x, w, b), gy, retain_graph=True) for o in (y, expected))
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
    ones = torch.ones(()).expand_as(y)
    got, wanted = (torch.autograd.grad(o, (x, w, b), ones) for o in (y, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@st.composite
def _geometries(draw):
    small = st.integers(1, 3)
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    c, k = groups * draw(st.integers(1, 9)), groups * draw(st.integers(1, 12))
    kernel = draw(st.tuples(small, small))
    dilation = draw(st.tuples(small, small))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    least = [max(1, d * (r - 1) + 1 - 2 * p) for d, r, p in zip(dilation, kernel, padding, strict=True)]
    size = [draw(st.integers(m, m + 6)) for m in least]
    return (
        (draw(st.integers(1, 3)), c, *size),
        (k, c // groups, *kernel),
        {"stride": draw(st.tuples(small, small)), "padding": padding, "dilation": dilation, "groups": groups},
        draw(st.booleans()),
    )


@hypothesis.given(_geometries())
@hypothesis.settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_any_geometry(kernels, geometry):
    x_size, w_size, arguments, last = geometry
    memory_format = LAST if last else torch.contiguous_format
    x, w = torch.randn(x_size).contiguous(memory_format=memory_format), torch.randn(w_size)
    single = [t.requires_grad_() for t in (x, w)]
    double = [t.detach().double().requires_grad_() for t in (x, w)]
    y = F.conv2d(*single, **arguments)
    with dlperf.backend("reference"):
        truth = F.conv2d(*double, **arguments)
        gy = torch.randn_like(truth).float()
        true_gradients = torch.autograd.grad(truth, double, gy.double())
    reach = w_size[1] * w_size[2] * w_size[3]
    assert_matches(y, truth, reduction=reach, what="y")
    for name, got, true in zip("xw", torch.autograd.grad(y, single, gy), true_gradients, strict=True):
        assert_matches(got, true, reduction=max(y.numel(), reach), what=f"gradient of {name}")


# Few channels: taps are merged, and pixels whose filter lies inside the picture are taken row by row of it.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "size, filter, rest",
    [
        ((2, 3, 33, 38), (20, 3, 7, 7), (2, 3)),
        ((2, 3, 20, 21), (8, 3, 5, 5), (1, 2, (2, 1))),
        ((2, 1, 28, 27), (6, 1, 5, 5), ()),
        ((2, 15, 13, 12), (17, 15, 3, 3), (1, 1)),
        ((1, 4, 12, 11), (7, 4, 9, 9), (1, 2)),
        ((3, 2, 40, 5), (7, 2, 3, 2), ((3, 1),)),
    ],
    ids=str,
)
def test_weight_gradients_of_few_channels(kernels, isa, dtype, size, filter, rest):
    x = torch.randn(size).to(dtype).contiguous(memory_format=LAST)
    weight = torch.randn(filter).to(dtype).requires_grad_()
    y = F.conv2d(x, weight, None, *rest)
    gy = torch.randn_like(y)
    (gw,) = torch.autograd.grad(y, weight, gy)
    double = weight.detach().double().requires_grad_()
    (truth,) = torch.autograd.grad(T.conv2d(x.double(), double, None, *rest), double, gy.double())
    assert_matches(gw, truth, reduction=gy.numel() // filter[0])


# Widths around strips of seven, four and one result; channels around two vectors of each instruction set.
@pytest.mark.parametrize("size", [(2, 3, 1), (1, 7, 7), (2, 5, 12), (1, 9, 26)], ids=str)
@pytest.mark.parametrize("channels", [3, 33, 80, 200])
@pytest.mark.parametrize("taps", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_strips(kernels, isa, size, channels, taps, stride):
    n, h, w = size
    padding = (taps // 2, taps - 1)
    x = torch.randn(n, channels, h, w).contiguous(memory_format=LAST).requires_grad_()
    weight, bias = torch.randn(channels, 1, taps, taps, requires_grad=True), torch.randn(channels)
    rest = (stride, padding, 1, channels)
    y = F.conv2d(x, weight, bias, *rest)
    residual = torch.randn_like(y)
    with torch.no_grad():
        ended = {
            kind: F.conv2d(x, weight, bias, *rest, residual=residual, activation=kind) for kind in ("relu", "silu")
        }
        relu = F.conv2d(x, weight, bias, *rest, activation="relu")
    gy = torch.randn_like(y)
    gx, gw = torch.autograd.grad(y, (x, weight), gy)
    double = [t.detach().double().requires_grad_() for t in (x, weight)]
    with dlperf.backend("reference"):
        truth = F.conv2d(*double, bias.double(), *rest)
        true_gx, true_gw = torch.autograd.grad(truth, double, gy.double())
    assert_matches(y, truth, reduction=taps * taps)
    assert_matches(relu, truth.relu(), reduction=taps * taps)
    total = truth + residual.double()
    assert_matches(ended["relu"], total.relu(), reduction=taps * taps)
    assert_matches(ended["silu"], T.silu(total), reduction=taps * taps)
    assert_matches(gx, true_gx, reduction=taps * taps)
    assert_matches(gw, true_gw, reduction=n * h * w)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [5, 40])
def test_depthwise_strips_of_half_types(kernels, isa, dtype, channels):
    x = torch.randn(2, channels, 6, 13).to(dtype).contiguous(memory_format=LAST)
    weight = torch.randn(channels, 1, 5, 5).to(dtype)
    for kind in (None, "relu", "hardswish"):
        y = F.conv2d(x, weight, None, 1, 2, 1, channels, activation=kind)
        with dlperf.backend("reference"):
            truth = F.conv2d(x.double(), weight.double(), None, 1, 2, 1, channels, activation=kind)
        assert_matches(y, truth, reduction=25)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [2, "same"])
@pytest.mark.parametrize("kind, shape", [("Conv1d", (2, 4, 9)), ("Conv2d", (2, 4, 9, 8))])
def test_padding_modes(mode, padding, kind, shape):
    theirs = getattr(torch.nn, kind)(4, 6, 4, padding=padding, padding_mode=mode)
    ours = getattr(nn, kind)(4, 6, 4, padding=padding, padding_mode=mode)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(shape)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind, size", [("ConvTranspose1d", (20,)), ("ConvTranspose2d", (20, 18))])
def test_output_size(kind, size):
    theirs, ours = (getattr(module, kind)(4, 6, 3, stride=2, padding=1) for module in (torch.nn, nn))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 4, *(10, 9)[: len(size)])
    torch.testing.assert_close(ours(x, output_size=size), theirs(x, output_size=size), rtol=1e-4, atol=1e-5)


def test_layers_take_residual_and_activation():
    layer, x = nn.Conv2d(4, 6, 3, padding=1), torch.randn(2, 4, 5, 6)
    residual = torch.randn(2, 6, 5, 6)
    expected = torch.relu(torch.nn.Conv2d.forward(layer, x) + residual)
    torch.testing.assert_close(layer(x, residual=residual, activation="relu"), expected, rtol=1e-4, atol=1e-5)


def test_a_parametrized_weight_is_used():
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3))
    x = torch.randn(2, 4, 5, 6)
    before = layer(x)
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(2)
    bias = layer.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(layer(x) - bias, 2 * (before - bias), rtol=1e-4, atol=1e-5)


def test_negative_views_are_resolved():
    x = torch.randn(2, 4, 5, 6, dtype=torch.complex64).conj().imag
    w = torch.randn(3, 4, 3, 3)
    assert x.is_neg()
    torch.testing.assert_close(F.conv2d(x, w), T.conv2d(x.resolve_neg(), w), rtol=1e-4, atol=1e-5)


def test_autocast():
    layer, x = nn.Conv2d(4, 6, 3), torch.randn(2, 4, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        z = F.conv_transpose1d(x[:, :, 0], torch.randn(4, 3, 2), torch.randn(3))
    assert y.dtype is z.dtype is torch.bfloat16
    y.sum().backward()
    assert layer.weight.grad.dtype is torch.float32


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, LAST])
def test_compiles_whole_with_a_dynamic_batch(memory_format):
    def step(x, w, b, v):
        y = F.conv2d(x, w, b, stride=2, padding=1, activation="relu")
        return F.conv_transpose2d(y, v, stride=2).mean((2, 3))

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    parameters = [p.requires_grad_() for p in (torch.randn(6, 4, 3, 3), torch.randn(6), torch.randn(6, 3, 2, 2))]
    for batch in (2, 3, 5):
        x = torch.randn(batch, 4, 8, 6).contiguous(memory_format=memory_format).requires_grad_()
        y, expected = compiled(x, *parameters), step(x, *parameters)
        torch.testing.assert_close(y, expected)
        gy = torch.randn_like(y)
        got, wanted = (torch.autograd.grad(o, (x, *parameters), gy) for o in (y, expected))
        torch.testing.assert_close(got, wanted)


def test_compiles_with_inductor():
    layer = nn.Sequential(
        nn.Conv2d(4, 6, 3, padding="same"), nn.Conv2d(6, 5, 2, padding="same", padding_mode="reflect")
    )
    layer = layer.to(memory_format=LAST)
    x = torch.randn(2, 4, 6, 7).contiguous(memory_format=LAST).requires_grad_()
    compiled = torch.compile(layer, fullgraph=True)
    inputs = (x, *layer.parameters())
    y, expected = compiled(x), layer(x)
    assert y.stride() == expected.stride()
    torch.testing.assert_close(y, expected)
    got, wanted = (torch.autograd.grad(o.square().sum(), inputs) for o in (y, expected))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_function_transforms():
    x, w, b = torch.randn(3, 2, 4, 5, 6), torch.randn(6, 4, 3, 3), torch.randn(6)

    def loss(conv):
        return lambda w, x, b: torch.relu(conv(x, w, b, padding=1)).square().sum()

    for transform in (
        lambda f: torch.func.vmap(f, in_dims=(None, 0, None)),
        lambda f: torch.func.vmap(torch.func.grad(f), in_dims=(None, 0, None)),
        lambda f: torch.func.grad(lambda *a: torch.func.vmap(f, in_dims=(None, 0, None))(*a).sum()),
    ):
        got, wanted = (transform(loss(conv))(w, x, b) for conv in (F.conv2d, T.conv2d))
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


X, W = torch.ones(2, 4, 5, 6), torch.ones(6, 4, 3, 3)
V = torch.ones(4, 6, 3, 3)
# what -> (function, arguments, keyword arguments, part of the message)
BAD_INPUT = {
    "input rank": ("conv2d", (X[0, 0], W), {}, r"'input' to have 4 dimensions.*\(5, 6\)"),
    "input rank 5": ("conv2d", (X[None], W), {}, "'input' to have 4 dimensions"),
    "weight rank": ("conv2d", (X, W[0]), {}, r"'weight' to have 4 dimensions.*\(4, 3, 3\)"),
    "1d input rank": ("conv1d", (X, W[0]), {}, "'input' to have 3 dimensions"),
    "no tensor": ("conv2d", (3, W), {}, "'input' must be Tensor, not int"),
    "weight no tensor": ("conv2d", (X, None), {}, "'weight' must be Tensor, not NoneType"),
    "bias no tensor": ("conv2d", (X, W, 3), {}, "'bias' must be Tensor, not int"),
    "dtype": ("conv2d", (X, W.double()), {}, "'weight' to have the dtype of 'input'"),
    "bias dtype": ("conv2d", (X, W, torch.ones(6).double()), {}, "'bias' to have the dtype"),
    "channels": ("conv2d", (X, W[:, :3]), {}, "'input' to have 3 channels.* with 4"),
    "groups": ("conv2d", (X, W), {"groups": 2}, "'input' to have 8 channels"),
    "groups of output": ("conv2d", (X, torch.ones(5, 2, 3, 3)), {"groups": 2}, "groups=2 to divide"),
    "no groups": ("conv2d", (X, W), {"groups": 0}, "'groups' to be at least 1"),
    "groups type": ("conv2d", (X, W), {"groups": 1.0}, "'groups' must be int"),
    "bias shape": ("conv2d", (X, W, torch.ones(5)), {}, r"'bias' to have the shape \(6,\).*\(5,\)"),
    "bias rank": ("conv2d", (X, W, torch.ones(6, 1)), {}, "'bias' to have the shape"),
    "no stride": ("conv2d", (X, W), {"stride": 0}, "'stride' to be at least 1"),
    "negative padding": ("conv2d", (X, W), {"padding": (0, -1)}, "'padding' to be at least 0"),
    "no dilation": ("conv2d", (X, W), {"dilation": (1, 0)}, "'dilation' to be at least 1"),
    "stride length": ("conv2d", (X, W), {"stride": (1, 1, 1)}, "'stride' to be one integer or 2"),
    "empty stride": ("conv2d", (X, W), {"stride": ()}, "'stride' to be one integer or 2"),
    "stride type": ("conv2d", (X, W), {"stride": 1.5}, "'stride' must be int or tuple of ints"),
    "stride None": ("conv2d", (X, W), {"stride": None}, "'stride' must be int or tuple of ints"),
    "padding type": ("conv2d", (X, W), {"padding": (1.0, 1)}, "'padding' must be int or tuple of ints"),
    "padding name": ("conv2d", (X, W), {"padding": "full"}, "'padding' to be integers, 'valid' or 'same', got 'full'"),
    "same with stride": ("conv2d", (X, W), {"padding": "same", "stride": 2}, "stride 1 with padding='same'"),
    "large kernel": ("conv2d", (X, torch.ones(6, 4, 7, 3)), {}, "to fit into the padded 'input'"),
    "large dilation": ("conv2d", (X, W), {"dilation": 3}, "to fit into the padded 'input'"),
    "no rows": ("conv2d", (X[:, :, :0], W), {"padding": 2}, "to fit into the padded 'input'"),
    "no outputs": ("conv2d", (X, W[:0]), {}, "'weight' to have no empty dimension"),
    "transposed rank": ("conv_transpose2d", (X[0, 0], V), {}, "'input' to have 4 dimensions"),
    "transposed channels": ("conv_transpose2d", (X, V[:3]), {}, "'input' to have 3 channels"),
    "transposed groups": ("conv_transpose2d", (X, V), {"groups": 3}, "groups=3 to divide"),
    "transposed bias": ("conv_transpose2d", (X, V, torch.ones(5)), {}, "'bias' to have the shape"),
    "transposed padding name": ("conv_transpose2d", (X, V), {"padding": "same"}, "'padding' must be int"),
    "transposed padding": ("conv_transpose2d", (X, V), {"padding": 9}, "padding .9, 9. to leave a result"),
    "output padding": ("conv_transpose2d", (X, V), {"output_padding": 1}, "'output_padding' to be less than stride"),
    "negative output padding": (
        "conv_transpose2d",
        (X, V),
        {"output_padding": -1},
        "'output_padding' to be at least 0",
    ),
}


@pytest.mark.parametrize("name, args, kwargs, message", BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input(name, args, kwargs, message):
    with pytest.raises(Exception) as expected:
        getattr(T, name)(*args, **kwargs)
    # Twice: what was refused once is not remembered as good.
    for _ in range(2):
        with pytest.raises(expected.type, match=message):
            getattr(F, name)(*args, **kwargs)


def test_bad_input_that_torch_accepts_on_a_cpu():
    with pytest.raises(RuntimeError, match="'input' to have a floating dtype, got a int64 tensor"):
        F.conv2d(X.long(), W.long())
    with pytest.raises(RuntimeError, match="'input' to have a floating dtype"):
        F.conv_transpose2d(X.cfloat(), V.cfloat())
    with pytest.raises(RuntimeError, match="one device"):
        F.conv2d(X, W.to("meta"))


def test_bad_epilogues():
    with pytest.raises(ValueError, match="'activation' to be None or one of none, relu"):
        F.conv2d(X, W, activation="swish")
    with pytest.raises(RuntimeError, match=r"'residual' to have the output's shape \(2, 6, 3, 4\)"):
        F.conv2d(X, W, residual=X)
    with pytest.raises(TypeError, match="'residual' must be Tensor"):
        F.conv1d(X[:, :, 0], W[:, :, 0], residual=3)


@pytest.mark.slow
def test_more_than_2_to_the_31_elements(kernels):
    x = torch.zeros(1, 1, 2**16, 2**15 + 8, dtype=torch.bfloat16).contiguous(memory_format=LAST)
    x[..., -64:, -64:] = torch.randn(64, 64)
    w = torch.randn(2, 1, 3, 3, dtype=torch.bfloat16)
    y = F.conv2d(x, w, stride=8)
    corner = T.conv2d(x[..., -64:, -64:].float(), w.float(), stride=8)
    assert_matches(y[..., -8:, -8:], corner.double())
    (gw,) = torch.autograd.grad(F.conv2d(x, w.requires_grad_(), stride=8)[..., -8:, -8:].float().sum(), w)
    assert gw.isfinite().all() and gw.any()
