"""What the benchmark ran on, in words and numbers."""

import datetime
import functools
import os
import platform
import re
from pathlib import Path

import torch


@functools.lru_cache(maxsize=1)
def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def cpu_vendor() -> str:
    return _cpuinfo().get("vendor_id", "unknown")


def has_amx() -> bool:
    return "amx_bf16" in _cpuinfo().get("flags", "").split()


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slug(text: str) -> str:
    """`NVIDIA H200` to `nvidia-h200`: a folder's name."""
    text = re.sub(r"\((R|TM|r|tm)\)", "", text)
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unknown"


def isa() -> str:
    try:
        from dlperf import _C
    except ImportError:
        return "none: dlperf._C is not built here"
    return _C.isa()


def memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def describe(device: str, threads: int) -> dict:
    """The machine as results.json records it; the ceilings are added by the run that measures them."""
    from dlperf._version import __version__

    build = torch.__config__.show()
    versions = {
        "mkl": re.search(r"oneAPI Math Kernel Library Version (\S+)", build),
        "onednn": re.search(r"MKL-DNN (\S+)", build),
    }
    machine = {
        "cpu": _cpuinfo().get("model name", platform.processor() or platform.machine()),
        "vendor": cpu_vendor(),
        "isa": isa(),
        "amx": has_amx(),
        "cores": cores(),
        "threads": threads,
        "memory_gb": memory_gb(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "mkl": versions["mkl"][1] if versions["mkl"] else None,
        "onednn": versions["onednn"][1] if versions["onednn"] else None,
        "dlperf": __version__,
        "device": "cpu",
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        machine |= {
            "device": "cuda",
            "gpu": properties.name,
            "gpu_memory_gb": round(properties.total_memory / 2**30, 1),
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return machine


def device_slug(machine: dict) -> str:
    """The folder in benchmarks/results/ that this machine's results belong to."""
    return slug(machine["gpu"] if machine.get("device") == "cuda" else machine["cpu"])
