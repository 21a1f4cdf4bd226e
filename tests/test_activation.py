import pytest
import torch

from dlperf.nn import functional as F
from tests.family import check_case, parametrize


@parametrize("activation")
def test_case(case, dtype, isa):
    check_case(case, dtype, "cpu")


@parametrize("activation")
def test_reference(case, dtype):
    check_case(case, dtype, "reference")


def test_wrong_dtype_names_the_argument():
    with pytest.raises(RuntimeError, match="'input'"):
        F.silu(torch.ones(3, dtype=torch.int64))
