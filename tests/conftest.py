import os
from pathlib import Path

import pytest
import torch

import dlperf
from dlperf.backends import cpu


def pytest_configure(config):
    """DLPERF_TESTED names the folder of the build that is to be tested: no other may stand in for it."""
    wanted, found = os.environ.get("DLPERF_TESTED"), Path(dlperf.__file__).resolve()
    if wanted and not found.is_relative_to(Path(wanted).resolve()):
        raise pytest.UsageError(f"DLPERF_TESTED={wanted}, but dlperf was imported from {found.parent}")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _poisoned_memory():
    """Fresh memory holds NaN: an element that a kernel forgets to write, or reads too early, shows."""
    before = torch.utils.deterministic.fill_uninitialized_memory, torch.are_deterministic_algorithms_enabled()
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.utils.deterministic.fill_uninitialized_memory = before[0]
    torch.use_deterministic_algorithms(before[1])


@pytest.fixture
def kernels():
    """The test is about the CPU kernels: it is pinned to them, and skipped where they are not built."""
    if cpu.available() is not None:
        pytest.skip(cpu.available())
    with dlperf.backend("cpu"):
        yield


def isas() -> list[str]:
    """The instruction sets that this machine can run, best last."""
    if cpu.available() is not None:
        return []
    names = list(cpu.C.ISAS)
    return names[: names.index(cpu.C.detected_isa()) + 1]


@pytest.fixture(params=isas() or [pytest.param("none", marks=pytest.mark.skip(reason="the CPU kernels are not built"))])
def isa(request):
    """Runs the test once per instruction set of this machine."""
    before = cpu.C.isa()
    cpu.C.set_isa_cap(request.param)
    yield request.param
    cpu.C.set_isa_cap(before)
