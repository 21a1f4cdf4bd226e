"""The engines of the model benchmark. `ENGINES` lists them; `model_job` runs one of them in a worker."""

import importlib
import importlib.util
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from .machine import cpu_vendor
from .models import find

MKL_UNLOCK_SOURCE = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"


@dataclass(frozen=True)
class EngineInfo:
    label: str
    modes: tuple[str, ...] = ("inference", "train")
    dtypes: tuple[str, ...] = ("f32", "bf16")
    needs: tuple[str, ...] = ()  # packages
    devices: tuple[str, ...] = ("cpu", "cuda")
    ours: bool = False


ENGINES = {
    "dlperf": EngineInfo("dlperf layers", ours=True),
    "dlperf-optimize": EngineInfo("dlperf.optimize", ours=True),
    "eager": EngineInfo("torch eager, NCHW"),
    "eager-nhwc": EngineInfo("torch eager, channels_last"),
    "compile": EngineInfo("torch.compile"),
    "eager-mkl": EngineInfo("torch eager, MKL unlocked", devices=("cpu",)),
    "compile-mkl": EngineInfo("torch.compile, MKL unlocked", devices=("cpu",)),
    "onnxruntime": EngineInfo(
        "ONNX Runtime", ("inference",), ("f32",), ("onnx", "onnxscript", "onnxruntime"), devices=("cpu",)
    ),
    "openvino": EngineInfo("OpenVINO", ("inference",), needs=("openvino",), devices=("cpu",)),
}
BASELINE = "eager-nhwc"
OURS = [name for name, engine in ENGINES.items() if engine.ours]
PEERS = [name for name, engine in ENGINES.items() if not engine.ours]


def default_peers() -> list[str]:
    return ["eager", "eager-nhwc", "compile", *(["eager-mkl"] if cpu_vendor() == "AuthenticAMD" else [])]


@dataclass(frozen=True)
class Case:
    """One line of the benchmark: what all engines do. `directory` holds weights, inputs and the reference."""

    model: str
    mode: str
    dtype: str
    batch: int
    device: str = "cpu"
    threads: int = 1
    directory: str = ""
    suite: str = "models"
    axis: str = ""  # what the scaling suite varies ...
    value: int = 0  # ... and its value here

    @property
    def name(self) -> str:
        threads = f", {self.threads} threads" if self.axis == "threads" else ""
        return f"{self.model} {self.mode} {self.dtype} batch {self.batch}{threads}"

    @property
    def row_fields(self) -> dict:
        """What a row says of its case."""
        fields = ("suite", "mode", "dtype", "batch", "axis", "value")
        return {"name": self.model.partition("@")[0], **{name: getattr(self, name) for name in fields}}


def why_not(engine: str, case: Case) -> str | None:
    """Why the engine can't run the case here, or None."""
    info = ENGINES[engine]
    if case.mode not in info.modes:
        return f"{info.label} has no {case.mode} mode"
    if case.dtype not in info.dtypes:
        return f"{info.label} has no {case.dtype} kernels for this model on CPU"
    if case.device not in info.devices:
        return f"{info.label} is benchmarked on {' and '.join(info.devices)} only"
    if engine == "dlperf" and case.model and find(case.model).public:
        return "another package's model has torch's layers: dlperf.optimize serves it"
    if engine == "dlperf-optimize" and case.mode not in importlib.import_module("dlperf.optimize").MODES:
        return f"this version of dlperf has no optimize(mode={case.mode!r})"
    missing = [name for name in info.needs if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (pip install 'dlperf[peers]')"
    if engine.endswith("-mkl") and cpu_vendor() != "AuthenticAMD":
        return "MKL is not locked on this processor: only AMD's need it"
    return None


def unlock_mkl(directory: Path) -> dict[str, str]:
    """The environment in which MKL takes its AVX-512 path on AMD: a preloaded library answers its vendor test."""
    library = directory / "libmklunlock.so"
    source = directory / "mklunlock.c"
    source.write_text(MKL_UNLOCK_SOURCE)
    for compiler in ("cc", "gcc", "clang"):
        try:
            subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return {"LD_PRELOAD": str(library)}
    raise RuntimeError("no working C compiler (cc, gcc or clang) to build the library that unlocks MKL")


def environment(engine: str, directory: Path) -> dict[str, str]:
    if engine.endswith("-mkl") and platform.system() == "Linux":
        return unlock_mkl(directory)
    return {}


def arguments(engine: str, case: Case) -> dict:
    return {"engine": engine, "case": asdict(case)}
