"""The command line: what it prints, and exit codes."""

import os
import subprocess
import sys

import pytest

from dlperf.backends import cpu
from dlperf.cli import main
from dlperf.testing import check as check_module
from dlperf.testing.cases import FAMILIES

needs_kernels = pytest.mark.skipif(cpu.available() is not None, reason="the CPU kernels are not built")


def run(*arguments, **environment):
    command = [sys.executable, "-m", "dlperf.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_info_names_every_backend(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    for name in ("cpu", "triton", "cuda", "reference"):
        assert name in printed


def test_check_of_the_reference_passes(capsys):
    assert main(["check", "--backend", "reference", "--family", "activation"]) == 0
    assert "ok" in capsys.readouterr().out


@needs_kernels
def test_check_counts_served_cases(capsys):
    assert main(["check", "--family", "activation", "--isa", "scalar"]) == 0
    expected = sum(len(case.dtypes) for case in FAMILIES["activation"])
    assert str(expected) in capsys.readouterr().out


@needs_kernels
def test_check_fails_on_a_wrong_result(monkeypatch):
    right = cpu.activation
    monkeypatch.setattr(cpu, "activation", lambda x, kind, param: right(x, kind, param) * 1.5)
    (result,) = check_module.check("cpu", families=["activation"])
    assert result.failures and not result.ok


@needs_kernels
def test_check_fails_where_a_claimed_family_served_nothing(monkeypatch):
    monkeypatch.setattr(cpu, "same_floating_dtype", lambda args: "declined for the test")
    (result,) = check_module.check("cpu", families=["activation"])
    assert result.served == 0 and result.claimed and not result.ok


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), "required"),
        (("fly",), "invalid choice"),
        (("check", "--backend", "opencl"), "invalid choice"),
        (("check", "--family", "telepathy"), "expected one of"),
        (("check", "--backend", "cuda"), "not available"),
        (("check", "--device", "cuda", "--backend", "reference"), "sees no GPU"),
        (("check", "--isa", "mmx"), "this processor has"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(arguments, words):
    done = run(*arguments, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.parametrize("variable", ["DLPERF_BACKEND", "DLPERF_ISA", "DLPERF_FLOAT32_TILES"])
def test_bad_environment_is_one_line_and_exit_code_2(variable):
    done = run("info", **{variable: "quantum"})
    assert done.returncode == 2
    assert variable in done.stderr and len(done.stderr.strip().splitlines()) == 1
