"""The Triton kernels without a GPU: the interpreter's tests in a process of their own, and what ships against what is
checked.

Ahead-of-time compilation itself is ``make aot``.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

import dlperf
from dlperf.nn import functional as F

triton = pytest.importorskip("triton", reason="triton is not installed")

from dlperf.backends import triton as backend  # noqa: E402
from dlperf.kernels import (  # noqa: E402
    _direct,
    _launch,
    _short_attention,
    _tune,
    aot,
    aot_cases,
    attention,
    conv,
    matmul,
    precompile,
    verified,
)

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


class _Jit:
    """Stands for a triton.jit function: notes its launches, and those of the compiled kernels that it returns."""

    def __init__(self, compiled=lambda grid, *args: None, binder=lambda *args: None):
        self.launched, self.compiled, self.binder = [], compiled, binder

    def __getitem__(self, grid):
        jit = self

        class Compiled:
            def __getitem__(self, grid):
                return lambda *args: jit.launched.append(("direct", grid, len(args))) or jit.compiled(grid, *args)

        def launch(*args, **_):
            jit.launched.append(("binder", grid, len(args)))
            jit.binder(*args)
            return Compiled()

        return launch


@pytest.fixture
def unchecked(monkeypatch):
    """A process that has launched nothing, as far as direct launches go."""
    monkeypatch.setattr(_direct, "_checked", False)
    monkeypatch.setattr(_direct, "_reason", None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    monkeypatch.setattr(_direct, "_try", partial(lambda attempt, device: attempt(torch.device("cpu")), _direct._try))
    return monkeypatch


def _probe(x, absent, y, one, n, scale, *rest):
    y[:n] = x[:n] * scale + one + 3


def _add_three_times(monkeypatch):
    kernel, jit = _launch.KERNELS["add.add_kernel"], _Jit()
    monkeypatch.setattr(kernel, "jit", jit)
    monkeypatch.setattr(kernel, "_compiled", {})
    x = torch.zeros(64)
    for n in (64, 64, 63):
        kernel._launch(0, (1,), (x, x, x, n, 1.0), {"KIND": "none", "BLOCK": 2048}, 4, 2)
    return jit.launched


def test_a_compiled_variant_is_launched_directly(unchecked):
    """The second call of a signature does not go through triton's binder; another signature does."""
    unchecked.setattr(_direct, "probe_kernel", _Jit(lambda grid, *args: _probe(*args), _probe))
    assert _add_three_times(unchecked) == [("binder", (1,), 5), ("direct", (1, 1, 1), 7), ("binder", (1,), 5)]
    assert _direct.why_not() is None


def _refuses(grid, *args):
    raise TypeError("launch() takes 1 argument")


@pytest.mark.parametrize(
    "compiled, reason",
    [
        (_refuses, "TypeError: launch.* takes 1 argument"),
        (lambda grid, x, absent, y, one, n, scale, *rest: _probe(x, absent, y, 2, n, scale), "wrong result"),
        (lambda grid, x, absent, y, one, n, scale, *rest: _probe(x, absent, y, one, 64, scale), "wrong result"),
        (lambda grid, *args: None, "wrong result"),
    ],
    ids=["refuses", "other values", "writes too much", "does nothing"],
)
def test_where_the_direct_launch_has_changed_the_binder_serves(unchecked, a_card, compiled, reason):
    unchecked.setattr(_direct, "probe_kernel", _Jit(compiled, _probe))
    assert _add_three_times(unchecked) == [("binder", (1,), 5)] * 3
    assert re.search(reason, _direct.why_not())
    unchecked.setattr(verified, "why_not", lambda family, device: None)
    if not _launch.INTERPRETED:
        assert re.search("^available; every launch goes through triton's binder.*" + reason, backend.state())


def test_a_launch_that_returns_no_kernel_goes_through_the_binder_again(unchecked):
    class Empty:
        def __getitem__(self, grid):
            return lambda *args, **_: None

    unchecked.setattr(_direct, "probe_kernel", Empty())
    assert _add_three_times(unchecked) == [("binder", (1,), 5)] * 3
    assert "NoneType" in _direct.why_not()


def test_the_direct_launch_is_not_tried_while_a_graph_is_captured(unchecked):
    unchecked.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    unchecked.setattr(_direct, "probe_kernel", None)
    assert _add_three_times(unchecked) == [("binder", (1,), 5)] * 3
    unchecked.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    unchecked.setattr(_direct, "probe_kernel", _Jit(lambda grid, *args: _probe(*args), _probe))
    assert _direct.works()


