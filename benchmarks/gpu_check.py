"""What `make gpu-check` runs on a GPU machine: no virtual environment, no network, this interpreter's own torch.

    install     pip install --no-deps --no-build-isolation --target gpu-check-out/site .
    import      the installed package, from outside the checkout
    check       dlperf check --device cuda --backend triton --record: what passes may be chosen on this card; first
                it compiles what the cases launch, on all processors
    check-cuda  the same of the CUDA C++ kernels
    tests       pytest -m gpu, but for the cases that the checks have run
    memcheck    compute-sanitizer over small shapes of the CUDA C++ kernels; racecheck too
    kernels     the Triton kernels beside torch's operators (benchmarks/gpu_kernels.py)
    kernels-cuda  the CUDA C++ kernels, likewise
    bench       dlperf bench --device cuda --quick

Each stage has a time limit and a log in gpu-check-out/. What was found is written to
benchmarks/results/<device>/<date>.json. With GPU_CHECK_DRY=1 the stages that need no GPU run, the others are printed.

This file runs before dlperf is installed, so it imports the standard library alone.
"""

import argparse
import datetime
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CALL_CLI = "import sys; from dlperf.cli import main; sys.exit(main())"
DESCRIBE = """
import json, dlperf, torch
from dlperf.backends import cuda
from dlperf.benchmarks import machine
facts = machine.describe("cuda" if torch.cuda.is_available() else "cpu", torch.get_num_threads())
print(json.dumps({**facts, "path": dlperf.__file__, "folder": machine.device_slug(facts), "no_cuda": cuda.load_error}))
"""
NO_TESTS_COLLECTED = 5
VERIFIED = ("verified.json", "verified-cuda.json")  # of Triton, of CUDA C++
SANITIZED = "import sys; from dlperf.benchmarks.gpu_small import main; sys.exit(main())"


@dataclass(frozen=True)
class Stage:
    name: str
    command: list[str]
    limit: int  # seconds
    needs_gpu: bool
    ok_codes: tuple[int, ...] = (0,)
    needs_extension: bool = False  # the CUDA C++ kernels, which are built where nvcc is


def stages(out: Path, python: str) -> list[Stage]:
    site = str(out / "site")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # append: the checkout, which holds no built extension, must not hide what was installed.
    pytest = [python, "-m", "pytest", "-m", "gpu", "-k", "not test_cases", "--import-mode=append"]
    pytest += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-p", "no:cacheprovider"]
    cli = [python, "-c", CALL_CLI]
    verified, verified_cuda = (str(out / name) for name in VERIFIED)
    check = [*cli, "check", "--device", "cuda", "--backend"]
    kernels = [python, "-m", "dlperf.benchmarks.gpu_kernels", "--out"]
    kernels_cuda = str(out / "kernels-cuda.json")
    sanitizer = ["compute-sanitizer", "--error-exitcode", "9", "--tool"]
    small = [python, "-c", SANITIZED]
    bench = [*cli, "bench", "models", "--device", "cuda", "--quick", "--batch", "32", "--out", str(out / "bench")]
    return [
        Stage("install", [*pip, "--no-build-isolation", "--target", site, str(ROOT)], 900, False),
        Stage("import", [python, "-c", DESCRIBE], 120, False),
        Stage("check", [*check, "triton", "--record", verified], 480, True),
        Stage("check-cuda", [*check, "cuda", "--record", verified_cuda], 240, True, needs_extension=True),
        Stage("tests", [*pytest, str(ROOT / "tests")], 600, True, (0, NO_TESTS_COLLECTED)),
        Stage("memcheck", [*sanitizer, "memcheck", *small], 300, True, needs_extension=True),
        Stage("racecheck", [*sanitizer, "racecheck", *small], 300, True, needs_extension=True),
        Stage("kernels", [*kernels, str(out / "kernels.json")], 180, True),
        Stage("kernels-cuda", [*kernels, kernels_cuda, "--backend", "cuda"], 180, True, needs_extension=True),
        Stage("bench", bench, 600, True),
    ]


