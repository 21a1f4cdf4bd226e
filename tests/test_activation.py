import math

import pytest
import torch
import torch.nn.functional as TF

import dlperf
from dlperf.backends import cpu
from dlperf.nn import functional as F
from dlperf.ops.activation import KINDS
from dlperf.testing.cases.activation import FUNCTIONS
from tests.family import check_case, parametrize

SPECIAL = [
    math.nan,
    math.inf,
    -math.inf,
    0.0,
    -0.0,
    1e-40,
    -1e-40,
    88.0,
    -88.0,
    200.0,
    -200.0,
    3e38,
    -3e38,
    3.0,
    -3.0,
    6.0,
]
INPLACE = ["relu", "relu6", "leaky_relu", "elu", "silu", "hardsigmoid", "hardswish", "mish"]


@parametrize("activation")
def test_case(case, dtype, isa):
    check_case(case, dtype, "cpu")


@parametrize("activation")
def test_reference(case, dtype):
    check_case(case, dtype, "reference")


def test_kinds_are_numbered_as_the_kernels_number_them(kernels):
    assert list(KINDS) == list(cpu.C.ACTIVATIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_reference_is_torchs_function(name):
    x = torch.randn(50, dtype=torch.float64, requires_grad=True)
    kwargs = FUNCTIONS[name]
    ours, theirs = getattr(F, name)(x, **kwargs), getattr(TF, name)(x, **kwargs)
    assert torch.equal(ours, theirs)
    gx = [torch.autograd.grad(y.sum(), x)[0] for y in (ours, theirs)]
    # torch's float64 hardsigmoid multiplies by a float32 1/6 in its gradient
    torch.testing.assert_close(*gx, rtol=1e-7 if name == "hardsigmoid" else 1e-12, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_to_second_order(name):
    x = torch.randn(6, dtype=torch.float64).mul_(2).requires_grad_()
    f = getattr(F, name)
    assert torch.autograd.gradcheck(f, x)
    assert torch.autograd.gradgradcheck(f, x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values_as_torchs_in_float64(name, kernels, isa):
    """float64, because torch's float32 overflows inside hardswish(3e38) and has gelu(inf) = NaN on some processors."""
    x = torch.tensor(SPECIAL * 3, requires_grad=True)
    x64 = x.detach().double().requires_grad_()
    y, expected = getattr(F, name)(x), getattr(TF, name)(x64)
    torch.testing.assert_close(y, expected.float(), equal_nan=True, rtol=1e-5, atol=1e-6)
    finite = torch.isfinite(x.detach())
    gx, expected = torch.autograd.grad(y.sum(), x)[0], torch.autograd.grad(expected.sum(), x64)[0]
    torch.testing.assert_close(gx[finite], expected[finite].float(), equal_nan=True, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", INPLACE)
@pytest.mark.parametrize("grad", [False, True])
def test_in_place(name, grad):
    base = torch.randn(4, 9, requires_grad=grad)
    x = base * 1.0
    y = getattr(F, name)(x, inplace=True)
    assert y.data_ptr() == x.data_ptr()
    expected = getattr(TF, name)(base)
    torch.testing.assert_close(x, expected)
    if grad:
        gx = [torch.autograd.grad(v.square().sum(), base)[0] for v in (y, expected)]
        torch.testing.assert_close(*gx, rtol=1e-5, atol=1e-6)


def test_in_place_of_views():
    base = torch.randn(6, 8)
    expected = base.clone()
    expected[:, ::2] = expected[:, ::2].relu()
    F.relu(base[:, ::2], inplace=True)
    assert torch.equal(base, expected)


def test_in_place_of_a_leaf_is_refused_as_torch_does():
    with pytest.raises(RuntimeError, match="leaf"):
        F.relu(torch.randn(3, requires_grad=True), inplace=True)


def test_a_value_needed_elsewhere_is_not_overwritten_silently():
    x = torch.randn(5, requires_grad=True)
    h = x * 2
    y = h.square()
    F.relu(h, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
def test_compiles_whole_with_gradients(name):
    f = getattr(F, name)
    x = torch.randn(3, 7, requires_grad=True)
    compiled = torch.compile(lambda x: f(x) * 2, fullgraph=True, dynamic=True)
    for n in (7, 9):
        x = torch.randn(3, n, requires_grad=True)
        torch.testing.assert_close(compiled(x), f(x) * 2)
        gx = [torch.autograd.grad(v.sum(), x)[0] for v in (compiled(x), f(x) * 2)]
        torch.testing.assert_close(*gx)


def test_in_place_compiles():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), dlperf.nn.ReLU(inplace=True))
    x = torch.randn(3, 4)
    torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), model(x))


def test_negative_bit_views():
    x = torch.randn(5, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    torch.testing.assert_close(F.silu(x), TF.silu(x))


def test_transforms():
    x = torch.randn(3, 4)
    torch.testing.assert_close(
        torch.func.vmap(torch.func.grad(lambda v: F.silu(v).sum()))(x),
        torch.func.vmap(torch.func.grad(lambda v: TF.silu(v).sum()))(x),
    )


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: F.silu(torch.ones(3, dtype=torch.int64)), RuntimeError, "'input'.*int64"),
        (lambda: F.relu([1.0]), TypeError, "'input' must be Tensor, not list"),
        (lambda: F.gelu(torch.ones(3), approximate="erf"), RuntimeError, "'approximate'"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
