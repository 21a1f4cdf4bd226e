"""The CUDA C++ kernels without a GPU: run on the emulator, in a process of their own for each path; their index
arithmetic; what the backend says where it can't be used."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dlperf import backends
from dlperf.backends import cuda
from dlperf.backends.record import Verified
from dlperf.errors import BackendError

ROOT = Path(__file__).parent.parent

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++").split()[0]) is None, reason="the emulator is built by a C++ compiler"
)


@pytest.fixture(scope="module")
def emulated():
    from tests.cuda_emulator.build import build_extension

    return build_extension()


@needs_compiler
@pytest.mark.parametrize("capability", ["80", "90"])
def test_kernels_on_the_emulator(emulated, capability):
    environment = {**os.environ, "DLPERF_CUDA_EMULATED": str(emulated), "DLPERF_CUDA_EMULATED_CAPABILITY": capability}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "tests/emulated"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@needs_compiler
@pytest.mark.parametrize("program", ["index_test", "short_attention_index_test", "depthwise_index_test", "plan_test"])
def test_index_arithmetic_over_whole_grids(program, tmp_path):
    from tests.cuda_emulator.build import run_program

    assert run_program(program, tmp_path).split() == ["ok"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_it_says_so():
    reason = cuda.available()
    assert "GPU" in reason or "built without" in reason
    x = torch.randn(8, 8, dtype=torch.bfloat16)
    assert cuda.why_not("linear", x, x, None, None, "none")
    with pytest.raises(BackendError, match="'cuda' backend"), backends.backend("cuda"):
        backends.select("linear", (x, x, None, None, "none"))


def test_every_operator_has_a_rule_and_a_function():
    assert set(cuda.RULES) == set(cuda.FAMILY_OF)
    assert [op for op in cuda.FAMILY_OF if not callable(getattr(cuda, op, None))] == []


@pytest.mark.parametrize(
    "header, name, rule",
    [("norm.h", "kLongestRow", "LONGEST_ROW"), ("depthwise.h", "kDepthwiseTaps", "DEPTHWISE_TAPS")],
)
def test_rules_and_kernels_agree_on_limits(header, name, rule):
    from dlperf.backends.cuda import _rules

    assert f"{name} = {getattr(_rules, rule)};" in (ROOT / "csrc" / "cuda" / header).read_text()


def test_a_record_verifies_only_its_own_sources_and_compiler(tmp_path):
    hashes = {"conv": "a", "matmul": "b"}
    verified = Verified("cuda", ("nvcc", "13.0"), hashes.__getitem__, "verified-cuda")
    path = tmp_path / "card" / "verified-cuda.json"
    verified.write(path, "A Card", ["conv"])
    import json

    record = json.loads(path.read_text())
    assert verified.matches(record, "conv") and not verified.matches(record, "matmul")
    assert not verified.matches({**record, "nvcc": "12.8"}, "conv")
    hashes["conv"] = "changed"
    assert not verified.matches(record, "conv")
