import pytest
import torch

import dlperf
from dlperf import nn
from dlperf.nn import functional as F
from dlperf.testing.compare import assert_matches
from tests.family import check_case, parametrize

torch_F = torch.nn.functional
LAST = torch.channels_last


@parametrize("batch_norm")
def test_case(case, dtype, isa):
    check_case(case, dtype, "cpu")


@parametrize("batch_norm")
def test_reference(case, dtype):
    check_case(case, dtype, "reference")


def _double(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def _positive(*shape):
    return torch.rand(shape, dtype=torch.float64) + 0.5


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 5), (3, 4, 5, 2)])
def test_reference_is_torchs(training, shape):
    x, w, b = _double(*shape), _double(4), _double(4)
    gy = torch.randn(shape, dtype=torch.float64)
    results = []
    for norm in (F.batch_norm, torch_F.batch_norm):
        mean, var = torch.full((4,), 0.25, dtype=torch.float64), torch.full((4,), 2.0, dtype=torch.float64)
        y = norm(x, mean, var, w, b, training, 0.3, 1e-3)
        results.append((y, mean, var, *torch.autograd.grad(y, (x, w, b), gy)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_gradients(training, activation):
    mean, var = torch.zeros(3, dtype=torch.float64), _positive(3)

    def norm(x, w, b, r):
        given = (None, None) if training else (mean, var)
        return F.batch_norm(x, *given, w, b, training, residual=r, activation=activation)

    inputs = _double(3, 3, 2, 2), _double(3), _double(3), _double(3, 3, 2, 2)
    assert torch.autograd.gradcheck(norm, inputs)
    assert torch.autograd.gradgradcheck(norm, inputs)


# 16 MiB and more of channels_last are written past the caches; 530 channels are no whole vectors.
@pytest.mark.parametrize(
    "dtype, channels, activation, residual",
    [
        (torch.float32, 256, None, False),
        (torch.float32, 256, "relu", False),
        (torch.float32, 256, "relu", True),
        (torch.float32, 530, "relu", True),
        (torch.bfloat16, 528, "relu", True),
    ],
    ids=str,
)
def test_large_results(kernels, isa, dtype, channels, activation, residual):
    x, r, gy = (torch.randn(2, channels, 104, 80).to(dtype).contiguous(memory_format=LAST) for _ in range(3))
    assert x.numel() * x.itemsize >= 16 << 20
    w, b = torch.rand(channels) + 0.5, torch.randn(channels)

    def run(cast):
        leaves = [cast(t).requires_grad_() for t in (x, w, b, r)]
        residual_given = leaves[3] if residual else None
        y = F.batch_norm(leaves[0], None, None, *leaves[1:3], True, residual=residual_given, activation=activation)
        return y, torch.autograd.grad(y, leaves if residual else leaves[:3], cast(gy))

    y, grads = run(lambda t: t.clone())
    with dlperf.backend("reference"):
        truth, true_grads = run(lambda t: t.double())
    assert_matches(y, truth, reduction=16640)
    # A mask flips where rounding moves a value over zero.
    kept = ((y > 0) == (truth > 0)).flatten() if activation else torch.ones(y.numel(), dtype=torch.bool)
    assert kept.double().mean() > 0.99
    for index in (0, 3) if residual else (0,):
        assert_matches(grads[index].flatten()[kept], true_grads[index].flatten()[kept], reduction=16640)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("last", [False, True])
def test_some_gradients(isa, training, last):
    """Each output of the backward kernel may be left out."""
    mean, var = torch.randn(20), torch.rand(20) + 0.5
    x, r, gy = (torch.randn(3, 20, 5, 5) for _ in range(3))
    if last:
        x, r, gy = (t.contiguous(memory_format=LAST) for t in (x, r, gy))
    w, b = torch.randn(20), torch.randn(20)
    given = {"x": x, "w": w, "b": b, "r": r}

    def gradients(wanted):
        leaves = {k: t.clone().requires_grad_(k in wanted) for k, t in given.items()}
        stats = (None, None) if training else (mean, var)
        y = F.batch_norm(
            leaves["x"], *stats, leaves["w"], leaves["b"], training, residual=leaves["r"], activation="relu"
        )
        return dict(zip(wanted, torch.autograd.grad(y, [leaves[k] for k in wanted], gy), strict=True))

    everything = gradients(list(given))
    for wanted in ("x", "w", "b", "r", "xw", "wb", "xr"):
        for name, gradient in gradients(list(wanted)).items():
            torch.testing.assert_close(gradient, everything[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.1, 1.0, 0.0, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_running_statistics_follow_torchs(momentum, dtype):
    theirs = torch.nn.BatchNorm2d(5, momentum=momentum).to(dtype)
    ours = nn.BatchNorm2d(5, momentum=momentum).to(dtype)
    for _ in range(3):
        x = (torch.randn(4, 5, 6, 7) * 3 + 1).to(dtype)
        torch.testing.assert_close(ours(x), theirs(x), rtol=2e-2 if dtype is torch.bfloat16 else 1e-4, atol=1e-2)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    assert torch.equal(ours.num_batches_tracked, theirs.num_batches_tracked)
    x = torch.randn(4, 5, 6, 7).to(dtype)
    torch.testing.assert_close(
        ours.eval()(x), theirs.eval()(x), rtol=2e-2 if dtype is torch.bfloat16 else 1e-4, atol=1e-2
    )


def test_layers_without_statistics_or_parameters(kernels):
    x = torch.randn(4, 5, 6)
    for options in ({"affine": False}, {"track_running_stats": False}, {"bias": False}):
        theirs, ours = torch.nn.BatchNorm1d(5, **options), nn.BatchNorm1d(5, **options)
        for training in (True, False):
            torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x), rtol=1e-4, atol=1e-5)
        assert list(ours.state_dict()) == list(theirs.state_dict())


def test_layers_that_forget_their_statistics_keep_them():
    layer = nn.BatchNorm1d(5)
    layer.track_running_stats = False
    layer(torch.randn(4, 5))
    assert layer.num_batches_tracked == 0 and torch.equal(layer.running_mean, torch.zeros(5))


def test_empty_batches_leave_the_statistics(kernels):
    mean, var = torch.ones(3), torch.ones(3)
    assert F.batch_norm(torch.ones(0, 3, 4), mean, var, training=True).shape == (0, 3, 4)
    assert torch.equal(mean, torch.ones(3)) and torch.equal(var, torch.ones(3))


@pytest.mark.parametrize("training", [True, False])
def test_layer_fuses_residual_and_activation(kernels, training):
    layer = nn.BatchNorm2d(12).train(training)
    x, r = torch.randn(2, 12, 4, 4), torch.randn(2, 12, 4, 4)
    with dlperf.backends.trace() as calls:
        y = layer(x, residual=r, activation="relu")
    assert [op for op, _ in calls if "activation" in op] == []
    expected = torch_F.batch_norm(x, torch.zeros(12), torch.ones(12), training=training)
    torch.testing.assert_close(y, torch.relu(expected + r), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 8, 5, 7), (2, 1, 5, 7), (2, 8, 1, 1), (2, 8, 3, 4, 5)])
