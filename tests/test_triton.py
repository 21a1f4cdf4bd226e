"""The Triton kernels without a GPU: the interpreter's tests in a process of their own, and what ships against what is
checked.

Ahead-of-time compilation itself is ``make aot``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dlperf
from dlperf.nn import functional as F

pytest.importorskip("triton", reason="triton is not installed")

from dlperf.backends import triton as backend
from dlperf.kernels import _launch, aot, attention, conv, matmul, verified

ROOT = Path(__file__).parent.parent


def test_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/interpreted"]
    command += ["-W", "ignore::RuntimeWarning"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_every_row_of_the_gpu_benchmark_works_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "dlperf.benchmarks.gpu_kernels", "--tiny", "--device", "cpu"]
    done = subprocess.run([*command, "--dtype", "float32"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.fixture(scope="module")
def shipped():
    if _launch.INTERPRETED:
        pytest.skip("interpreted kernels choose the interpreter's tiles")
    return {c: aot.variants(c) for c in aot.CAPABILITIES}


def test_the_ahead_of_time_check_has_every_kernel(shipped):
    assert [k.name for k in aot.never_launched(shipped)] == []


def _tiles(found, kernel, *names):
    return {tuple(dict(v.constants)[n] for n in names) for v in found if v.kernel == kernel}


def test_the_ahead_of_time_check_has_every_configuration(shipped):
    for capability, found in shipped.items():
        tiles = _tiles(found, "matmul.matmul_kernel", "BLOCK_M", "BLOCK_N", "BLOCK_K")
        for itemsize in (2, 4):
            assert {c[:3] for c in (*matmul._candidates(capability, itemsize), matmul.FEW_ROWS[itemsize])} <= tiles
        tiles = _tiles(found, "conv.forward_kernel", "BLOCK_M", "BLOCK_N", "BLOCK_K")
        wanted = conv.CONFIGURATIONS[90 if capability >= 90 else 80, 2]
        assert {c[:3] for c in wanted} <= tiles
        tiles = _tiles(found, "attention.forward_kernel", "BLOCK_M", "BLOCK_N")
        for (direction, chip, _, _), wanted in attention.CONFIGURATIONS.items():
            if direction == "forward" and chip == 80 and capability == 80:
                assert {c[:2] for c in wanted} <= tiles
    tiles = _tiles(shipped[90], "matmul.persistent_kernel", "BLOCK_M", "BLOCK_N", "BLOCK_K", "WARP_SPECIALIZE")
    assert {(*c[:3], c[5]) for c in matmul.PERSISTENT} <= tiles


def test_a_variant_compiles_and_its_resources_are_read(shipped):
    variant = next(v for v in shipped[90] if v.kernel == "add.add_kernel")
    row = aot.examine((variant, 90))
    assert row.problems == () and 0 < row.registers < 256


def test_what_cannot_compile_is_a_problem(shipped):
    variant = next(v for v in shipped[90] if v.kernel == "activation.forward_kernel")
    wrong = aot.Variant(**{**variant.__dict__, "constants": (("KIND", "no such kind"), ("BLOCK", 2048))})
    assert aot.examine((wrong, 90)).problems


@pytest.mark.parametrize(
    "arg, other",
    [(1, 2), (16, 17), (32, 2**31), (3.0, None)],
)
def test_variants_are_told_apart(arg, other):
    assert _launch.specialization(arg) != _launch.specialization(other)


def test_a_misaligned_tensor_is_another_variant():
    x = torch.zeros(64)
    aligned, shifted = x, x[1:]
    assert _launch.specialization(aligned) == (torch.float32, aligned.data_ptr() % 16 == 0)
    assert _launch.specialization(aligned) != _launch.specialization(shifted)


def test_a_compiled_variant_is_launched_directly(monkeypatch):
    """The second call of a signature does not go through triton's binder; another signature does."""
    kernel = _launch.KERNELS["add.add_kernel"]
    launched = []

    class Compiled:
        def __getitem__(self, grid):
            return lambda *args: launched.append(("direct", grid, len(args)))

    class Jit:
        def __getitem__(self, grid):
            return lambda *args, **kwargs: launched.append(("binder", grid, len(args))) or Compiled()

    monkeypatch.setattr(kernel, "jit", Jit())
    monkeypatch.setattr(kernel, "_compiled", {})
    x = torch.zeros(64)
    constants = {"KIND": "none", "BLOCK": 2048}
    for n in (64, 64, 63):
        kernel._launch(0, (1,), (x, x, x, n, 1.0), constants, 4, 2)
    assert launched == [("binder", (1,), 5), ("direct", (1, 1, 1), 7), ("binder", (1,), 5)]


def test_cpu_tensors_are_declined_with_the_reason():
    if _launch.INTERPRETED:
        pytest.skip("the interpreter takes CPU tensors")
    with dlperf.backend("triton"), pytest.raises(dlperf.BackendError, match="NVIDIA GPUs"):
        F.silu(torch.ones(3))


def test_rules_say_what_is_out_of_range():
    from dlperf.kernels import RULES

    q = torch.empty(1, 1, 4, 300)
    assert "256" in RULES["attention"](q, q, q, None)
    x = torch.empty(1, device="meta").expand(3, 1, 2**16, 2**15)
    assert "int32" in RULES["conv2d"](x, torch.empty(1, 1, 1, 1, device="meta"))
    assert "float64" in RULES["dropout"](torch.empty(1, dtype=torch.float64))


def test_a_record_verifies_the_sources_that_passed_alone(tmp_path):
    path = tmp_path / "cards" / "verified.json"
    verified.write(path, "A Card", ["add"])
    verified.write(path, "A Card", ["matmul"])
    record = json.loads(path.read_text())
    assert verified.matches(record, "add") and verified.matches(record, "matmul")
    assert not verified.matches(record, "conv")
    assert not verified.matches({**record, "triton": "0.0"}, "add")
    assert not verified.matches({**record, "families": {"add": "other sources"}}, "add")


def test_every_operator_belongs_to_a_family():
    assert all(hasattr(backend, op) for op in backend.FAMILY_OF)
