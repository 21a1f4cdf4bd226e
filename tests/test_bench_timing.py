"""Engines in processes of their own: turns, and what becomes of engines that fail, crash or hang."""

import os
import re
import time
from pathlib import Path

import pytest

from dlperf.benchmarks import kernels
from dlperf.benchmarks.timing import Engine, EngineError, Entry, Plan, measure

PLAN = Plan(rounds=2, seconds=0.0, warmup=1, setup_limit=60, turn_limit=2)


class Job:
    def __init__(self, step=lambda: None, info=None):
        self.step, self.info = step, info or {"rel_err": 0.0, "tolerance": 1e-4, "passed": True}

    def double(self, x):
        return 2 * x


def good_job():
    return Job()


def noisy_job():
    print("a library that prints to stdout")
    os.system("echo and so does a child of it")
    return Job()


def failing_job():
    raise RuntimeError("no such kernel\nand a second line")


def crashing_job():
    return Job(lambda: os._exit(3))


def killed_job():
    return Job(lambda: os.kill(os.getpid(), 11))


def hanging_job():
    return Job(lambda: time.sleep(3600))


def failing_later_job():
    calls = []

    def step():
        calls.append(1)
        if len(calls) > 4:
            raise MemoryError("out of memory")

    return Job(step)


def wrong_job():
    return Job(info={"rel_err": 0.3, "tolerance": 1e-4, "passed": False})


def entry(name, engine=None):
    return Entry(engine or name, f"{__name__}:{name}_job", {})


def test_engines_take_turns_and_each_gets_every_round():
    steps = []
    measured = measure([entry("good", "a"), entry("good", "b")], PLAN, 1, progress=steps.append)
    assert [m.engine for m in measured] == ["a", "b"]
    for m in measured:
        assert m.error is None
        assert len(m.turns_ms) == PLAN.rounds
        assert m.percentile(20) <= m.percentile(50) <= m.percentile(80)
        assert m.peak_mem_mb > 0
    assert len(steps) == 2 + 2 * PLAN.rounds


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("failing", "RuntimeError: no such kernel$"),
        ("crashing", "exited with code 3"),
        ("killed", "killed by SIGSEGV"),
        ("hanging", "no answer within 2 s"),
        ("failing_later", "MemoryError: out of memory"),
    ],
)
def test_a_broken_engine_is_a_row_with_an_error_and_the_others_go_on(name, reason):
    broken, good = measure([entry(name), entry("good")], PLAN, 1)
    assert re.search(reason, broken.error)
    assert broken.turns_ms == []
    assert good.error is None
    assert len(good.turns_ms) == PLAN.rounds


def test_an_unavailable_engine_is_never_started():
    (measured,) = measure([Entry("x", "no.such.module:job", {}, unavailable="not installed")], PLAN, 1)
    assert (measured.error, measured.turns_ms) == ("not installed", [])


def test_what_libraries_print_does_not_disturb_the_protocol():
    (measured,) = measure([entry("noisy")], PLAN, 1)
    assert measured.error is None


def test_kept_workers_are_reused_and_replaced_when_dead():
    workers = {}
    try:
        measure([entry("good", "a")], PLAN, 1, workers)
        first = workers["a"].process.pid
        measure([entry("good", "a")], PLAN, 1, workers)
        assert workers["a"].process.pid == first
        (broken,) = measure([entry("crashing", "a")], PLAN, 1, workers)
        assert broken.error
        (good,) = measure([entry("good", "a")], PLAN, 1, workers)
        assert good.error is None
        assert workers["a"].process.pid != first
    finally:
        kernels.close(workers)


def test_methods_of_a_job_can_be_called_and_the_environment_is_passed_on():
    engine = Engine("x", env={"DLPERF_TEST_VARIABLE": "1"}, threads=1)
    try:
        engine.ask(60, do="setup", job=f"{__name__}:good_job", args={})
        assert engine.ask(60, do="call", method="double", args={"x": 21})["value"] == 42
        with pytest.raises(EngineError, match="AttributeError"):
            engine.ask(60, do="no_such_request")
        environment = Path(f"/proc/{engine.process.pid}/environ")
        if environment.exists():
            assert b"DLPERF_TEST_VARIABLE=1" in environment.read_bytes().split(b"\0")
            assert b"OMP_NUM_THREADS=1" in environment.read_bytes().split(b"\0")
    finally:
        engine.close()
    assert not engine.alive


@pytest.mark.parametrize(("budget", "least", "rounds"), [(0.0, 2, 2), (0.0, 9, 4), (1e9, 1, 4)])
def test_rounds_end_when_the_budget_is_spent_but_not_before_the_least(budget, least, rounds):
    shown = []
    plan = Plan(rounds=4, seconds=0.0, budget=budget, least=least, setup_limit=60, turn_limit=2)
    (result,) = measure([Entry("good", f"{__name__}:good_job", {})], plan, 1, progress=shown.append)
    assert len(result.turns_ms) == rounds
    assert len(shown) == 1 + plan.rounds  # progress comes to its end either way