class _Driver(precompile.TargetDriver):
    """A GPU of compute capability 9.0, as far as triton asks: launches are noted, nothing runs."""

    def __init__(self, launched):
        super().__init__(90)
        self.utils = self
        self.launcher_cls = lambda source, metadata: lambda *args: launched.append(args)

    def get_device_properties(self, device):
        return {"max_shared_mem": aot.SHARED_LIMIT[90]}

    def load_binary(self, name, binary, shared, device):
        return "module", f"function {name}", 32, 0, 1024


@pytest.mark.parametrize("name", ["add.add_kernel", "dropout.dropout_kernel", "matmul.persistent_kernel"])
def test_the_direct_launch_hands_over_what_tritons_binder_does(shipped, name, monkeypatch):
    """The installed triton, compiling and launching for a driver that only notes what reaches it."""
    with _launch.recording(90) as launches:
        aot_cases.call_every_launcher()
    launch = next(one for one in launches if one.kernel.name == name)
    noted = []
    monkeypatch.setattr("triton.runtime.driver._active", _Driver(noted))
    monkeypatch.setattr(_direct, "works", lambda: True)
    monkeypatch.setattr(launch.kernel, "_compiled", {})
    monkeypatch.setattr(launch.kernel, "jit", triton.jit(launch.kernel.jit.fn))  # with no compiled kernels yet
    for _ in range(2):
        launch.kernel._launch(0, (5,), launch.args, launch.constants, launch.num_warps, launch.num_stages)
    bound, direct = noted
    (compiled,) = launch.kernel._compiled.values()
    compiled.module = None  # nothing was loaded, so nothing is to be unloaded
    assert bound[:3] == (5, 1, 1) and f"function {name.partition('.')[2]}" in bound
    for a, b in zip(bound, direct, strict=True):  # but for the description of the launch, which profilers read
        assert a is b or a == b or type(a).__name__ == type(b).__name__ == "LazyDict"
    # What is compiled beforehand is what this launch looks for in triton's cache.
    monkeypatch.setattr(launch.kernel, "jit", triton.jit(launch.kernel.jit.fn))
    assert precompile.compile_for(90, aot.variant_of(launch)).hash == compiled.hash


def test_arguments_to_compile_with_are_what_the_variants_were_made_of(shipped):
    for variant in shipped[80]:
        arguments = tuple(map(precompile.argument, variant.types, variant.ones, variant.multiples))
        launch = _launch.Launch(_launch.KERNELS[variant.kernel], arguments, dict(variant.constants), 4, 2)
        made = aot.variant_of(launch)
        assert (made.types, made.ones, made.multiples) == (variant.types, variant.ones, variant.multiples)


def test_what_fails_to_compile_beforehand_is_left_to_its_launch(shipped):
    variant = next(v for v in shipped[90] if v.kernel == "activation.forward_kernel")
    wrong = dataclasses.replace(variant, constants=(("KIND", "no such kind"), ("BLOCK", 2048)))
    driver = triton.runtime.driver._active
    try:
        assert precompile.compile_for(90, wrong) is None
    finally:
        triton.runtime.driver._active = driver


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


def test_a_family_is_hashed_with_the_families_that_it_imports():
    names = {path.name for path in verified.sources("conv")}
    assert {"conv.py", "matmul.py", "batch_norm.py", "_products.py"} <= names
    assert "pool.py" not in names


def test_the_shipped_variants_hold_the_short_attention_kernels(shipped):
    for capability, lengths in ((80, (64, 257)), (90, (64, 257, 577))):
        tiles = _tiles(shipped[capability], "_short_attention.forward_kernel", "N0", "N1", "N2")
        assert {_short_attention.tiles(n) for n in lengths} <= tiles


@pytest.mark.parametrize("keys", [1, 15, 16, 17, 49, 64, 65, 77, 197, 257, 577, 640])
def test_tiles_cover_the_keys_with_little_to_spare(keys):
    n0, n1, n2 = _short_attention.tiles(keys)
    assert n0 >= n1 >= n2 and keys <= n0 + n1 + n2 <= keys + max(16, keys // 4)


@pytest.fixture
def a_card(monkeypatch):
    """A GPU of compute capability 9.0 with 132 multiprocessors, as far as torch is asked."""
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: (9, 0))
    backend._why_not_device.cache_clear()
    yield torch.device("cuda", 0)
    backend._why_not_device.cache_clear()


