"""``make cuda``: every CUDA C++ kernel compiled for sm_80, sm_90a and sm_100, and what the compiler says of it.

Runs in a checkout, with nvcc 12.8 or newer and no GPU. Registers, spills, stack and shared memory come from ptxas and
from the launches' constants, instructions from the disassembly. The table goes to docs/cuda.md. It fails where a kernel
spills or has a stack, where shared memory passes the chip's limit, where a product has no tensor-core instruction or no
asynchronous copy, where ptxas had to serialize products, or where a row of ``ROWS`` has no kernel. What was compiled
before from the same sources is kept in build/cuda.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "csrc" / "cuda"
EMULATOR = ROOT / "tests" / "cuda_emulator"
TARGETS = ("80", "90a", "100")
FLAGS = ("-std=c++17", "-O3", "-Xptxas", "-v", "-cubin")
HOPPER = ("wgmma_kernel", "hopper_kernel")  # kernels that only sm_90a has code for
# and those that it has none for
PORTABLE = ("attention_kernel", "attention_keys_kernel", "attention_queries_kernel", "attention_short_kernel")

# The rows that a release must have on every target, and the kernels that make each.
ROWS: dict[str, tuple[str, ...]] = {
    "gemm": ("MatrixPlace", "join_kernel"),
    "conv fprop": ("GatheredRows, WeightRows", "GatherSource<0>", "join_kernel"),
    "conv dgrad": ("GatheredRows, WeightColumns", "GatherSource<1>", "join_kernel"),
    "conv wgrad": ("GatheredColumns", "WeightSource", "join_kernel"),
    "conv with BN statistics": ("GatheredRows, WeightRows", "GatherSource<0>", "join_moments_kernel"),
    "depthwise": ("depthwise_kernel<",),
    "depthwise wgrad": ("depthwise_weight_kernel<", "depthwise_join_kernel<"),
    "attention forward": ("attention_kernel<", "attention_hopper_kernel<"),
    "attention, few keys": ("attention_short_kernel<", "attention_short_hopper_kernel<"),
    "attention backward": (
        "delta_kernel<",
        "attention_keys_kernel<",
        "attention_queries_kernel<",
        "attention_gradient_hopper_kernel<",
    ),
    "BN forward": ("moments_kernel<", "join_batch_moments_kernel", "normalize_kernel<"),
    "BN backward": ("sums_kernel<", "join_batch_sums_kernel<", "norm_gradient<"),
    "GN forward": ("moments_kernel<", "join_group_moments_kernel", "normalize_kernel<"),
    "GN backward": ("sums_kernel<", "join_group_sums_kernel<", "norm_gradient<"),
    "LN forward": ("row_norm_kernel<",),
    "LN backward": ("row_norm_gradient_kernel<", "total_kernel<"),
    "step": ("step_kernel<",),
    "dropout": ("dropout_kernel<",),
}
PRODUCTS = ("mma_kernel<", "attention_")
INSTRUCTIONS = ("HGMMA", "UTMALDG", "HMMA", "LDGSTS")


@dataclass
class Kernel:
    """One kernel on one target; bytes of spill stores and loads, stack, shared memory (static, dynamic)."""

    name: str
    target: str
    registers: int = 0
    spill: int = 0
    stack: int = 0
    shared: int = 0
    dynamic: int = 0
    instructions: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[str]:
        return [row for row, marks in ROWS.items() if any(is_marked(self.name, mark) for mark in marks)]


def is_marked(name: str, mark: str) -> bool:
    """Whether the kernel's name starts with the mark, or has it among its template's arguments."""
    return name.startswith(mark) or (mark[0].isupper() and mark in name)


def tool(name: str) -> str:
    """A program of the CUDA toolkit, or triton's copy of it."""
    found = shutil.which(name) or shutil.which(f"/usr/local/cuda/bin/{name}")
    if found is None:
        import triton

        bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
        found = str(bundled) if bundled.exists() else None
    if found is None:
        raise SystemExit(f"cuda_build: {name} was not found: install the CUDA toolkit 12.8 or newer")
    return found


def demangle(names: list[str]) -> dict[str, str]:
    printed = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return dict(zip(names, map(tidy, printed.splitlines()), strict=True))


def tidy(name: str) -> str:
    """The kernel and its template arguments: no namespaces, parameter types or enum casts."""
    name = re.sub(r"^void ", "", name).replace("dlperf::cuda::", "").replace("(anonymous namespace)::", "")
    name = re.sub(r"\((Major)\)", "", name)
    depth = 0
    for i, c in enumerate(name):
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            name = name[:i]
            break
    name = re.sub(r"\(int\)|\(bool\)", "", name)
    return re.sub(r"^gradient_kernel", "norm_gradient", name)


