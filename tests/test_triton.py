"""The Triton kernels without a GPU: the interpreter's tests in a process of their own, and what ships against what is
checked.

Ahead-of-time compilation itself is ``make aot``.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves

import dlperf
from dlperf.nn import functional as F

pytest.importorskip("triton", reason="triton is not installed")

from dlperf.backends import triton as backend
from dlperf.kernels import _attention_plan, _conv_plan, _launch, _products, _short_attention, aot, matmul, verified
from dlperf.testing import run
from dlperf.testing.cases import FAMILIES, Case, Maker

from . import pretended_card
from .pretended_card import on_card

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
        wanted = _conv_plan.CONFIGURATIONS[90 if capability >= 90 else 80, 2]
        assert {c[:3] for c in wanted} <= tiles
        tiles = _tiles(found, "attention.forward_kernel", "BLOCK_M", "BLOCK_N")
        for (direction, chip, _, _), wanted in _attention_plan.CONFIGURATIONS.items():
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


def test_another_triton_is_installed_aside_and_writes_no_table(monkeypatch, tmp_path):
    calls = []

    def run(command, env=None, check=False):
        calls.append((command, env))
        return subprocess.CompletedProcess(command, 0 if "pip" in command else 3)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(aot.subprocess, "run", run)
    assert aot.main(["--triton", "3.6.0", "--kernel", "add", "--out", "table.md"]) == 3
    (install, _), (compile, environment) = calls
    assert install[-3:] == ["--target", "build/triton-3.6.0", "triton==3.6.0"]
    assert compile[-2:] == ["--kernel", "add"]
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(tmp_path / "build" / "triton-3.6.0")


# A descriptor's row is 16 bytes at least: the launcher does not take these kernels for less.
_NEVER_ONE = {("matmul.persistent_kernel", "a_row"), ("matmul.persistent_kernel", "b_row")}


def test_every_integer_argument_may_be_one(shipped):
    """Triton makes a constant of an argument that is 1, which knows less than a tensor does."""
    first = {}
    for variant in shipped[90]:
        given = (variant.kernel, tuple(t == "none" for t in variant.types))
        first.setdefault(given, variant)
    failed = []
    for variant in first.values():
        names = _launch.KERNELS[variant.kernel].argument_names
        for i, kind in enumerate(variant.types):
            if kind in ("i32", "i64") and (variant.kernel, names[i]) not in _NEVER_ONE:
                ones = (*variant.ones[:i], True, *variant.ones[i + 1 :])
                try:
                    aot.lower(dataclasses.replace(variant, ones=ones), 90)
                except Exception as error:
                    failed.append(f"{variant.kernel} {names[i]}: {error}")
    assert not failed, "\n".join(failed)


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


def test_cpu_tensors_are_declined_with_the_reason():
    if _launch.INTERPRETED:
        pytest.skip("the interpreter takes CPU tensors")
    with dlperf.backend("triton"), pytest.raises(dlperf.BackendError, match="NVIDIA GPUs"):
        F.silu(torch.ones(3))


@pytest.mark.parametrize("switch, value", [("fp32_precision", "tf32"), ("allow_tf32", True)])
def test_float32_products_follow_torchs_switches(switch, value):
    """Of both generations: torch's older ones raise where the newer were used."""
    x = torch.ones(1)
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.fp32_precision, convolutions.conv.fp32_precision, convolutions.rnn.fp32_precision
    try:
        for owner in (products, convolutions.conv if switch == "fp32_precision" else convolutions):
            setattr(owner, switch, "ieee" if value == "tf32" else False)
        assert {_products.precision(x), _products.convolution_precision(x)} == {"tf32x3"}
        for owner in (products, convolutions.conv if switch == "fp32_precision" else convolutions):
            setattr(owner, switch, value)
        assert {_products.precision(x), _products.convolution_precision(x)} == {"tf32"}
    finally:
        products.fp32_precision, convolutions.conv.fp32_precision, convolutions.rnn.fp32_precision = before


