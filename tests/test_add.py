import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlperf import backends
from dlperf.nn import functional as F
from tests.family import check_case, parametrize


@parametrize("add")
def test_case(case, dtype, isa):
    check_case(case, dtype, "cpu")


@parametrize("add")
def test_reference(case, dtype):
    check_case(case, dtype, "reference")


@pytest.mark.parametrize("activation", [None, "relu"])
def test_gradients_to_second_order(activation):
    a, b = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    call = lambda a, b: F.add(a, b, alpha=0.5, activation=activation)  # noqa: E731
    assert torch.autograd.gradcheck(call, (a, b))
    assert torch.autograd.gradgradcheck(call, (a, b))


def test_special_values_as_torchs(kernels, isa):
    values = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 1e-40, 3e38]
    a, b = (t.reshape(-1) for t in torch.meshgrid(torch.tensor(values), torch.tensor(values), indexing="ij"))
    torch.testing.assert_close(F.add(a, b), a + b, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(F.add(a, b, activation="relu"), torch.relu(a + b), rtol=0, atol=0, equal_nan=True)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=0, max_size=4), st.data())
def test_shapes_broadcast_as_torchs(shape, data):
    ones = [1 if data.draw(st.booleans()) else size for size in shape]
    a, b = torch.randn(shape), torch.randn(ones[data.draw(st.integers(0, len(ones))) :])
    torch.testing.assert_close(F.add(a, b), a + b, rtol=0, atol=0)
    torch.testing.assert_close(F.add(b, a), b + a, rtol=0, atol=0)


def test_dtypes_promote_and_integers_add():
    half, single, whole = torch.ones(3, dtype=torch.bfloat16), torch.ones(3), torch.ones(3, dtype=torch.int64)
    for a, b in ((half, single), (half, whole), (whole, whole), (single, torch.tensor(2.0, dtype=torch.float64))):
        assert F.add(a, b).dtype is (a + b).dtype
        assert torch.equal(F.add(a, b), a + b)


def test_the_kernel_serves(kernels):
    with backends.trace() as calls:
        F.add(torch.ones(3), torch.ones(3), activation="relu")
    assert calls == [("add", "cpu")]


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: F.add(torch.ones(2, 3), torch.ones(4)), RuntimeError, r"'input' \(2, 3\) and 'other' \(4,\)"),
        (lambda: F.add(torch.ones(3), 1.0), TypeError, "'other' must be Tensor"),
        (lambda: F.add(torch.ones(3), torch.ones(3), activation="gelu"), ValueError, "'activation'.*gelu"),
        (lambda: F.add(torch.ones(3), torch.ones(3, device="meta")), RuntimeError, "one device"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
