"""Every shared case on the Triton kernels, float32 and float16, against float64."""

import pytest
import torch

import dlperf
from dlperf.backends import triton as backend
from dlperf.kernels import _launch
from dlperf.testing.cases import FAMILIES
from dlperf.testing.run import run_case

# Triton's interpreter multiplies bfloat16 wrongly: there it is tested on a GPU alone.
DTYPES = (torch.float32, torch.float16)
CASES = [case for cases in FAMILIES.values() for case in cases]
PAIRS = [
    pytest.param(case, dtype, id=f"{case}-{str(dtype).removeprefix('torch.')}")
    for case in CASES
    for dtype in DTYPES
    if dtype in case.dtypes
]


@pytest.mark.parametrize("case, dtype", PAIRS)
def test_case(case, dtype):
    outcome = run_case(case, dtype, "triton")
    assert outcome.declined is None, outcome.declined
    assert outcome.comparisons, f"{case}: nothing was compared"
    assert outcome.ok, f"{case} {dtype}: " + "; ".join(f"{k}: {v}" for k, v in outcome.failures().items())


def test_every_operator_of_the_backend_was_served_by_some_case():
    served = set()
    for case in CASES:
        dtype = torch.float32 if torch.float32 in case.dtypes else torch.float16
        # the reference tells as much in less time, but has the statistics gathered by nobody
        teller = "triton" if case.function == "conv2d_batch_norm" else "reference"
        served.update(run_case(case, dtype, teller).served)
        if served.issuperset(backend.FAMILY_OF):
            break
    # relu(inplace=True) alone calls it: tested in test_kernels.py
    assert set(backend.FAMILY_OF) - served <= {"activation_"}


def test_bfloat16_is_declined_with_the_reason():
    with dlperf.backend("triton"), pytest.raises(dlperf.BackendError, match="bfloat16"):
        dlperf.nn.functional.silu(torch.ones(3, dtype=torch.bfloat16))


def test_the_interpreter_is_on():
    assert _launch.INTERPRETED
