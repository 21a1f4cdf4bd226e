"""How the Triton kernels are launched, without a GPU: directly or through triton's binder, compiled beforehand, and in
which configuration."""

import dataclasses
import re
import subprocess
import sys
from functools import partial

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

import triton

from dlperf.backends import triton as backend
from dlperf.benchmarks import gpu_kernels
from dlperf.kernels import _direct, _launch, _tune, aot, aot_cases, precompile, verified

from . import pretended_card

pytestmark = pytest.mark.skipif(_launch.INTERPRETED, reason="the interpreter launches nothing")


@pytest.fixture(scope="module")
def shipped():
    return {c: aot.variants(c) for c in aot.CAPABILITIES}


@pytest.fixture
def a_card(monkeypatch):
    pretended_card.pretend(monkeypatch)
    yield
    backend._why_not_device.cache_clear()


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


def test_a_kernels_place_in_the_cache_does_not_hang_on_what_was_compiled_before():
    """It did with triton 3.6."""
    code = """
import sys
from dlperf.backends import triton
from dlperf.kernels import _launch
names = sorted(_launch.KERNELS, reverse=sys.argv[1] == "backwards")
for name in names:
    _launch.settle_hash(_launch.KERNELS[name].jit)
print(sorted((name, _launch.KERNELS[name].jit.cache_key) for name in names))
"""
    orders = ("forwards", "backwards")
    printed = [subprocess.run([sys.executable, "-c", code, o], capture_output=True, text=True).stdout for o in orders]
    assert printed[0] == printed[1] and "matmul.matmul_kernel" in printed[0]


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


@pytest.fixture
def searches(a_card, tmp_path, monkeypatch):
    """A search's clock: a candidate takes 0.7 s, the later the faster it is; and what was tried."""
    clock, tried = [0.0], []

    def bench(run, **_):
        run()
        clock[0] += 0.7
        return 1.0 / (1 + len(tried))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(_tune, "SEARCHES", True)
    monkeypatch.setattr(_tune, "_stored", {})
    monkeypatch.setattr(_tune.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr("triton.testing.do_bench", bench)
    return clock, tried


CARD = torch.device("cuda", 0)


def test_a_search_ends_within_two_seconds_and_is_stored(searches, monkeypatch):
    clock, tried = searches
    candidates = [(n,) for n in range(9)]
    assert _tune.choose(CARD, ("a", "problem"), (4,), candidates, tried.append) == (0,)
    assert tried == [(4,), (4,), (0,)]  # to compile it; and two candidates
    assert clock[0] <= _tune.SECONDS
    monkeypatch.setattr(_tune, "_stored", {})  # another process
    assert _tune.choose(CARD, ("a", "problem"), (4,), candidates, tried.append) == (0,)
    assert len(tried) == 3


def test_the_searches_of_one_call_share_the_time(searches):
    clock, tried = searches
    for name in "two":
        _tune.choose(CARD, (name,), (4,), [(n,) for n in range(9)], tried.append, 3)
    assert clock[0] <= 0.7 * 3 + 1e-9


def test_a_candidate_that_does_not_fit_the_card_is_passed_over(searches, monkeypatch):
    _, tried = searches

    def bench(run, **_):
        run()
        if tried[-1] == (0,):
            raise triton.runtime.errors.OutOfResources(300_000, 232_448, "shared memory")
        return 1.0 / (1 + len(tried))

    monkeypatch.setattr("triton.testing.do_bench", bench)
    assert _tune.choose(CARD, ("a", "problem"), (4,), [(0,), (1,)], tried.append) == (1,)


def test_nothing_is_timed_unless_it_is_asked_for(searches, monkeypatch):
    monkeypatch.setattr(_tune, "SEARCHES", False)
    assert _tune.choose(CARD, ("another", "problem"), (4,), [(1,)], None) == (4,)


def test_what_was_measured_on_such_a_card_ships(searches, tmp_path, monkeypatch):
    monkeypatch.setattr(_tune, "SEARCHES", False)
    monkeypatch.setattr("dlperf.benchmarks.__file__", str(tmp_path / "__init__.py"))
    shipped = _tune.shipped_for(CARD)
    assert shipped == tmp_path / "results" / "nvidia-pretended" / "tuned.json"
    shipped.parent.mkdir(parents=True)
    shipped.write_text('{"a problem": [1], "another": [7]}')
    _tune.stored_in(CARD).parent.mkdir(parents=True)
    _tune.stored_in(CARD).write_text('{"a third": [2]}')
    found = [
        _tune.choose(CARD, problem, (4,), [(1,), (2,)], None)
        for problem in (("a", "problem"), ("another",), ("a", "third"))
    ]
    assert found == [(1,), (4,), (2,)]  # what no longer is a candidate is left


def test_tuned_configurations_are_kept_only_of_a_search(monkeypatch, capsys):
    monkeypatch.delenv("DLPERF_AUTOTUNE", raising=False)
    with pytest.raises(SystemExit):
        gpu_kernels.main(["--tuned", "tuned.json"])
    assert "DLPERF_AUTOTUNE=1" in capsys.readouterr().err


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0)])
def test_every_launcher_reaches_its_launch_on_a_card(a_card, shipped, capability, tmp_path, monkeypatch):
    """Grids of positive 31-bit sizes, all arguments and constants of each kernel, and no search."""
    pretended_card.pretend(monkeypatch, capability)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(_tune, "_stored", {})
    monkeypatch.setattr(_tune, "SEARCHES", False)
    monkeypatch.setattr(aot_cases, "_x", _on_card)
    with pretended_card.noting_launches(monkeypatch) as noted:
        aot_cases.call_every_launcher()
    assert {kernel.name for kernel, *_ in noted} == {v.kernel for v in shipped[capability[0] * 10]}
    for kernel, device, grid, args, constants, _, _ in noted:
        assert device == 0 and len(args) == len(kernel.argument_names)
        assert set(constants) == set(kernel.constant_names)
        assert 0 < grid[0] < 2**31 and all(0 < n < 2**16 for n in grid[1:]), (kernel.name, grid)


