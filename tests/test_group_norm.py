import pytest
import torch

from dlperf import nn
from dlperf.nn import functional as F
from tests.family import check_case, parametrize

torch_F = torch.nn.functional


@parametrize("group_norm")
def test_case(case, dtype, isa):
    if "gelu" in case.id:  # made of two operators
        check_case(case, dtype, "reference")
    check_case(case, dtype, "cpu")


@parametrize("group_norm")
def test_reference(case, dtype):
    check_case(case, dtype, "reference")


def _double(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def test_reference_is_torchs():
    x, w, b = _double(3, 6, 5), _double(6), _double(6)
    torch.testing.assert_close(F.group_norm(x, 3, w, b), torch_F.group_norm(x, 3, w, b))
    torch.testing.assert_close(
        F.group_norm(x, 3, w, b, activation="silu"), torch_F.silu(torch_F.group_norm(x, 3, w, b))
    )
    torch.testing.assert_close(F.instance_norm(x, weight=w, bias=b), torch_F.instance_norm(x, weight=w, bias=b))


@pytest.mark.parametrize("activation", [None, "silu"])
def test_gradients(activation):
    def norm(x, w, b):
        return F.group_norm(x, 2, w, b, activation=activation)

    inputs = _double(2, 4, 3), _double(4), _double(4)
    assert torch.autograd.gradcheck(norm, inputs)
    assert torch.autograd.gradgradcheck(norm, inputs)


def test_memory_format_is_kept(kernels):
    x = torch.randn(2, 8, 5, 7, requires_grad=True)
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        y = F.group_norm(given, 4)
        assert y.stride() == given.stride()
        torch.testing.assert_close(y, torch_F.group_norm(x, 4), rtol=1e-4, atol=1e-5)
        (gx,) = torch.autograd.grad(y.square().sum(), given)
        assert gx.stride() == given.stride()


def test_volumes_keep_channels_last(kernels):
    x = torch.randn(2, 8, 3, 4, 5).contiguous(memory_format=torch.channels_last_3d)
    y = F.group_norm(x, 2)
    assert y.stride() == x.stride()
    torch.testing.assert_close(y, torch_F.group_norm(x, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("last", [False, True])
def test_any_number_of_threads(kernels, threads, last):
    x, gy = torch.randn(1, 32, 50, 50), torch.randn(1, 32, 50, 50)
    w, b = torch.randn(32), torch.randn(32)
    if last:
        x, gy = (t.contiguous(memory_format=torch.channels_last) for t in (x, gy))
    given = [t.clone().requires_grad_() for t in (x, w, b)]
    theirs = [t.double().requires_grad_() for t in (x, w, b)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = F.group_norm(given[0], 1, *given[1:], activation="silu")
        grads = torch.autograd.grad(y, given, gy)
        again = torch.autograd.grad(F.group_norm(given[0], 1, *given[1:], activation="silu"), given, gy)
    finally:
        torch.set_num_threads(before)
    expected = torch_F.silu(torch_F.group_norm(theirs[0], 1, *theirs[1:]))
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-5)
    for got, same, want in zip(grads, again, torch.autograd.grad(expected, theirs, gy.double()), strict=True):
        assert torch.equal(got, same)
        torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("last", [False, True])
def test_non_finite_values_stay_in_their_group(isa, value, last):
    x = torch.randn(2, 8, 5, 5)
    x[1, 3, 2, 2] = value
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(F.group_norm(x, 4), torch_F.group_norm(x, 4), equal_nan=True, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_instance_norm_running_statistics(training, momentum):
    theirs = torch.nn.InstanceNorm2d(5, momentum=momentum, affine=True, track_running_stats=True).train(training)
    ours = nn.InstanceNorm2d(5, momentum=momentum, affine=True, track_running_stats=True).train(training)
    for _ in range(3):
        x = torch.randn(4, 5, 6, 7) * 3 + 1
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-5, atol=1e-6)


def test_layer_fuses_its_activation(kernels):
    layer = nn.GroupNorm(2, 8, activation="silu")
    plain = nn.GroupNorm(2, 8)
    assert "activation='silu'" in repr(layer) and "activation" not in repr(plain)
    x = torch.randn(2, 8, 4, 4)
    torch.testing.assert_close(layer(x), torch_F.silu(plain(x)))


def test_compiles_whole():
    layer = nn.GroupNorm(2, 8, activation="silu")
    x = torch.randn(2, 8, 4, 4, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    compiled(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: F.group_norm(torch.ones(2, 8, 3), 3), RuntimeError, "num_groups=3"),
        (lambda: F.group_norm(torch.ones(2, 8, 3), 0), RuntimeError, "'num_groups'"),
        (lambda: F.group_norm(torch.ones(2, 8, 3), -2), RuntimeError, "'num_groups'"),
        (lambda: F.group_norm(torch.ones(8), 2), RuntimeError, "'input'"),
        (lambda: F.group_norm(torch.ones(2, 8, 3), 2, torch.ones(7)), RuntimeError, "'weight'"),
        (lambda: F.group_norm(torch.ones(2, 8, 3), 2, None, torch.ones(8).half()), RuntimeError, "'bias'"),
        (lambda: F.group_norm(torch.ones(2, 8, 3).int(), 2), RuntimeError, "'input'"),
        (lambda: F.group_norm(torch.ones(1, 8, 1), 8), ValueError, "more than 1 value"),
        (lambda: F.group_norm(torch.ones(2, 8, 3), 2, activation="swish"), ValueError, "'activation'"),
        (lambda: F.instance_norm(torch.ones(2, 3, 1, 1)), ValueError, "spatial element"),
        (lambda: F.instance_norm(torch.ones(2, 3, 4), use_input_stats=False), RuntimeError, "running_mean"),
        (lambda: F.instance_norm(torch.ones(2, 3, 4), weight=torch.ones(4)), RuntimeError, "'weight'"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
