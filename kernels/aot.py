"""``make aot``: every kernel and configuration that ships, compiled ahead of time for sm_80, sm_90 and sm_100.

The launchers are called with meta tensors of real layers' sizes while their launches are recorded (``aot_cases.py``),
so what is compiled is what they would launch. For each distinct variant the binary's registers, spilled bytes and
shared memory are read, and its PTX is searched for tensor-core instructions. The table goes to docs/aot.md. It fails
where a kernel marked hot spills more than a few scalars, shared memory passes the chip's limit, a matrix kernel has
no tensor-core instruction in a tensor-core dtype, warp specialization was asked for and not applied, or a kernel was
never launched.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import triton

from ._launch import INTERPRETED, KERNELS, Kernel, Launch, options, recording, specialization

CAPABILITIES = (80, 90, 100)
# Bytes a block may ask for; sm_80's variants serve 8.6, 8.9 and 12.x too, which have 99 KB of the 163.
SHARED_LIMIT = {80: 101_376, 90: 232_448, 100: 232_448}
_TENSOR_CORE = {80: ("mma.sync",), 90: ("wgmma", "mma.sync"), 100: ("tcgen05.mma", "mma.sync")}
TOLERATED_SPILL = 64  # bytes: ptxas parks a few scalars outside of loops to let one more block run
TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float64: "fp64",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.bool: "i1",
    torch.uint8: "u8",
}


@dataclass(frozen=True)
class Variant:
    """What triton compiles: a kernel for argument types and alignments, constants, warps and stages."""

    kernel: str
    types: tuple[str, ...]
    ones: tuple[bool, ...]
    multiples: tuple[bool, ...]  # of 16
    constants: tuple[tuple[str, object], ...]
    num_warps: int
    num_stages: int
    dtypes: tuple[str, ...]

    def label(self) -> str:
        constants = " ".join(f"{k}={v}" for k, v in self.constants)
        return f"{'/'.join(self.dtypes)} {constants} warps={self.num_warps} stages={self.num_stages}"


def variant_of(launch: Launch) -> Variant:
    types, ones, multiples, dtypes = [], [], [], []
    for arg in launch.args:
        seen = specialization(arg)
        ones.append(seen == 1 and type(arg) is int)
        multiples.append(isinstance(seen, tuple) and bool(seen[1]))
        if arg is None:
            types.append("none")
        elif isinstance(arg, torch.Tensor):
            types.append("*" + TYPES[arg.dtype])
            if arg.is_floating_point() and TYPES[arg.dtype] not in dtypes:
                dtypes.append(TYPES[arg.dtype])
        else:
            types.append("fp32" if isinstance(arg, float) else "i32" if seen == 1 else seen[0])
    constants = tuple((n, launch.constants[n]) for n in launch.kernel.constant_names)
    settings = (launch.num_warps, launch.num_stages)
    return Variant(launch.kernel.name, tuple(types), tuple(ones), tuple(multiples), constants, *settings, tuple(dtypes))


def variants(capability: int) -> list[Variant]:
    """The distinct ones that the launchers ask for on such a device, in order."""
    from .aot_cases import call_every_launcher

    with recording(capability) as launches:
        call_every_launcher()
    return list(dict.fromkeys(map(variant_of, launches)))


def _source(variant: Variant):
    """What triton compiles, and its options."""
    from triton.compiler import ASTSource

    kernel = KERNELS[variant.kernel]
    signature, constants, attributes = {}, dict(variant.constants), {}
    for i, name in enumerate(kernel.argument_names):
        if variant.types[i] == "none" or variant.ones[i]:
            signature[name] = "constexpr"
            constants[name] = None if variant.types[i] == "none" else 1
        else:
            signature[name] = variant.types[i]
            if variant.multiples[i]:
                attributes[(i,)] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys(kernel.constant_names, "constexpr")
    source = ASTSource(kernel.jit, signature, constants, attributes)
    return source, options(variant.num_warps, variant.num_stages)


def compile_variant(variant: Variant, capability: int):
    from triton.backends.compiler import GPUTarget

    source, options = _source(variant)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def lower(variant: Variant, capability: int) -> None:
    """Triton's front end alone, in a fraction of the time: whether the kernel is well typed for these arguments."""
    from triton._C.libtriton import ir
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import make_backend

    source, given = _source(variant)
    target = GPUTarget("cuda", capability, 32)
    backend = make_backend(target)
    options = backend.parse_options(given)
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    source.make_ir(target, options, backend.get_codegen_implementation(options), backend.get_module_map(), context)


def resources(cubin: bytes) -> dict[str, int]:
    """REG, STACK (bytes of the frame), SHARED ... of the binary's one kernel."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        printed = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    found = re.findall(r"Function [^:]+:\s*\n?\s*(.*REG:.*)", printed)
    if not found:
        raise RuntimeError(f"cuobjdump printed no resource usage: {printed[:300]!r}")
    return {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", found[-1])}


def spilled(ptx: str, capability: int) -> int:
    """Bytes of spill stores and loads: a stack frame alone can be something else."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    tool /= "ptxas-blackwell" if capability >= 100 and (tool / "ptxas-blackwell").exists() else "ptxas"
    target = re.search(r"^\.target\s+(\w+)", ptx, re.M).group(1)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [tool, "-v", f"--gpu-name={target}", file.name, "-o", os.devnull]
        printed = subprocess.run(command, capture_output=True, text=True).stderr
    return sum(map(int, re.findall(r"(\d+) bytes spill", printed)))