def parse_report(text: str) -> dict[str, Kernel]:
    """ptxas -v's report: kernels by mangled name."""
    found = {}
    for part in re.split(r"(?=ptxas info\s+: Compiling entry function)", text)[1:]:
        name, target = re.search(r"entry function '(\S+)' for 'sm_(\w+)'", part).groups()
        registers = re.search(r"Used (\d+) registers", part)
        if registers is None:
            raise ValueError(f"ptxas reported no registers for {name}")
        kernel = Kernel(name, target, int(registers[1]))
        sizes = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        kernel.stack, kernel.spill = int(sizes[1]), int(sizes[2]) + int(sizes[3])
        shared = re.search(r"(\d+) bytes smem", part)
        kernel.shared = int(shared[1]) if shared else 0
        found[name] = kernel
    return found


def instructions_of(sass: str) -> dict[str, list[str]]:
    """The instructions of ``INSTRUCTIONS`` that each function of a disassembly has."""
    found = {}
    for part in re.split(r"\n\s*Function : ", sass)[1:]:
        name = part.split(None, 1)[0]
        found[name] = [i for i in INSTRUCTIONS if re.search(rf"\b{i}\b", part)]
    return found


def has_code(name: str, target: str) -> bool:
    """Kernels are templates of every target, with an empty body where the other path serves."""
    start = name.split("<")[0]
    if target != "90a":
        return not start.endswith(HOPPER)
    return start not in PORTABLE and not (start == "mma_kernel" and "MatrixPlace" in name)


def dynamic_bytes() -> dict[tuple[str, ...], int]:
    """(kernel, template numbers) -> bytes, as the launches ask for them."""
    program = ROOT / "build" / "cuda" / "shared_bytes"
    program.parent.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CXX", "g++").split()
    includes = [f"-I{EMULATOR}", f"-I{ROOT / 'csrc'}"]
    source = str(EMULATOR / "shared_bytes.cpp")
    subprocess.run([*compiler, "-std=c++17", "-w", *includes, source, "-o", str(program)], check=True)
    lines = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    return {tuple(line.split()[:-1]): int(line.split()[-1]) for line in lines}


def problems_of(kernel: Kernel, serialized: bool, limit: int) -> list[str]:
    problems = []
    if kernel.spill or kernel.stack:
        problems.append(f"{kernel.spill} bytes spilled, {kernel.stack} bytes of stack")
    if kernel.shared + kernel.dynamic > limit:
        problems.append(f"{kernel.shared + kernel.dynamic} bytes of shared memory, and the chip has {limit}")
    if kernel.name.split("<")[0].endswith(HOPPER):
        needed = {"HGMMA", "UTMALDG"}
    elif kernel.name.startswith(PRODUCTS):
        needed = {"HMMA", "LDGSTS"}
    else:
        needed = set()
    if needed - set(kernel.instructions):
        problems.append(f"no {' or '.join(sorted(needed - set(kernel.instructions)))} in its code")
    if serialized and "HGMMA" in needed:
        problems.append("ptxas serialized its products")
    return problems


def sources_of(source: Path) -> list[Path]:
    """The file and what it includes of ours, directly or not."""
    found, waiting = set(), [source]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            names = re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE)
            waiting += [ROOT / "csrc" / name for name in names]
    return sorted(found)