def run(stage: Stage, out: Path) -> dict:
    """Runs a stage outside the checkout, so that only what was installed is found."""
    environment = {**os.environ, "PYTHONPATH": str(out / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
    log = out / f"{stage.name}.log"
    start = time.monotonic()
    with log.open("w") as sink:
        try:
            code = subprocess.run(
                stage.command, cwd=out, env=environment, stdout=sink, stderr=subprocess.STDOUT, timeout=stage.limit
            ).returncode
            error = None if code in stage.ok_codes else f"exit code {code}"
        except subprocess.TimeoutExpired:
            code, error = None, f"stopped after {stage.limit} s"
        except OSError as failure:
            code, error = None, str(failure)
    return {"stage": stage.name, "code": code, "seconds": round(time.monotonic() - start, 1), "error": error}


def without_extension(out: Path) -> str | None:
    """Why the CUDA C++ kernels were not built, as the import stage found."""
    return json.loads((out / "import.log").read_text().splitlines()[-1])["no_cuda"]


def report(result: dict, log: Path):
    state = f"FAILED ({result['error']})" if result["error"] else "ok"
    if result["stage"] == "tests" and result["code"] == NO_TESTS_COLLECTED:
        state = "ok, no tests are marked gpu"
    print(f"{result['stage']:12} {state}, {result['seconds']} s, {log}", flush=True)
    if result["error"]:
        print("".join(f"    {line}\n" for line in log.read_text().splitlines()[-15:]), flush=True)


def driver_version() -> str | None:
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, timeout=60).stdout.split("\n")[0].strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def record(results: list[dict], out: Path, folder: Path | None) -> Path:
    """Writes what the run found into `folder`, by default the device's own in benchmarks/results/."""
    machine = json.loads((out / "import.log").read_text().splitlines()[-1])
    machine["driver"] = driver_version()
    bench = out / "bench" / "results.json"
    kernels, kernels_cuda = out / "kernels.json", out / "kernels-cuda.json"
    found = {
        "kind": "gpu-check",
        "machine": machine,
        "stages": results,
        "bench": json.loads(bench.read_text()) if bench.exists() else None,
        "kernels": json.loads(kernels.read_text()) if kernels.exists() else None,
        "kernels_cuda": json.loads(kernels_cuda.read_text()) if kernels_cuda.exists() else None,
    }
    folder = folder or ROOT / "benchmarks" / "results" / machine["folder"]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.date.today().isoformat()}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    for name in VERIFIED:
        if (out / name).exists():
            shutil.copy(out / name, folder / name)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="gpu-check-out", help="default: gpu-check-out")
    parser.add_argument("--record", help="folder of the record; default: benchmarks/results/<device>")
    args = parser.parse_args()
    dry = os.environ.get("GPU_CHECK_DRY", "") not in ("", "0")
    if not dry and shutil.which("nvidia-smi") is None:
        print("gpu-check: no nvidia-smi here, so no GPU; GPU_CHECK_DRY=1 walks the stages without one", file=sys.stderr)
        return 2
    out = Path(args.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / "site", ignore_errors=True)  # pip --target does not replace what is there
    shutil.rmtree(out / "bench", ignore_errors=True)
    for left in ("kernels.json", "kernels-cuda.json", *VERIFIED):
        (out / left).unlink(missing_ok=True)
    results = []
    for stage in stages(out, sys.executable):
        if dry and stage.needs_gpu:
            print(f"{stage.name:12} would run, {stage.limit} s at most: {shlex.join(stage.command)}", flush=True)
            continue
        if stage.needs_extension and (reason := without_extension(out)):
            print(f"{stage.name:12} left out: {reason}", flush=True)
            continue
        results.append(run(stage, out))
        report(results[-1], out / f"{stage.name}.log")
        if results[-1]["error"] and stage.name in ("install", "import"):
            return 1
    if not re.search(re.escape(str(out)), (out / "import.log").read_text()):
        print(f"gpu-check: dlperf was not imported from {out / 'site'}: see import.log", file=sys.stderr)
        return 1
    if dry:
        print("record       would be written to benchmarks/results/<device>/<date>.json", flush=True)
    else:
        folder = Path(args.record).resolve() if args.record else None
        print(f"record       {record(results, out, folder)}", flush=True)
    return 1 if any(result["error"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