@pytest.mark.parametrize("training", [True, False])
def test_memory_format_is_torchs(kernels, shape, training):
    stats = torch.zeros(shape[1]), torch.ones(shape[1])
    x = torch.randn(shape, requires_grad=True)
    last = LAST if len(shape) == 4 else torch.channels_last_3d
    for given in (x, x.contiguous(memory_format=last), x.transpose(0, -1).contiguous().transpose(0, -1)):
        y, expected = (f(given, *stats, training=training) for f in (F.batch_norm, torch_F.batch_norm))
        assert y.stride() == expected.stride()
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
        (gx,) = torch.autograd.grad(y.square().sum(), given)
        assert gx.stride() == expected.stride()


@pytest.mark.parametrize("order", ["expanded", "other-format", "sliced"])
def test_gradients_arrive_in_any_layout(kernels, order):
    x = torch.randn(2, 8, 6, 6).contiguous(memory_format=LAST).requires_grad_()
    gy = {
        "expanded": torch.ones(()).expand(2, 8, 6, 6),
        "other-format": torch.randn(2, 8, 6, 6),
        "sliced": torch.randn(2, 8, 6, 12)[..., ::2],
    }[order]
    (gx,) = torch.autograd.grad(F.batch_norm(x, None, None, training=True), x, gy)
    (expected,) = torch.autograd.grad(torch_F.batch_norm(x, None, None, training=True), x, gy)
    torch.testing.assert_close(gx, expected, rtol=1e-4, atol=1e-5)