def compile_file(source: Path, target: str) -> list[Kernel]:
    """The kernels of one file on one target, from build/cuda where nothing has changed."""
    folder = ROOT / "build" / "cuda"
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(" ".join((*FLAGS, target, compiler_version())).encode())
    for path in (Path(__file__), *sources_of(source)):
        digest.update(path.read_bytes())
    kept = folder / f"{source.stem}.{target}.json"
    try:
        before = json.loads(kept.read_text())
        if before["digest"] == digest.hexdigest():
            return [Kernel(**k) for k in before["kernels"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    cubin = folder / f"{source.stem}.{target}.cubin"
    command = [tool("nvcc"), *FLAGS, f"-I{ROOT / 'csrc'}", f"-gencode=arch=compute_{target},code=sm_{target}"]
    done = subprocess.run([*command, str(source), "-o", str(cubin)], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"cuda_build: nvcc failed on {source.name} for sm_{target}:\n{done.stderr[-4000:]}")
    found = parse_report(done.stderr)
    sass = subprocess.run([tool("cuobjdump"), "-sass", str(cubin)], capture_output=True, text=True, check=True).stdout
    instructions = instructions_of(sass)
    serialized = set(re.findall(r"C75\d\d.*?function '(\S+)'", done.stderr))
    names = demangle(list(found))
    kernels = []
    for mangled, kernel in found.items():
        kernel.name, kernel.target, kernel.instructions = names[mangled], target, instructions.get(mangled, [])
        if mangled in serialized:
            kernel.problems.append("ptxas serialized its products")
        if has_code(kernel.name, target):
            kernels.append(kernel)
    cubin.unlink()
    kept.write_text(json.dumps({"digest": digest.hexdigest(), "kernels": [asdict(k) for k in kernels]}))
    return kernels


def compiler_version() -> str:
    printed = subprocess.run([tool("nvcc"), "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"release ([\d.]+)", printed)[1]


def compile_all(jobs: int) -> list[Kernel]:
    from dlperf.kernels.aot import SHARED_LIMIT

    tasks = [(source, target) for source in sorted(SOURCES.glob("*.cu")) for target in TARGETS]
    with ThreadPoolExecutor(jobs) as pool:
        found = [kernel for kernels in pool.map(lambda task: compile_file(*task), tasks) for kernel in kernels]
    asked = dynamic_bytes()
    for kernel in found:
        numbers = re.findall(r"(?<=[<,\s])\d+(?=[,>])", kernel.name)
        start = kernel.name.split("<")[0]
        kernel.dynamic = next((b for k, b in asked.items() if k == (start, *numbers[: len(k) - 1])), 0)
        limit = SHARED_LIMIT[int(kernel.target.rstrip("a"))]
        kernel.problems = sorted({*kernel.problems, *problems_of(kernel, False, limit)})
    return found


def missing_rows(kernels: list[Kernel]) -> list[tuple[str, str]]:
    have = {(row, kernel.target) for kernel in kernels for row in kernel.rows}
    return [(row, target) for row in ROWS for target in TARGETS if (row, target) not in have]


def table(kernels: list[Kernel]) -> str:
    lines = [
        "# CUDA C++ kernels, as the compiler sees them",
        "",
        f"Written by `make cuda` with nvcc {compiler_version()}; nothing here has run on a GPU. By row and target:",
        "the number of kernels, the most registers a thread, bytes spilled and of stack, the most shared memory of a",
        "block, and instructions of the code (HGMMA: wgmma; UTMALDG: bulk loads; HMMA: mma.sync; LDGSTS: cp.async).",
        "",
        "| row | target | kernels | registers | spilled | stack | shared | instructions |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        for target in TARGETS:
            own = [k for k in kernels if k.target == target and row in k.rows]
            found = [i for i in INSTRUCTIONS if any(i in k.instructions for k in own)]
            cells = (
                str(len(own)),
                *(str(max(getattr(k, f) for k in own)) for f in ("registers", "spill", "stack")),
                str(max(k.shared + k.dynamic for k in own)),
                ", ".join(found),
            )
            lines.append(f"| {row} | sm_{target} | {' | '.join(cells)} |")
    lines += [
        "",
        "## Each kernel",
        "",
        f"On {', '.join(f'sm_{t}' for t in TARGETS)} in this order; - where that target has no such kernel. A kernel",
        "of 384 threads starts with 168 registers and shares them out anew: 232 or 240 to each that multiplies.",
        "",
        "| kernel | registers | spilled | stack | shared |",
        "|---|---|---|---|---|",
    ]
    by_name: dict[str, dict[str, Kernel]] = {}
    for kernel in kernels:
        by_name.setdefault(kernel.name, {})[kernel.target] = kernel
    for name, found in sorted(by_name.items()):

        def cell(value, found=found) -> str:
            return " / ".join(str(value(found[t])) if t in found else "-" for t in TARGETS)

        numbers = [cell(lambda k, f=f: getattr(k, f)) for f in ("registers", "spill", "stack")]
        lines.append(f"| {name} | {' | '.join(numbers)} | {cell(lambda k: k.shared + k.dynamic)} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="cuda_build", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="write the table to this file")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at a time")
    args = parser.parse_args(argv)
    start = time.monotonic()
    kernels = compile_all(args.jobs)
    failed = [k for k in kernels if k.problems]
    for kernel in failed:
        print(f"sm_{kernel.target} {kernel.name}: {'; '.join(kernel.problems)}")
    missing = missing_rows(kernels)
    for row, target in missing:
        print(f"sm_{target}: no kernel makes the row {row!r}")
    if args.out and not missing:
        args.out.write_text(table(kernels))
    seconds = time.monotonic() - start
    print(f"{len(kernels)} kernels, {len(failed)} failed, {len(missing)} rows missing; {seconds:.0f} s")
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
