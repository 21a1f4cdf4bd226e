"""Builds the CUDA C++ sources for the emulator, as an extension module that DLPERF_CUDA_EMULATED can name."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FLAGS = ("-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-w", "-DDLPERF_CUDA_MODULE=_cuda_emulated")


def compiler() -> list[str]:
    return os.environ.get("CXX", "g++").split()


def run(command: list) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def includes() -> list[str]:
    """The emulator's headers come before the ones that they stand for."""
    return [f"-I{HERE}", f"-I{ROOT / 'csrc'}"]


def is_fresh(target: Path) -> bool:
    try:
        listed = target.with_suffix(".d").read_text().replace("\\\n", " ").partition(":")[2].split()
        return target.stat().st_mtime > max(Path(p).stat().st_mtime for p in listed)
    except (OSError, ValueError):
        return False


def build_extension() -> Path:
    """The module, recompiled where a source is newer."""
    import pybind11

    folder = ROOT / "build" / "cuda-emulated"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    sources = [*(ROOT / "csrc" / "cuda").glob("*.cu"), *(ROOT / "csrc" / "cuda" / "bindings").glob("*.cpp")]

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.parent.name}.{source.stem}.o"
        if not is_fresh(target):
            outputs = ["-MMD", "-MF", target.with_suffix(".d"), "-c", source, "-o", target]
            run([*compiler(), *FLAGS, *includes(), *paths, "-x", "c++", *outputs])
        return target

    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
        objects = list(pool.map(compile_one, sorted(sources)))
    module = folder / "_cuda_emulated.so"
    if not module.exists() or any(o.stat().st_mtime > module.stat().st_mtime for o in objects):
        run([*compiler(), "-shared", *objects, "-o", module])
    return module


def run_program(name: str, folder: Path) -> str:
    """What a C++ file of this folder prints."""
    program = folder / name
    run([*compiler(), "-std=c++17", "-O1", "-w", *includes(), HERE / f"{name}.cpp", "-o", program])
    return run([program])