def _on_card(*size, dtype=torch.bfloat16, last=False):
    x = pretended_card.on_card(*size, dtype=dtype)
    return x.to(memory_format=torch.channels_last) if last else x


def test_few_keys_are_searched_among_both_plans(searches, monkeypatch):
    """The kernels that hold all scores, and the general ones."""
    from dlperf.kernels import attention

    monkeypatch.setattr(_tune, "SECONDS", 1e9)
    q = _on_card(64, 6, 197, 64)
    with pretended_card.noting_launches(monkeypatch) as noted:
        out, stats = attention.attention(q, q, q, None, None, False, 0.125, 0.0)
        forward = {kernel.name for kernel, *_ in noted}
        noted.clear()
        attention.attention_bwd(out, q, q, q, None, None, out, stats, False, 0.125, 0.0, False)
    assert forward == {"_short_attention.forward_kernel", "attention.forward_kernel"}
    general = {"attention.delta_kernel", "attention.keys_kernel", "attention.queries_kernel"}
    assert {kernel.name for kernel, *_ in noted} - {"_short_attention.backward_kernel"} == general


def test_a_split_reduction_is_searched_with_half_and_twice_the_parts(searches, monkeypatch):
    from dlperf.kernels import matmul

    monkeypatch.setattr(_tune, "SECONDS", 1e9)
    with pretended_card.noting_launches(monkeypatch) as noted:
        matmul.linear(_on_card(64, 4096), _on_card(256, 4096), None, None, "none")
    chosen = matmul.configure(90, 132, 2, 1, 64, 256, 4096)[5]
    splits = {constants["SPLIT_K"] for kernel, _, _, _, constants, _, _ in noted if "SPLIT_K" in constants}
    assert chosen > 1 and {chosen // 2, chosen, chosen * 2} == splits
