"""The kernel suite under pytest-benchmark: statistics, histograms and comparisons between commits.

    pytest benchmarks/test_kernels_benchmark.py -k "conv and forward" --benchmark-group-by=group

Outside `testpaths`, so the normal test run does not collect it. Both engines share this process: for figures to
publish use `dlperf bench kernels`, where each has its own.
"""

import importlib

import pytest
import torch

from dlperf.benchmarks.engines import DTYPES
from dlperf.benchmarks.kernels import NAMESPACES, LayerSteps, bound, check, uses
from dlperf.benchmarks.results import MODES
from dlperf.benchmarks.suites import DEFAULT_MODELS

pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed")

BATCH = 8
LAYERS = uses(list(DEFAULT_MODELS), BATCH)


@pytest.mark.parametrize("engine", ["dlperf", "eager-nhwc"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("mode", MODES["kernels"])
@pytest.mark.parametrize(("name", "use"), LAYERS, ids=[f"{name} {use.layer.label}" for name, use in LAYERS])
def test_layer(benchmark, name, use, mode, dtype, engine):
    steps = LayerSteps(use.layer, importlib.import_module(NAMESPACES.get(engine, "torch.nn")), DTYPES[dtype], True)
    checked = check(steps, mode, dtype)
    assert checked["passed"], checked
    backward = mode == "backward"
    flops, moved = use.layer.flops(backward), use.layer.bytes(DTYPES[dtype].itemsize, backward)
    benchmark.group = f"{name} {mode} {dtype}"
    benchmark.extra_info |= {"shape": use.layer.label, "repeats": use.repeats, "threads": torch.get_num_threads()}
    benchmark(getattr(steps, mode))
    seconds = benchmark.stats.stats.median if benchmark.stats else None
    if seconds:
        rate = {"flops": ("gflops", flops), "bytes": ("gbps", moved)}[bound(use.layer)]
        benchmark.extra_info[rate[0]] = rate[1] / seconds / 1e9
