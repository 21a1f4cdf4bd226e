import math

import pytest
import torch
import torch.nn.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st

from dlperf.nn import functional as F
from tests.family import check_case, parametrize


@parametrize("softmax")
def test_case(case, dtype, isa):
    check_case(case, dtype, "cpu")


@parametrize("softmax")
def test_reference(case, dtype):
    check_case(case, dtype, "reference")


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_gradients_to_second_order(name):
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    for dim in (0, 1):
        assert torch.autograd.gradcheck(lambda x, dim=dim: getattr(F, name)(x, dim), x)
        assert torch.autograd.gradgradcheck(lambda x, dim=dim: getattr(F, name)(x, dim), x)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_special_values_as_torchs(name, kernels, isa):
    rows = [
        [math.nan, 1.0, 2.0],
        [math.inf, 1.0, 2.0],
        [-math.inf, 1.0, 2.0],
        [-math.inf, -math.inf, -math.inf],
        [1e30, -1e30, 0.0],
    ]
    x = torch.tensor(rows).repeat(1, 7)
    torch.testing.assert_close(getattr(F, name)(x, 1), getattr(TF, name)(x, 1), equal_nan=True)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.data())
def test_rows_sum_to_one_and_a_shift_changes_nothing(shape, data):
    dim = data.draw(st.integers(0, len(shape) - 1))
    x = torch.randn(shape)
    y = F.softmax(x, dim)
    torch.testing.assert_close(y.sum(dim), torch.ones_like(y.sum(dim)))
    torch.testing.assert_close(F.softmax(x + 8.0, dim), y, rtol=1e-5, atol=1e-6)


def test_dtype_argument_converts_first():
    x = torch.randn(3, 4, dtype=torch.bfloat16)
    y = F.softmax(x, 1, dtype=torch.float32)
    assert y.dtype is torch.float32
    torch.testing.assert_close(y, TF.softmax(x, 1, dtype=torch.float32))


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: F.softmax(torch.ones(2, 3), 2), IndexError, r"'dim' in \[-2, 1\].*\(2, 3\).*got 2"),
        (lambda: F.softmax(torch.ones(3, dtype=torch.int32), 0), RuntimeError, "'input'.*int32"),
        (lambda: F.log_softmax("x", 0), TypeError, "'input'"),
        (lambda: F.softmax(torch.ones(3), 0.5), TypeError, "'dim'"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
