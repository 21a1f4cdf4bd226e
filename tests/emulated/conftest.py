"""The backend decides at import whether it is emulated: these tests run where DLPERF_CUDA_EMULATED is set, which
tests/test_cuda.py does, once for each path (DLPERF_CUDA_EMULATED_CAPABILITY)."""

import os

import pytest

import dlperf

if not os.environ.get("DLPERF_CUDA_EMULATED"):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True)
def _cuda():
    with dlperf.backend("cuda"):
        yield
