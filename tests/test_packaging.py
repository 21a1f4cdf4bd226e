"""What strangers install: with a compiler it is covered by the editable install; here, what happens without one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def without_compiler(tmp_path_factory):
    """A folder that dlperf was installed into on a machine with no compiler, and what the install printed."""
    if not (ROOT / "setup.py").exists():
        pytest.skip("needs a checkout")
    target = tmp_path_factory.mktemp("target")
    source = tmp_path_factory.mktemp("source") / "dlperf"  # a copy without anything that was built
    built = shutil.ignore_patterns(".git", ".venv", "build", "*.so", "*.egg-info", "*-out")
    shutil.copytree(ROOT, source, ignore=built)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-v",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        target,
        ".",
    ]
    environment = {**os.environ, "CXX": "no-such-compiler"}
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return target, done.stdout + done.stderr


def test_install_without_a_compiler_says_so_in_one_sentence(without_compiler):
    _, printed = without_compiler
    said = [line for line in printed.splitlines() if "No working C++17 compiler" in line]
    assert said and "Install g++" in said[0]


def test_without_kernels_the_reference_serves_and_info_says_why(without_compiler):
    target, _ = without_compiler
    code = (
        # the editable install of the checkout would lend its extension module
        "import sys; sys.meta_path = [f for f in sys.meta_path if '__editable__' not in repr(f)]\n"
        "import dlperf, torch, dlperf.kernels, dlperf.benchmarks\n"
        "from dlperf import backends\n"
        "assert 'target' in dlperf.__file__, dlperf.__file__\n"
        "with backends.trace() as calls: dlperf.nn.functional.silu(torch.ones(3))\n"
        "assert calls == [('activation', 'reference')], calls\n"
        "assert 'compiler' in backends.load('cpu').available()\n"
        "import sys; from dlperf.cli import main; sys.exit(main(['info']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run([sys.executable, "-c", code], cwd=target, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the CPU kernels are not built" in " ".join(done.stdout.split())
