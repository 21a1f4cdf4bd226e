import pytest
import torch

from dlperf import nn
from dlperf.nn import functional as F
from tests.family import check_case, parametrize


@parametrize("embedding")
def test_case(case, dtype, isa):
    check_case(case, dtype, "cpu")


@parametrize("embedding")
def test_reference(case, dtype):
    check_case(case, dtype, "reference")


@pytest.mark.parametrize("kwargs", [{}, {"padding_idx": 2}, {"scale_grad_by_freq": True}])
def test_is_torchs(kernels, kwargs):
    indices, ours = torch.randint(0, 6, (40,)), torch.randn(6, 9, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    gy = torch.randn(40, 9)
    y, expected = F.embedding(indices, ours, **kwargs), torch.nn.functional.embedding(indices, theirs, **kwargs)
    assert torch.equal(y, expected)
    y.backward(gy)
    expected.backward(gy)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_gradients():
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    indices = torch.tensor([0, 3, 3, 1])
    for kwargs in ({}, {"padding_idx": 3}, {"scale_grad_by_freq": True}):
        assert torch.autograd.gradgradcheck(lambda w, kw=kwargs: F.embedding(indices, w, **kw), weight)
    assert torch.autograd.gradcheck(lambda w: F.embedding(indices, w), weight)


def test_int32_indices(kernels):
    weight = torch.randn(5, 3)
    assert torch.equal(F.embedding(torch.tensor([4, 0], dtype=torch.int32), weight), weight[[4, 0]])


def test_max_norm_and_sparse_are_torchs():
    layer = nn.Embedding(5, 3, max_norm=0.5)
    layer(torch.tensor([1]))
    assert layer.weight[1].norm() <= 0.5 + 1e-6
    sparse = nn.Embedding(5, 3, sparse=True)
    sparse(torch.tensor([1])).sum().backward()
    assert sparse.weight.grad.is_sparse


def test_backward_is_repeatable(kernels):
    indices, gy = torch.randint(0, 5, (5000,)), torch.randn(5000, 20)
    weight = torch.randn(5, 20, requires_grad=True)
    runs = [torch.autograd.grad(F.embedding(indices, weight), weight, gy)[0] for _ in range(2)]
    assert torch.equal(*runs)


W = torch.ones(5, 3)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: F.embedding(torch.tensor([0, 5]), W), IndexError, "5"),
        (lambda: F.embedding(torch.tensor([-1]), W), IndexError, "-1"),
        (lambda: F.embedding(torch.tensor([1.0]), W), RuntimeError, "'input'"),
        (lambda: F.embedding(torch.tensor([1], dtype=torch.int16), W), RuntimeError, "'input'"),
        (lambda: F.embedding(torch.tensor([1]), W[0]), RuntimeError, "'weight'"),
        (lambda: F.embedding(torch.tensor([1]), W.long()), RuntimeError, "'weight'"),
        (lambda: F.embedding(torch.tensor([1]), W, padding_idx=5), AssertionError, "'padding_idx'"),
        (lambda: F.embedding([1], W), TypeError, "'input'"),
    ],
)
def test_bad_input(kernels, call, error, words):
    with pytest.raises(error, match=words):
        call()