class _OnCard(torch.Tensor):
    """A meta tensor that says that it lies on a GPU."""

    index = 0
    is_cuda = property(lambda self: True)
    device = property(lambda self: torch.device("cuda", self.index))

    def get_device(self):
        return self.index


def _on_card(*size, dtype=torch.float32, index=0):
    x = torch.empty(size, dtype=dtype, device="meta").as_subclass(_OnCard)
    x.index = index
    return x


def _reason(op, *args):
    if _launch.INTERPRETED:
        pytest.skip("the interpreter takes CPU tensors")
    with dlperf.backend("triton"):
        return backend.why_not(op, *args)


def test_a_gpu_that_is_too_old_is_named(a_card, monkeypatch):
    assert _reason("activation", _on_card(3), "silu", 0.0) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: (7, 5))
    backend._why_not_device.cache_clear()
    assert "7.5, and the kernels need 8.0" in _reason("activation", _on_card(3), "silu", 0.0)


def test_a_dtype_that_no_kernel_has_is_named(a_card):
    assert "float64" in _reason("activation", _on_card(3, dtype=torch.float64), "silu", 0.0)
    q = _on_card(1, 1, 4, 8, dtype=torch.int8)
    assert "int8" in _reason("attention", q, q, q, None, None, False, 1.0, 0.0)


def test_tensors_on_two_devices_are_named(a_card):
    assert "different GPUs" in _reason("add", _on_card(3), _on_card(3, index=1), 1.0, "none")
    assert "a tensor is on cpu" in _reason("add", _on_card(3), torch.empty(3), 1.0, "none")


def test_a_head_dimension_out_of_range_is_named(a_card):
    q = _on_card(1, 1, 4, 257)
    assert "above 256" in _reason("attention", q, q, q, None, None, False, 1.0, 0.0)


def test_more_rows_than_int32_numbers_are_named(a_card):
    x, w = _on_card(2**31, 1), _on_card(4, 1)
    assert "int32" in _reason("linear", x, w, None, None, "none")
    assert "int32" in _reason("conv2d", _on_card(2**15, 1, 2**8, 2**8), _on_card(4, 1, 1, 1), None, None)


def test_packed_sequences_lengths_may_lie_on_the_cpu(a_card):
    x, h, w, sizes = _on_card(5, 4), _on_card(2, 3), _on_card(3, 4), torch.tensor([3, 2])
    args = (x, h, None, w, _on_card(3, 3), None, None, sizes, "rnn_tanh", False, False)
    assert _reason("recurrent", *args) is None


def test_a_search_takes_two_seconds_at_most_and_is_stored(tmp_path, monkeypatch):
    clock, tried = [0.0], []

    def bench(run, **_):
        run()
        clock[0] += 0.9
        return 1.0 / len(tried)

    monkeypatch.setattr(_tune, "SEARCHES", True)
    monkeypatch.setattr(_tune, "INTERPRETED", False)
    monkeypatch.setattr(_tune, "_file", lambda device: tmp_path / "tuned.json")
    monkeypatch.setattr(_tune, "_stored", {})
    monkeypatch.setattr(_tune.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr("triton.testing.do_bench", bench)
    candidates = [(n,) for n in range(9)]
    card = torch.device("cuda", 0)
    assert _tune.choose(card, "a problem", (4,), candidates, tried.append) == (1,)
    assert tried == [(4,), (0,), (1,)]
    monkeypatch.setattr(_tune, "_stored", {})  # another process
    assert _tune.choose(card, "a problem", (4,), candidates, tried.append) == (1,)
    assert len(tried) == 3


def test_nothing_is_timed_unless_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(_tune, "SEARCHES", False)
    monkeypatch.setattr(_tune, "INTERPRETED", False)
    monkeypatch.setattr(_tune, "_file", lambda device: tmp_path / "tuned.json")
    monkeypatch.setattr("triton.testing.do_bench", None)
    assert _tune.choose(torch.device("cuda", 0), "another problem", (4,), [(1,)], None) == (4,)


def test_every_operator_belongs_to_a_family():
    assert all(hasattr(backend, op) for op in backend.FAMILY_OF)