def test_strided_parameters(kernels):
    x, w = torch.randn(4, 6, 5), torch.randn(12)[::2]
    y = F.batch_norm(x, None, None, w, torch.randn(1).expand(6) * 0, training=True)
    torch.testing.assert_close(y, torch_F.batch_norm(x, None, None, w, training=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", [(2, 32, 40, 40), (1, 3, 200, 200), (2, 900, 4, 4), (3, 100, 33, 30)])
def test_any_number_of_threads(isa, threads, last, shape):
    x, gy = torch.randn(shape), torch.randn(shape)
    w, b = torch.randn(shape[1]), torch.randn(shape[1])
    if last:
        x, gy = (t.contiguous(memory_format=LAST) for t in (x, gy))
    given = [t.clone().requires_grad_() for t in (x, w, b)]
    truth = [t.double().requires_grad_() for t in (x, w, b)]

    def run(norm, inputs, gy):
        y = norm(inputs[0], None, None, *inputs[1:], training=True)
        return [y, *torch.autograd.grad(y, inputs, gy)]

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = (run(F.batch_norm, given, gy) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    for got, again, want in zip(first, second, run(torch_F.batch_norm, truth, gy.double()), strict=True):
        assert torch.equal(got, again)
        torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("first", [1e4, -3e3, 1.0])
def test_an_outlier_in_front_costs_no_digits(isa, last, first):
    x = torch.randn(4, 20, 40, 40)
    x[0, :, 0, 0] = first
    x = x.contiguous(memory_format=LAST) if last else x
    y = F.batch_norm(x, None, None, training=True).double()
    torch.testing.assert_close(y, torch_F.batch_norm(x.double(), None, None, training=True), rtol=1e-5, atol=1e-6)


def test_constant_channels_have_no_variance(isa):
    mean, var = torch.zeros(20), torch.zeros(20)
    x = torch.full((4, 20, 9, 9), 1.1)
    for given in (x, x.contiguous(memory_format=LAST)):
        y = F.batch_norm(given, mean, var, training=True, momentum=1.0)
        torch.testing.assert_close(var, torch.zeros(20), rtol=0, atol=1e-12)
        torch.testing.assert_close(y, torch.zeros_like(y), rtol=0, atol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_non_finite_values_stay_in_their_channel(isa, value, last, activation):
    x = torch.randn(2, 20, 30, 30)
    x[1, 3, 2, 2] = value
    if last:
        x = x.contiguous(memory_format=LAST)
    theirs, ours = (torch.zeros(20), torch.ones(20)), (torch.zeros(20), torch.ones(20))
    y = F.batch_norm(x, *ours, training=True, activation=activation)
    expected = torch_F.batch_norm(x, *theirs, training=True)
    expected = expected if activation is None else torch.relu(expected)
    torch.testing.assert_close(y, expected, equal_nan=True, rtol=1e-4, atol=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_compiles_whole(training):
    layer = nn.BatchNorm2d(8).train(training)
    twin = nn.BatchNorm2d(8).train(training)
    x, r = torch.randn(2, 8, 4, 4, requires_grad=True), torch.randn(2, 8, 4, 4)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y, expected = compiled(x, residual=r, activation="relu"), twin(x, residual=r, activation="relu")
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(layer.running_mean, twin.running_mean)
    torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), x)[0] for out in (y, expected)))


def test_autocast_mixes_dtypes(kernels):
    layer, twin = nn.BatchNorm2d(8), torch.nn.BatchNorm2d(8)
    x = torch.randn(2, 8, 4, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = layer(x), twin(x)
    assert y.dtype is expected.dtype is torch.bfloat16
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(layer.running_var, twin.running_var)


def test_parameters_of_another_shape(kernels):
    w = torch.randn(1, 3, requires_grad=True)
    y = F.batch_norm(torch.randn(4, 3), None, None, w, training=True)
    (gw,) = torch.autograd.grad(y.square().sum(), w)
    assert gw.shape == (1, 3)


ones = torch.ones


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda norm: norm(torch.randn(1, 3), None, None, training=True), "more than 1 value per channel"),
        (lambda norm: norm(torch.randn(2, 3), None, None), "running_mean"),
        (lambda norm: norm(torch.randn(2, 3), ones(3), None), "running_var"),
        (lambda norm: norm(torch.randn(2, 3), ones(3), None, training=True), "neither"),
        (lambda norm: norm(torch.randn(2, 3), None, None, ones(4), training=True), "weight"),
        (lambda norm: norm(torch.randn(2, 3), None, None, ones(3), ones(2), training=True), "bias"),
        (lambda norm: norm(torch.randn(2, 3), ones(4), ones(3), training=True), "running_mean"),
        (lambda norm: norm(torch.randn(2, 3), ones(3), ones(2)), "running_var"),
        (lambda norm: norm(torch.randn(3), None, None, training=True), "imension"),
        (lambda norm: norm(ones(2, 3, dtype=torch.int64), ones(3), ones(3)), "Long|int64"),
        (lambda norm: norm(torch.randn(2, 3), None, None, [1.0, 2, 3], training=True), "weight"),
        (lambda norm: norm(torch.randn(2, 3), None, None, ones(3).bfloat16(), training=True), "dtype"),
        (lambda norm: norm(torch.randn(2, 3), ones(3).double(), ones(3).double(), training=True), "dtype"),
        (lambda norm: norm(torch.randn(2, 3).bfloat16(), ones(3), ones(3), ones(3).bfloat16()), "type"),
        (lambda norm: norm(torch.randn(2, 3), None, None, training=True, eps=0.0), "eps"),
        (lambda norm: norm(torch.randn(2, 3), ones(3), ones(3), eps=-1.0), "eps"),
        (lambda norm: norm(torch.randn(2, 3), ones(3), ones(3), training=True, momentum=None), "momentum"),
        (lambda norm: norm(torch.randn(2, 3), ones(3), ones(3), training=None), "training"),
        (lambda norm: norm(torch.randn(2, 3), ones(3, device="meta"), ones(3, device="meta")), "meta"),
    ],
)
def test_bad_input_raises_what_torch_raises(call, words):
    with pytest.raises(Exception) as theirs:
        call(torch_F.batch_norm)
    with pytest.raises(type(theirs.value), match=words):
        call(F.batch_norm)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda x: F.batch_norm([1.0], None, None, training=True), TypeError, "'input'"),
        (lambda x: F.batch_norm(x, None, None, training=True, residual=x[:1]), RuntimeError, "'residual'"),
        (lambda x: F.batch_norm(x, None, None, training=True, residual=x.double()), RuntimeError, "'residual'"),
        (lambda x: F.batch_norm(x, None, None, training=True, residual=1.0), TypeError, "'residual'"),
        (lambda x: F.batch_norm(x, None, None, training=True, activation="softsign"), ValueError, "'activation'"),
        (lambda x: nn.BatchNorm2d(3)(x), ValueError, "4D"),
    ],
)
def test_bad_input_of_our_own(call, error, words):
    with pytest.raises(error, match=words):
        call(torch.randn(4, 3))


