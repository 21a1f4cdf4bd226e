"""A child process that holds one engine: JSON lines in on stdin, JSON lines out on what was stdout.

    {"do": "setup", "job": "package.module:function", "args": {...}}  ->  {"info": {...}}
    {"do": "run", "seconds": s, "most": n}                            ->  {"times_ms": [...]}
    {"do": "call", "method": name, "args": {...}}                     ->  {"value": ...}
    {"do": "memory", "reset": true | false}                           ->  {"peak_mem_mb": ...}

A job is called with `args` and gives an object with `info` (a dict, sent back) and `step()`. Whatever goes wrong is
answered as {"error": "one line"}. The process sleeps in read() between its turns, and ends when stdin closes.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import re
import signal
import sys
import time
import traceback
from pathlib import Path


def synchronize():
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def timed_steps(step, seconds: float, most: int) -> list[float]:
    """One step that warms caches after the other engines' turns, then timed ones until `seconds` have passed."""
    step()
    times = []
    begin = time.perf_counter()
    while not times or (time.perf_counter() - begin < seconds and len(times) < most):
        synchronize()
        start = time.perf_counter()
        step()
        synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def reset_peak_memory():
    """Hands freed memory back and sets the high-water mark of resident memory to what is in use now."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # a C library without malloc_trim keeps its free lists
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):  # where the kernel forbids it the mark counts from the process's start
        Path("/proc/self/clear_refs").write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb() -> float | None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
    except (OSError, TypeError):
        return None


class Worker:
    def __init__(self):
        self.job = None

    def setup(self, job: str, args: dict) -> dict:
        self.job = None
        gc.collect()
        module, function = job.split(":")
        self.job = getattr(importlib.import_module(module), function)(**args)
        return {"info": self.job.info}

    def run(self, seconds: float, most: int) -> dict:
        return {"times_ms": timed_steps(self.job.step, seconds, most)}

    def call(self, method: str, args: dict) -> dict:
        return {"value": getattr(self.job, method)(**args)}

    def memory(self, reset: bool) -> dict:
        if reset:
            reset_peak_memory()
        return {"peak_mem_mb": peak_memory_mb()}

    def answer(self, line: str) -> dict:
        request = json.loads(line)
        try:
            return getattr(self, request.pop("do"))(**request)
        except Exception as error:
            traceback.print_exc()
            text = str(error).strip().splitlines() or [""]
            return {"error": f"{type(error).__name__}: {text[0]}"[:300]}


def die_with_parent():
    """A parent that is killed can't stop its workers, and one in the middle of a long step would not see it."""
    if sys.platform == "linux":
        parent_death_signal = 1
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)


def main():
    die_with_parent()
    # Libraries print to stdout as they like; the protocol keeps the original pipe for itself.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        replies.write(json.dumps(worker.answer(line)) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
