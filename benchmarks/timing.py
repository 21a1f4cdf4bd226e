"""Engines take turns, round by round, each in a process of its own that sleeps between its turns.

One process per engine, because thread pools of one process spin against each other; turns, because what
disturbs the machine then disturbs every engine alike. An engine that fails, hangs or dies becomes a
measurement with an error; it never ends the run.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# Idle OpenMP and TBB pools spin for some milliseconds before they sleep: the next engine starts after that.
SETTLE_SECONDS = 0.03


class EngineError(Exception):
    """Why an engine gave no answer, in one line."""


class Engine:
    """One child process. Every request has a time limit; a process that misses it is killed."""

    def __init__(self, name: str, env: dict[str, str] | None = None, threads: int | None = None):
        self.name = name
        run_worker = f"from {__package__}.worker import main; main()"
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 closed by close()
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path), **(env or {})}
        if threads is not None:
            variables["OMP_NUM_THREADS"] = variables["MKL_NUM_THREADS"] = str(threads)
        self.process = subprocess.Popen(
            # The parent's own path, without the working directory: a checkout there must not hide what is installed.
            [sys.executable, "-c", f"import sys; sys.path = [p for p in sys.path if p]; {run_worker}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=variables,
            start_new_session=True,
        )
        self.pending = b""

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, limit: float, **request) -> dict:
        """Sends one request and waits for its answer; raises EngineError."""
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise EngineError(self.cause_of_death()) from None
        answer = json.loads(self.read_line(time.monotonic() + limit, limit))
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer

    def read_line(self, deadline: float, limit: float) -> bytes:
        output = self.process.stdout.fileno()
        while b"\n" not in self.pending:
            ready, _, _ = select.select([output], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.close()
                raise EngineError(f"no answer within {limit:.0f} s: stopped")
            chunk = os.read(output, 1 << 16)
            if not chunk:
                raise EngineError(self.cause_of_death())
            self.pending += chunk
        line, self.pending = self.pending.split(b"\n", 1)
        return line

    def cause_of_death(self) -> str:
        code = self.process.wait()
        self.log.seek(0)
        lines = [line for line in self.log.read().splitlines() if line.strip()]
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        return f"the process {how}" + (f": {lines[-1].strip()[:200]}" if lines else "")

    def close(self):
        if self.alive:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own session: the compilers it started go too
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()


@dataclass(frozen=True)
class Entry:
    """One engine's part in a measurement. `unavailable` says why it can't take part, where it can't."""

    engine: str
    job: str
    args: dict
    env: dict[str, str] = field(default_factory=dict)
    unavailable: str | None = None


@dataclass
class Measurement:
    engine: str
    turns_ms: list[float] = field(default_factory=list)  # the median of each turn
    info: dict = field(default_factory=dict)  # what the job's set-up said: rel_err, tolerance
    peak_mem_mb: float | None = None
    error: str | None = None

    def percentile(self, q: float) -> float | None:
        return float(np.percentile(self.turns_ms, q)) if self.turns_ms else None


@dataclass(frozen=True)
class Plan:
    rounds: int = 15
    seconds: float = 0.5  # of one turn
    budget: float = float("inf")  # seconds after which no further round begins ...
    least: int = 1  # ... once this many are done
    most: int = 200  # steps in one turn
    warmup: int = 1  # pairs of steps before the first round
    setup_limit: float = 600.0
    turn_limit: float = 120.0


def measure(
    entries: list[Entry],
    plan: Plan,
    threads: int,
    workers: dict[str, Engine] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Measurement]:
    """Sets every engine up, then gives each its turns. `workers`, where given, outlive the call and are reused.

    Peak memory is that of a fresh process: with `workers` it is not given.
    """
    keep = workers is not None
    workers = {} if workers is None else workers
    results = {entry.engine: Measurement(entry.engine, error=entry.unavailable) for entry in entries}
    running = [entry for entry in entries if entry.unavailable is None]

    def attempt(entry: Entry, action: Callable[[Engine, Measurement], None]):
        result = results[entry.engine]
        if result.error is None:
            try:
                action(workers[entry.engine], result)
            except EngineError as error:
                result.error = str(error)

    def set_up(entry: Entry):
        def action(engine, result):
            result.info = engine.ask(plan.setup_limit, do="setup", job=entry.job, args=entry.args)["info"]
            for _ in range(plan.warmup):
                engine.ask(plan.turn_limit, do="run", seconds=0.0, most=1)
            if not keep:
                engine.ask(plan.turn_limit, do="memory", reset=True)

        attempt(entry, action)

    def take_turn(entry: Entry):
        def action(engine, result):
            answer = engine.ask(plan.turn_limit, do="run", seconds=plan.seconds, most=plan.most)
            result.turns_ms.append(float(np.median(answer["times_ms"])))

        attempt(entry, action)
        time.sleep(SETTLE_SECONDS)

    def read_memory(entry: Entry):
        def action(engine, result):
            result.peak_mem_mb = engine.ask(plan.turn_limit, do="memory", reset=False)["peak_mem_mb"]

        attempt(entry, action)

    try:
        for entry in running:  # all start together: they import while the first is set up
            if entry.engine not in workers or not workers[entry.engine].alive:
                workers[entry.engine] = Engine(entry.engine, entry.env, threads)
        for entry in running:
            progress(f"{entry.engine}: set-up")
            set_up(entry)
        begin = time.monotonic()
        for turn in range(plan.rounds):
            over = turn >= plan.least and time.monotonic() - begin > plan.budget
            for entry in running:
                progress(f"round {turn + 1} of {plan.rounds}")
                if not over:
                    take_turn(entry)
        if not keep:
            for entry in running:
                read_memory(entry)
    finally:
        if not keep:
            for worker in workers.values():
                worker.close()
    for result in results.values():
        if result.error is not None:
            result.turns_ms = []  # rounds before a failure are no measurement
    return list(results.values())


def ask_once(job: str, args: dict, threads: int, limit: float, env: dict[str, str] | None = None) -> dict:
    """Runs a job's set-up in a process of its own and gives its info; raises EngineError."""
    engine = Engine(job, env, threads)
    try:
        return engine.ask(limit, do="setup", job=job, args=args)["info"]
    finally:
        engine.close()


def package_job(module: str, function: str) -> str:
    """The name by which a worker finds a job of this package."""
    return f"{__package__}.{module}:{function}"


def scratch_directory() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="dlperf-bench-", dir=Path(tempfile.gettempdir()))
