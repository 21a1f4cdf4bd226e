"""What every family's test file does with its cases."""

import pytest
import torch

from dlperf.testing.cases import FAMILIES
from dlperf.testing.run import run_case


def parametrize(family: str):
    """Parametrizes a test over the family's cases and their dtypes, as (case, dtype)."""
    pairs = [
        pytest.param(case, dtype, id=f"{case}-{str(dtype).removeprefix('torch.')}")
        for case in FAMILIES[family]
        for dtype in case.dtypes
    ]
    return pytest.mark.parametrize("case, dtype", pairs)


def check_case(case, dtype: torch.dtype, backend: str) -> None:
    """The backend serves the case, within the tolerance rule."""
    outcome = run_case(case, dtype, backend)
    assert outcome.declined is None, outcome.declined
    assert outcome.comparisons, f"{case}: nothing was compared"
    assert outcome.ok, f"{case} {dtype}: " + "; ".join(f"{k}: {v}" for k, v in outcome.failures().items())