def _both_ways(monkeypatch):
    """Once with the statistics gathered by the convolution's operator, once with the two operators."""
    for gathers in (True, False):
        monkeypatch.setattr(dlperf.backends, "kernel_serves", lambda op, args, gathers=gathers: gathers)
        yield gathers


def test_behind_a_convolution_the_gradients_are_the_numeric_ones(monkeypatch):
    x, w, a, b = (
        torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((3, 2, 4, 4), (3, 2, 3, 3), (3,), (3,))
    )
    for _ in _both_ways(monkeypatch):
        with dlperf.backend("reference"):
            assert torch.autograd.gradcheck(
                lambda *t: F.conv2d_batch_norm(*t[:2], None, None, *t[2:], padding=1), (x, w, a, b)
            )


def test_behind_a_convolution_bad_input_is_named(monkeypatch):
    x, w = torch.randn(2, 4, 6, 6), torch.randn(5, 4, 3, 3)
    for _ in _both_ways(monkeypatch):
        with pytest.raises(RuntimeError, match="conv2d"):
            F.conv2d_batch_norm(x, torch.randn(5, 3, 3, 3), None, None)
        with pytest.raises(RuntimeError, match="'weight' to have 5 elements"):
            F.conv2d_batch_norm(x, w, None, None, torch.ones(4), torch.ones(4))
        with pytest.raises(ValueError, match="'eps' to be positive"):
            F.conv2d_batch_norm(x, w, None, None, eps=0.0)
        with pytest.raises(ValueError, match="more than 1 value"):
            F.conv2d_batch_norm(torch.randn(1, 4, 3, 3), w, None, None)
        with pytest.raises(TypeError, match="must be Tensor"):
            F.conv2d_batch_norm(x, None, None, None)