@dataclass
class Row:
    """One variant on one target. spill: bytes of spill stores and loads. problems: what fails the check."""

    variant: Variant
    capability: int
    registers: int = 0
    spill: int = 0
    shared: int = 0
    instruction: str = ""
    problems: tuple[str, ...] = ()


def examine(task: tuple[Variant, int]) -> Row:
    variant, capability = task
    kernel = KERNELS[variant.kernel]
    try:
        compiled = compile_variant(variant, capability)
        used = resources(compiled.asm["cubin"])
    except Exception as error:  # reported as this row's failure
        return Row(variant, capability, problems=(f"{type(error).__name__}: {str(error).strip().splitlines()[-1:]}",))
    ptx, shared = compiled.asm["ptx"], compiled.metadata.shared
    spill = spilled(ptx, capability) if used.get("STACK", 0) else 0
    instruction = next((i for i in _TENSOR_CORE[capability] if i in ptx), "")
    problems = []
    constants = dict(variant.constants)
    # Of float32 heads of 256 no tile is small enough; they are served all the same.
    largest = constants.get("E") == 256 and constants["PRECISION"] == "tf32x3"
    if kernel.hot and spill > TOLERATED_SPILL and not largest:
        problems.append(f"{spill} bytes spilled")
    if shared > SHARED_LIMIT[capability]:
        problems.append(f"{shared} bytes of shared memory, and the chip has {SHARED_LIMIT[capability]}")
    if kernel.products and not instruction and constants.get("PRECISION") != "ieee":
        problems.append("no tensor-core instruction")
    if constants.get("WARP_SPECIALIZE") and "setmaxnreg" not in ptx:
        problems.append("warp specialization was asked for and not applied")
    return Row(variant, capability, used["REG"], spill, shared, instruction, tuple(problems))


def never_launched(per_target: dict[int, list[Variant]]) -> list[Kernel]:
    seen = {v.kernel for found in per_target.values() for v in found}
    return [k for name, k in KERNELS.items() if name not in seen]


def _table(rows: list[Row]) -> str:
    lines = [
        "# Triton kernels, compiled ahead of time",
        "",
        f"Written by `make aot` with triton {triton.__version__}; not measured on a GPU. Registers a thread, bytes",
        "spilled, bytes of shared memory a block, and the tensor-core instruction found in the PTX, on",
        f"{', '.join(f'sm_{c}' for c in CAPABILITIES)} in this order; - where that target does not use the variant.",
        "",
        "| kernel | variant | registers | spilled | shared | instruction |",
        "|---|---|---|---|---|---|",
    ]
    by_variant: dict[Variant, dict[int, Row]] = {}
    for row in rows:
        by_variant.setdefault(row.variant, {})[row.capability] = row

    def cells(found: dict[int, Row], field: str) -> str:
        return " / ".join(str(getattr(found[c], field) or 0) if c in found else "-" for c in CAPABILITIES)

    for variant, found in sorted(by_variant.items(), key=lambda item: (item[0].kernel, item[0].label())):
        instructions = sorted({row.instruction for row in found.values() if row.instruction})
        numbers = " | ".join(cells(found, field) for field in ("registers", "spill", "shared"))
        lines.append(f"| {variant.kernel} | {variant.label()} | {numbers} | {', '.join(instructions)} |")
    return "\n".join(lines) + "\n"


def _with_triton(version: str, arguments: list[str]) -> int:
    """The same in a process with another triton, which pip puts into build/."""
    folder = Path("build") / f"triton-{version}"
    if not folder.exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*install, f"triton=={version}"], check=True)
    path = os.pathsep.join(filter(None, (str(folder.resolve()), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "dlperf.kernels.aot", *arguments]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}).returncode


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="aot", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="write the table to this file")
    parser.add_argument("--kernel", help="only kernels whose name contains this")
    parser.add_argument("--list", action="store_true", help="list the variants, compile nothing")
    parser.add_argument("--triton", metavar="VERSION", help="with this triton instead; no table is written")
    args = parser.parse_args(argv)
    if args.triton:
        chosen = ["--kernel", args.kernel] if args.kernel else []
        return _with_triton(args.triton, [*chosen, *(["--list"] if args.list else [])])
    if INTERPRETED:
        print("aot: unset TRITON_INTERPRET: interpreted kernels can't be compiled", file=sys.stderr)
        return 2
    start = time.monotonic()
    per_target = {c: [v for v in variants(c) if not args.kernel or args.kernel in v.kernel] for c in CAPABILITIES}
    tasks = [(v, c) for c, found in per_target.items() for v in found]
    if args.list:
        for variant, capability in tasks:
            print(f"sm_{capability} {variant.kernel} {variant.label()}")
        print(len(tasks))
        return 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        rows = list(pool.map(examine, tasks, chunksize=1))
    failed = [row for row in rows if row.problems]
    for row in failed:
        print(f"sm_{row.capability} {row.variant.kernel} {row.variant.label()}: {'; '.join(row.problems)}")
    missing = [] if args.kernel else never_launched(per_target)
    for kernel in missing:
        print(f"{kernel.name}: no case in kernels/aot_cases.py launches it")
    if args.out:
        args.out.write_text(_table(rows))
    print(
        f"triton {triton.__version__}: {len(rows)} compiled, {len(failed)} failed, {len(missing)} never launched; "
        f"{time.monotonic() - start:.0f} s"
    )
    return 1 if failed or missing else 0


if __name__ == "__main__":
    from dlperf.kernels.aot import main as run  # not __main__'s own copy: workers import this module by name

    sys.exit(run())
