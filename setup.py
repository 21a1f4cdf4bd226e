"""Builds dlperf._C: the same kernel sources once per instruction set, chosen among at run time; and dlperf._cuda.

No torch header is used, so the build needs only setuptools, pybind11 and a C++17 compiler; dlperf._cuda also nvcc 12.8
or newer. It takes minutes, so it is built by default only where a GPU is; DLPERF_BUILD_CUDA=1 or 0 decides otherwise.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
CSRC = ROOT / "csrc"

# Each `csrc/cpu/*_kernel.cpp` is compiled once per row: those that use native bfloat16 dot products, or tiles of them,
# in the last two too, and those that are about tiles in the last alone.
ISA_FLAGS = {
    "scalar": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-mbmi2"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c", "-mbmi2"],
}
ISA_FLAGS["avx512_bf16"] = [*ISA_FLAGS["avx512"], "-mavx512bf16"]
ISA_FLAGS["avx512_amx"] = [*ISA_FLAGS["avx512_bf16"], "-mamx-tile", "-mamx-bf16"]
BF16_MARKER, AMX_MARKER = "DLPERF_HAS_AVX512_BF16_VARIANT", "DLPERF_AMX_ONLY"

BASE_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
# maybe-uninitialized: GCC finds it in its own AVX-512 header, whose undefined operands it takes for a mistake.
WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unknown-pragmas", "-Wno-maybe-uninitialized"]
EXTRA_FLAGS = os.environ.get("DLPERF_CXXFLAGS", "").split()
SANITIZED = [flag for flag in EXTRA_FLAGS if flag.startswith("-fsanitize")]


# Real code for each, and portable code that drivers compile for what comes after.
CUDA_TARGETS = ("arch=compute_80,code=sm_80", "arch=compute_90a,code=sm_90a", "arch=compute_80,code=compute_80")
NVCC_FLAGS = ["-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden", "-cudart=static"]
LEAST_NVCC = (12, 8)


def nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = [f"{home}/bin/nvcc"] if home else []
    found = (shutil.which(c) for c in (*candidates, "nvcc", "/usr/local/cuda/bin/nvcc"))
    return next((c for c in found if c), None)


def why_no_cuda() -> str | None:
    """Why dlperf._cuda is not built here, or None."""
    wish = os.environ.get("DLPERF_BUILD_CUDA", "auto")
    if wish not in ("0", "1", "auto", ""):
        raise SystemExit(f"dlperf: DLPERF_BUILD_CUDA: expected 0, 1 or auto, got {wish!r}")
    if wish == "0":
        return "DLPERF_BUILD_CUDA=0"
    if wish != "1" and not os.path.exists("/proc/driver/nvidia/version"):
        return "no NVIDIA GPU is here (DLPERF_BUILD_CUDA=1 builds them all the same)"
    compiler = nvcc()
    if compiler is None:
        problem = "nvcc was not found"
    else:
        printed = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
        version = tuple(map(int, re.search(r"release (\d+)\.(\d+)", printed).groups()))
        problem = None if version >= LEAST_NVCC else f"{compiler} is {version[0]}.{version[1]}"
    if problem and wish == "1":
        raise SystemExit(f"dlperf: DLPERF_BUILD_CUDA=1, but {problem}: install CUDA 12.8 or newer, or set CUDA_HOME")
    return problem


def cuda_source_hash() -> str:
    """Of everything that the CUDA kernels are made of: records of verified kernels name it."""
    digest = hashlib.sha256()
    for path in (*sorted((CSRC / "cuda").rglob("*.*")), CSRC / "cpu" / "philox.h"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def unsupported_reason() -> str | None:
    """Why the kernels can't be built here, or None."""
    if sys.platform != "linux":
        return f"dlperf's CPU kernels are built on Linux only; on {sys.platform} the reference backend serves."
    if platform.machine() not in ("x86_64", "AMD64"):
        return f"dlperf's CPU kernels need an x86-64 processor; on {platform.machine()} the reference backend serves."
    if not compiler_works():
        return (
            f"No working C++17 compiler was found as '{cxx()}': dlperf is installed without its CPU kernels and the "
            "reference backend serves. Install g++ 11 or newer (or set CXX) and install dlperf again."
        )
    return None


def cxx() -> str:
    return os.environ.get("CXX", "g++")


def compiler_works() -> bool:
    try:
        probe = subprocess.run(
            [*cxx().split(), "-std=c++17", "-fopenmp", "-x", "c++", "-", "-fsyntax-only"],
            input="#include <omp.h>\nint main() { return 0; }\n",
            capture_output=True,
            text=True,
        )
    except OSError:
        return False
    return probe.returncode == 0


def variants(source: str) -> dict[str, list[str]]:
    """The instruction sets that a kernel's file is compiled for, and their flags."""
    if AMX_MARKER in source:
        chosen = ["avx512_amx"]
    else:
        chosen = list(ISA_FLAGS) if BF16_MARKER in source else ["scalar", "avx2", "avx512"]
    return {isa: ISA_FLAGS[isa] for isa in chosen}


def jobs() -> int:
    return int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))


def up_to_date(target: Path) -> bool:
    """Whether the object is newer than everything that its dependency file lists."""
    try:
        listed = target.with_suffix(".d").read_text().replace("\\\n", " ").partition(":")[2].split()
        return target.stat().st_mtime > max(Path(p).stat().st_mtime for p in listed)
    except (OSError, ValueError):
        return False


