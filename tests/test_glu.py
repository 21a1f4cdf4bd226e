import pytest
import torch

from dlperf.nn import functional as F
from tests.family import check_case, parametrize

torch_F = torch.nn.functional


@parametrize("glu")
def test_case(case, dtype, isa):
    check_case(case, dtype, "cpu")


@parametrize("glu")
def test_reference(case, dtype):
    check_case(case, dtype, "reference")


def test_reference_is_torchs():
    x = torch.randn(3, 8, dtype=torch.float64)
    a, b = x.chunk(2, -1)
    torch.testing.assert_close(F.glu(x), torch_F.glu(x))
    torch.testing.assert_close(F.geglu(x), a * torch_F.gelu(b))
    torch.testing.assert_close(F.geglu(x, approximate="tanh"), a * torch_F.gelu(b, approximate="tanh"))
    torch.testing.assert_close(F.swiglu(x), a * torch_F.silu(b))
    torch.testing.assert_close(F.reglu(x), a * torch_F.relu(b))


def test_gradients():
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    for gated in (F.glu, F.geglu, F.swiglu):
        assert torch.autograd.gradcheck(gated, x)
        assert torch.autograd.gradgradcheck(gated, x)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: F.glu(torch.ones(3, 5)), RuntimeError, "even"),
        (lambda: F.glu(torch.tensor(1.0)), RuntimeError, "at least 1"),
        (lambda: F.glu(torch.ones(3, 4), 2), IndexError, "'dim'"),
        (lambda: F.swiglu(torch.ones(3, 4).long()), RuntimeError, "'input'"),
        (lambda: F.geglu(torch.ones(3, 4), approximate="erf"), RuntimeError, "'approximate'"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