def test_checks_compare_float32_with_float32(monkeypatch):
    """torch's default for cuDNN is TF32, which it takes for some shapes: no tolerance could tell right from wrong."""
    seen = set()

    def function(x):
        if x.dtype is torch.float32:
            seen.update((_products.precision(x), _products.convolution_precision(x)))
        return x.relu()

    monkeypatch.setattr(run, "_public", lambda name: function)
    assert run.run_case(Case("relu", "watched", lambda make: ((make(3),), {})), torch.float32, "reference").ok
    assert seen == {"tf32x3"}
    assert _products.convolution_precision(torch.ones(1)) == "tf32"


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


def test_a_family_is_hashed_with_the_families_that_it_imports():
    names = {path.name for path in verified.sources("conv")}
    assert {"conv.py", "matmul.py", "batch_norm.py", "_products.py"} <= names
    assert "pool.py" not in names


def test_the_shipped_variants_hold_the_short_attention_kernels(shipped):
    for capability in (80, 90):
        most = max(most for most, chips, *_ in _attention_plan.SHORT["forward"] if capability in chips)
        lengths = [n for n in (64, 257, 577) if n <= most]
        tiles = _tiles(shipped[capability], "_short_attention.forward_kernel", "N0", "N1", "N2")
        assert lengths and {_short_attention.tiles(n) for n in lengths} <= tiles


@pytest.mark.parametrize("keys", [1, 15, 16, 17, 49, 64, 65, 77, 197, 257, 577, 640])
def test_tiles_cover_the_keys_with_little_to_spare(keys):
    n0, n1, n2 = _short_attention.tiles(keys)
    assert n0 >= n1 >= n2 and keys <= n0 + n1 + n2 <= keys + max(16, keys // 4)


@pytest.fixture
def a_card(monkeypatch):
    pretended_card.pretend(monkeypatch)
    yield
    backend._why_not_device.cache_clear()


def _reason(op, *args):
    if _launch.INTERPRETED:
        pytest.skip("the interpreter takes CPU tensors")
    with dlperf.backend("triton"):
        return backend.why_not(op, *args)


def test_a_gpu_that_is_too_old_is_named(a_card, monkeypatch):
    assert _reason("activation", on_card(3), "silu", 0.0) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: (7, 5))
    backend._why_not_device.cache_clear()
    assert "7.5, and the kernels need 8.0" in _reason("activation", on_card(3), "silu", 0.0)


def test_a_dtype_that_no_kernel_has_is_named(a_card):
    assert "float64" in _reason("activation", on_card(3, dtype=torch.float64), "silu", 0.0)
    q = on_card(1, 1, 4, 8, dtype=torch.int8)
    assert "int8" in _reason("attention", q, q, q, None, None, False, 1.0, 0.0)


def test_tensors_on_two_devices_are_named(a_card):
    assert "different GPUs" in _reason("add", on_card(3), on_card(3, index=1), 1.0, "none")
    assert "a tensor is on cpu" in _reason("add", on_card(3), torch.empty(3), 1.0, "none")


def test_a_head_dimension_out_of_range_is_named(a_card):
    q = on_card(1, 1, 4, 257)
    assert "above 256" in _reason("attention", q, q, q, None, None, False, 1.0, 0.0)


def test_more_rows_than_int32_numbers_are_named(a_card):
    x, w = on_card(2**31, 1), on_card(4, 1)
    assert "int32" in _reason("linear", x, w, None, None, "none")
    assert "int32" in _reason("conv2d", on_card(2**15, 1, 2**8, 2**8), on_card(4, 1, 1, 1), None, None)


def test_packed_sequences_lengths_may_lie_on_the_cpu(a_card):
    x, h, w, sizes = on_card(5, 4), on_card(2, 3), on_card(3, 4), torch.tensor([3, 2])
    args = (x, h, None, w, on_card(3, 3), None, None, sizes, "rnn_tanh", False, False)
    assert _reason("recurrent", *args) is None


def test_cases_are_made_on_the_device_that_is_asked_for():
    for case in (case for cases in FAMILIES.values() for case in cases):
        made = case.make(Maker(case.dtypes[0], "meta"))
        elsewhere = [t for t in tree_leaves(made) if isinstance(t, torch.Tensor) and not t.is_meta]
        if "packed" in case.id:  # torch keeps its batch sizes on the CPU
            assert all(t.dtype is torch.int64 for t in elsewhere)
        else:
            assert not elsewhere, str(case)


def test_every_operator_belongs_to_a_family():
    assert all(hasattr(backend, op) for op in backend.FAMILY_OF)