class BuildKernels(build_ext):
    """Compiles in parallel, recompiles only what is older than its source or a header of it, then links."""

    def build_extension(self, ext):
        if ext.name == "dlperf._cuda":
            self.build_cuda(ext)
        else:
            self.build_cpu(ext)

    def build_cuda(self, ext):
        import pybind11

        build_dir = self.object_directory()
        includes = [f"-I{CSRC}", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
        targets = [part for target in CUDA_TARGETS for part in ("-gencode", target)]
        hash_flag = f'-DDLPERF_CUDA_SOURCE_HASH="{cuda_source_hash()}"'
        tasks = []
        for source in sorted((CSRC / "cuda").glob("*.cu")):
            command = [nvcc(), *NVCC_FLAGS, *targets, f"-I{CSRC}", "-MD"]
            tasks.append((source, build_dir / f"cuda.{source.stem}.o", command))
        for source in sorted((CSRC / "cuda" / "bindings").glob("*.cpp")):
            command = [*cxx().split(), *BASE_FLAGS, *WARNINGS, *includes, *EXTRA_FLAGS, hash_flag, "-MMD"]
            tasks.append((source, build_dir / f"cuda.bindings.{source.stem}.o", command))

        def compile_one(task):
            source, target, command = task
            stamp_file, command_line = target.with_suffix(".cmd"), " ".join(map(str, command))
            if stamp_file.exists() and stamp_file.read_text() == command_line and up_to_date(target):
                return
            self.execute([*command, "-MF", target.with_suffix(".d"), "-c", source, "-o", target])
            stamp_file.write_text(command_line)

        with ThreadPoolExecutor(jobs()) as pool:
            list(pool.map(compile_one, tasks))
        output = Path(self.get_ext_fullpath(ext.name))
        temporary = output.with_suffix(".tmp")
        self.execute([nvcc(), "-shared", "-cudart=static", *(target for _, target, _ in tasks), "-o", temporary])
        os.replace(temporary, output)

    def build_cpu(self, ext):
        import pybind11

        build_dir = self.object_directory()
        includes = [f"-I{CSRC}", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]

        tasks = []
        for source in sorted((CSRC / "cpu").glob("*.cpp")) + sorted((CSRC / "bindings").glob("*.cpp")):
            if source.name.endswith("_kernel.cpp"):
                for isa, flags in variants(source.read_text()).items():
                    level = list(ISA_FLAGS).index(isa)
                    defines = [f"-DDLPERF_ISA_NS={isa}", f"-DDLPERF_ISA_LEVEL={level}"]
                    tasks.append((source, build_dir / f"{source.stem}.{isa}.o", [*flags, *defines]))
            else:
                tasks.append((source, build_dir / f"{source.parent.name}.{source.stem}.o", []))

        stamp = " ".join([cxx(), *BASE_FLAGS, *EXTRA_FLAGS])

        def compile_one(task):
            source, target, flags = task
            stamp_file = target.with_suffix(".cmd")
            command_line = stamp + " " + " ".join(flags)
            if stamp_file.exists() and stamp_file.read_text() == command_line and up_to_date(target):
                return
            output_flags = ["-MMD", "-MF", target.with_suffix(".d"), "-c", source, "-o", target]
            self.run_compiler([*BASE_FLAGS, *WARNINGS, *flags, *includes, *EXTRA_FLAGS, *output_flags])
            stamp_file.write_text(command_line)

        with ThreadPoolExecutor(jobs()) as pool:
            list(pool.map(compile_one, tasks))

        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        objects = [str(target) for _, target, _ in tasks]
        temporary = output.with_suffix(".tmp")
        self.run_compiler(["-shared", "-fopenmp", *SANITIZED, *objects, "-o", temporary])
        os.replace(temporary, output)  # a process that has the old one mapped keeps it

    def object_directory(self) -> Path:
        """In the checkout, where pip's temporary folder would be gone before the next build could use it."""
        kind = "sanitize/" if SANITIZED else ""  # beside the plain objects, which stay up to date
        objects = ROOT / "build" / f"{kind}objects-{sys.implementation.cache_tag}"
        for directory in (objects, Path(self.build_temp).resolve()):
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError:
                continue
            if os.access(directory, os.W_OK):
                return directory
        raise SystemExit(f"dlperf: no folder to build in: {ROOT} and {self.build_temp} can't be written to")

    def run_compiler(self, arguments):
        self.execute([*cxx().split(), *arguments])

    def execute(self, arguments):
        command = list(map(str, arguments))
        done = subprocess.run(command, capture_output=True, text=True)
        if done.stderr:
            print(done.stderr, file=sys.stderr)
        if done.returncode != 0:
            raise SystemExit(f"dlperf: the compiler failed on {' '.join(command)}")


reason = unsupported_reason()
if reason:
    print(f"dlperf: {reason}", file=sys.stderr)
extensions = [] if reason else [Extension("dlperf._C", sources=[])]
if not reason:
    no_cuda = why_no_cuda()
    if no_cuda is None:
        extensions.append(Extension("dlperf._cuda", sources=[]))
    else:
        print(f"dlperf: installed without its CUDA kernels: {no_cuda}", file=sys.stderr)

setup(
    ext_modules=extensions,
    cmdclass={"build_ext": BuildKernels},
)
