"""``dlperf._cuda`` as nvcc builds it: it loads where no GPU is, has what the backend calls, and says why nothing runs.
Skipped where it is not built."""

import re
from pathlib import Path

import pytest
import torch

from dlperf.backends import cuda

_cuda = pytest.importorskip(
    "dlperf._cuda", reason="dlperf._cuda is not built: DLPERF_BUILD_CUDA=1 builds it where nvcc 12.8 or newer is"
)
BACKEND = Path(cuda.__file__).parent

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


def test_it_was_built_by_a_new_enough_compiler_from_named_sources():
    assert tuple(map(int, _cuda.TOOLKIT.split("."))) >= (12, 8)
    assert re.fullmatch(r"[0-9a-f]{64}", _cuda.SOURCE_HASH)


def test_it_has_everything_that_the_backend_calls():
    names = {name for path in BACKEND.glob("*.py") for name in re.findall(r"\bC\.(\w+)", path.read_text())}
    names |= {f"{kind}_{way}" for kind in ("conv", "depthwise") for way in ("forward", "input", "weight")}
    assert len(names) > 30
    assert [name for name in sorted(names) if not hasattr(_cuda, name)] == []


@without_gpu
def test_without_a_gpu_it_says_why_in_one_line():
    reason = _cuda.device_error()
    assert re.match(r"no NVIDIA (GPU|driver)", reason) and "\n" not in reason


@without_gpu
@pytest.mark.parametrize("capability", [80, 90])
def test_a_launch_without_a_gpu_is_an_error_that_names_the_kernel(capability):
    device, memory = _cuda.Device(capability, 132, 0), torch.zeros(64)
    with pytest.raises(_cuda.LaunchError, match="activation on 64"):
        _cuda.activation(device, memory.data_ptr(), memory.data_ptr(), 64, 1, 0)
    a = memory.data_ptr() + -memory.data_ptr() % 16
    numbers = (8, 8, 8, 1, True, True, 8, 8, 64, 64, 8, 64)
    with pytest.raises(_cuda.LaunchError, match=r"gemm on 1 x 8 x 8 x 8|cuTensorMapEncodeTiled"):
        _cuda.gemm(device, *numbers, a, a, 0, 0, a, 0, 0, 1.0, 0.0, 0, 1)
