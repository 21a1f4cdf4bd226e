import pytest
import torch

from dlperf import nn
from dlperf.backends import reference
from dlperf.nn import functional as F
from tests.family import check_case, parametrize


@parametrize("layer_norm")
def test_case(case, dtype, isa):
    check_case(case, dtype, "cpu")


@parametrize("layer_norm")
def test_reference(case, dtype):
    check_case(case, dtype, "reference")


def _double(*shape, grad=True):
    return torch.randn(shape, dtype=torch.float64, requires_grad=grad)


def test_reference_is_torchs():
    x, w, b = _double(3, 4, 6), _double(4, 6), _double(4, 6)
    torch.testing.assert_close(F.layer_norm(x, (4, 6), w, b), torch.nn.functional.layer_norm(x, (4, 6), w, b))
    torch.testing.assert_close(F.rms_norm(x, (4, 6), w), torch.nn.functional.rms_norm(x, (4, 6), w))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_rms_norm_default_eps_is_torchs(dtype):
    x = torch.full((2, 8), 1e-4, dtype=dtype)
    torch.testing.assert_close(F.rms_norm(x, (8,)), torch.nn.functional.rms_norm(x, (8,)))


def test_gradients():
    x, w, b = _double(2, 3, 5), _double(5), _double(5)
    assert torch.autograd.gradcheck(lambda *a: F.layer_norm(a[0], (5,), *a[1:]), (x, w, b))
    assert torch.autograd.gradcheck(lambda *a: F.rms_norm(a[0], (5,), a[1]), (x, w))
    assert torch.autograd.gradgradcheck(lambda *a: F.layer_norm(a[0], (5,), *a[1:]), (x, w, b))
    assert torch.autograd.gradgradcheck(lambda *a: F.rms_norm(a[0], (5,), a[1]), (x, w))


def test_second_derivative_of_the_kernels(kernels):
    x = torch.randn(4, 9, requires_grad=True)
    (gx,) = torch.autograd.grad(F.layer_norm(x, (9,)).pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gx.square().sum(), x)
    y = x.detach().double().requires_grad_()
    (gy,) = torch.autograd.grad(torch.nn.functional.layer_norm(y, (9,)).pow(3).sum(), y, create_graph=True)
    (expected,) = torch.autograd.grad(gy.square().sum(), y)
    torch.testing.assert_close(second.double(), expected, rtol=1e-3, atol=1e-3)


def test_invariance_to_shift_and_scale(kernels):
    x = torch.randn(7, 100)
    y = F.layer_norm(x, (100,), eps=0.0)
    torch.testing.assert_close(F.layer_norm(3 * x + 5, (100,), eps=0.0), y, rtol=1e-4, atol=1e-5)


def test_constant_rows_give_the_bias(kernels):
    bias = torch.randn(33)
    y = F.layer_norm(torch.full((2, 33), 7.0), (33,), torch.ones(33), bias)
    assert torch.equal(y, bias.expand(2, 33))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_values_stay_in_their_row(isa, value):
    x = torch.randn(3, 40)
    x[1, 5] = value
    for ours, theirs in ((F.layer_norm, torch.nn.functional.layer_norm), (F.rms_norm, torch.nn.functional.rms_norm)):
        torch.testing.assert_close(ours(x, (40,)), theirs(x, (40,)), equal_nan=True)


def test_backward_is_repeatable(kernels):
    x, gy = torch.randn(513, 130, requires_grad=True), torch.randn(513, 130)
    w = torch.randn(130, requires_grad=True)
    runs = [torch.autograd.grad(F.layer_norm(x, (130,), w), (x, w), gy) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_expanded_gradient(kernels):
    x = torch.randn(6, 20, requires_grad=True)
    F.layer_norm(x, (20,), torch.arange(20.0)).sum().backward()
    y = x.detach().clone().requires_grad_()
    torch.nn.functional.layer_norm(y, (20,), torch.arange(20.0)).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-4)


def test_compiles_whole():
    layer = torch.nn.Sequential(nn.LayerNorm(12), nn.RMSNorm(12))
    x = torch.randn(5, 12, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


def test_bfloat16_input_under_autocast(kernels):
    layer, x = nn.LayerNorm(24), torch.randn(3, 24).bfloat16()
    with torch.autocast("cpu"):
        y = layer(x)
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x.float()), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: F.layer_norm(torch.ones(3, 8), (7,)), RuntimeError, "'input'.*(3, 8)"),
        (lambda: F.layer_norm(torch.ones(3, 8), ()), RuntimeError, "'normalized_shape'"),
        (lambda: F.layer_norm(torch.ones(3, 8), 8), TypeError, "'normalized_shape'"),
        (lambda: F.layer_norm(torch.ones(3, 8), (8,), torch.ones(7)), RuntimeError, "'weight'"),
        (lambda: F.layer_norm(torch.ones(3, 8), (8,), None, torch.ones(2, 4)), RuntimeError, "'bias'"),
        (lambda: F.layer_norm(torch.ones(3, 8), (8,), torch.ones(8).bfloat16()), RuntimeError, "'weight'.*dtype"),
        (lambda: F.layer_norm(torch.ones(3, 8).long(), (8,)), RuntimeError, "'input'"),
        (lambda: F.layer_norm([1.0], (1,)), TypeError, "'input'"),
        (lambda: F.layer_norm(torch.ones(8), (2, 8)), RuntimeError, "'input'"),
        (lambda: F.rms_norm(torch.ones(3, 8), (7,)), RuntimeError, "'input'"),
        (lambda: F.rms_norm(torch.ones(3, 8), (8,), torch.ones(7)), RuntimeError, "'weight'"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words.replace("(", r"\(").replace(")", r"\)")):
        call()


def test_reference_serves_float64_only_there():
    assert reference.why_not("layer_norm") is None
    y = F.layer_norm(torch.ones(2, 4, dtype=torch.float64), (4,))
    assert y.dtype is torch.float64
