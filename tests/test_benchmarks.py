"""The benchmark itself: its checks, its files, its commands. Nothing here depends on how fast anything is."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import dlperf.benchmarks
from dlperf.benchmarks import bench, gpu_check, kernels, layers, peers, suites, tables
from dlperf.benchmarks.engines import ERROR_FLOOR, rel_err
from dlperf.benchmarks.results import Results, Row, against_baseline, against_best_peer, row_from, speedup, validate
from dlperf.benchmarks.timing import Measurement, Plan, ask_once, package_job
from dlperf.cli import main

CEILINGS = {"f32": 100.0, "bf16": 200.0, "gbps": 10.0, "source": "made up", "loops": {}}
CEILINGS["torch_matmul"] = {"float32": 90.0, "bfloat16": 180.0}


# --- results -----------------------------------------------------------------------------------------


def row(engine, ms=1.0, passed=True, **more):
    fields = {"suite": "models", "name": "resnet18", "mode": "inference", "dtype": "f32", "batch": 1, **more}
    return Row(engine=engine, median_ms=ms, passed=passed, **fields)


def test_a_failed_check_has_no_speed_up():
    info = {"rel_err": 0.3, "tolerance": 1e-4, "passed": False}
    measurement = Measurement("dlperf", [1.0, 1.0], info)
    fields = {"suite": "models", "name": "resnet18", "mode": "inference", "dtype": "f32", "batch": 1}
    wrong = row_from(measurement, fields, (10**9, 10**6), CEILINGS, "flops")
    assert wrong.error == "check failed: error 3.0e-01, allowed 1.0e-04"
    rows = [wrong, row("eager-nhwc", 2.0)]
    assert against_baseline(rows, wrong) is None
    assert against_best_peer(rows, wrong) is None
    assert speedup(row("eager-nhwc"), wrong) is None
    assert speedup(row("dlperf"), row("eager-nhwc", 3.0)) == 3.0


def test_a_peer_that_failed_its_check_is_not_the_best_peer():
    rows = [row("dlperf", 2.0), row("eager-nhwc", 4.0), row("compile", 0.1, passed=False)]
    assert against_best_peer(rows, rows[0]) == 2.0


def test_rates_and_shares():
    fields = {"suite": "kernels", "name": "m/l", "mode": "forward", "dtype": "bf16", "batch": 1}
    measurement = Measurement("dlperf", [2.0, 2.0, 2.0], {"passed": True})
    product = row_from(measurement, fields, (4 * 10**8, 10**6), CEILINGS, "flops")
    assert (product.gflops, product.gbps, product.share_of_ceiling) == (200.0, None, 1.0)
    memory = row_from(measurement, fields, (0, 10**7), CEILINGS, "bytes")
    assert (memory.gflops, memory.gbps, memory.share_of_ceiling) == (None, 5.0, 0.5)


def sample_results() -> Results:
    described = {
        "cpu": "Test(R) CPU", "vendor": "x", "isa": "avx2", "amx": False, "cores": 2, "threads": 2, "memory_gb": 8.0,
        "os": "Linux", "python": "3", "torch": "2", "mkl": None, "onednn": None, "dlperf": "0", "device": "cpu",
        "date": "2026-01-02 03:04 UTC", "ceilings": CEILINGS,
    }  # fmt: skip
    settings = {"quick": True, "rounds": {"models": 2, "kernels": 2}, "turn_seconds": {"models": 1, "kernels": 1}}
    results = Results(described, settings, notes=["Weights: random <b>."])
    speeds = {"dlperf": 2.0, "eager": 0.8, "eager-nhwc": 1.0, "compile": 1.6}
    for mode, batch in (("inference", 1), ("inference", 8), ("train", 8)):
        fields = {"suite": "models", "name": "resnet18", "mode": mode, "dtype": "f32", "batch": batch}
        for engine, speed in speeds.items():
            info = {"rel_err": 1e-6, "tolerance": 1e-4, "passed": True}
            measurement = Measurement(engine, [10 * batch / speed] * 3, info, peak_mem_mb=100.0)
            results.rows.append(row_from(measurement, fields, (batch * 10**9, 10**7), CEILINGS, "flops"))
        failed = Measurement("openvino", error="openvino not installed")
        results.rows.append(row_from(failed, fields, (1, 1), CEILINGS, "flops"))
    for name, label, bound in (("conv1", "conv 7x7", "flops"), ("bn1", "bn + relu", "bytes")):
        for mode in ("forward", "backward"):
            fields = {"suite": "kernels", "name": f"resnet18/{name}", "mode": mode, "dtype": "f32", "batch": 8}
            for engine in ("dlperf", "eager-nhwc"):
                measurement = Measurement(engine, [1.0], {"rel_err": 1e-6, "tolerance": 1e-5, "passed": True})
                flops = 10**7 if bound == "flops" else 0
                made = row_from(measurement, {**fields, "label": label, "repeats": 3}, (flops, 10**6), CEILINGS, bound)
                results.rows.append(made)
    return results


def test_results_survive_a_round_trip(tmp_path):
    results = sample_results()
    results.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == results
    assert validate(json.loads((tmp_path / "results.json").read_text())) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d.pop("machine"), "machine is missing"),
        (lambda d: d.update(schema=99), "schema is 99"),
        (lambda d: d["rows"][0].pop("engine"), "row 0: missing \\['engine'\\]"),
        (lambda d: d["rows"][1].update(speed=3), "row 1: .*unknown \\['speed'\\]"),
        (lambda d: d["rows"][0].update(mode="forward"), "row 0: suite 'models', mode 'forward'"),
        (lambda d: d["rows"][0].update(median_ms=None), "row 0: neither a time nor an error"),
    ],
)
def test_files_that_are_no_results_are_refused(tmp_path, change, problem):
    path = tmp_path / "results.json"
    sample_results().save(path)
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=problem):
        Results.load(path)


def test_report_is_self_contained(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    from dlperf.benchmarks import charts, report

    results = sample_results()
    pictures = charts.write_all(results, tmp_path)
    assert {p.name for p in pictures} == {
        f"{name}.png" for name in ("speedup", "scaling", "roofline", "share-f32", "layers-f32")
    }
    html = report.write(results, pictures, tmp_path / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert len(sources) == len(pictures)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|@import|<script", html)
    assert "Weights: random &lt;b&gt;." in html
    assert "openvino not installed" in html
    assert "Test(R) CPU" in html


def test_a_run_with_errors_alone_still_gives_a_report(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    from dlperf.benchmarks import charts, report

    results = sample_results()
    results.machine.pop("ceilings")
    for r in results.rows:
        r.median_ms = r.gflops = r.gbps = r.share_of_ceiling = None
        r.error = "broken"
    assert charts.write_all(results, tmp_path) == []
    assert "broken" in report.write(results, [], tmp_path / "report.html").read_text()


# --- operations and shapes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [("resnet18", 1.814), ("resnet50", 4.089), ("resnet152", 11.514), ("vit_base", 17.564)],
)
def test_operations_are_the_published_ones(name, gmacs):
    flops, moved = layers.model_cost(name, 1, "inference", 4)
    assert flops / 2e9 == pytest.approx(gmacs, abs=1e-3)
    parameters = sum(p.numel() for p in dlperf.benchmarks.models.seeded(name).parameters())
    assert moved > 4 * parameters


def test_operations_of_the_unet():
    """Its convolutions, linear layers and attention, as hooks on the layers themselves count them."""
    counted = 0

    def count(module, inputs, output):
        nonlocal counted
        per_value = module.weight[0].numel()
        counted += output.numel() * per_value

    model = dlperf.benchmarks.models.seeded("unet_cifar10").eval()
    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(*dlperf.benchmarks.models.MODELS["unet_cifar10"].inputs(1)[0])
    attention = 5 * 2 * 256**2 * 256 + 2 * 16**2 * 256  # 2 + 3 at 16x16, one at 4x4; q k' and p v
    assert layers.model_cost("unet_cifar10", 1, "inference", 4)[0] == 2 * (counted + attention)


def test_a_training_step_is_three_products_but_for_the_first_layer():
    once = layers.model_cost("resnet50", 2, "inference", 4)[0]
    stem = layers.model_layers("resnet50", 2)[0][1]
    assert stem.is_first
    assert layers.model_cost("resnet50", 2, "train", 4)[0] == 3 * once - stem.flops()


def test_distinct_layers_count_every_use():
    found = layers.model_layers("resnet50", 1)
    uses = layers.distinct(found)
    assert sum(use.repeats for use in uses) == len(found) == 53 + 53 + 1 + 1 + 1
    assert {use.layer.epilogue for use in uses if use.layer.kind == "batch_norm"} == {"", "relu", "add+relu"}


def test_bytes_of_a_batch_norm():
    layer = layers.Layer("batch_norm", (2, 8, 4, 4), (2, 8, 4, 4), (8,), "add+relu")
    n = 2 * 8 * 4 * 4
    assert layer.bytes(4) == 4 * (3 * n + 4 * 8)  # reads x and the residual, writes y
    assert layer.bytes(4, backward=True) == 4 * (5 * n + 2 * 4 * 8)  # reads x, y, grad; writes two gradients


KINDS = [
    layers.Layer("conv2d", (2, 4, 6, 6), (2, 8, 3, 3), (4, 8, (3, 3), (2, 2), (1, 1), 1)),
    layers.Layer("conv2d", (2, 4, 6, 6), (2, 8, 3, 3), (4, 8, (3, 3), (2, 2), (1, 1), 1), is_first=True),
    layers.Layer("batch_norm", (2, 4, 6, 6), (2, 4, 6, 6), (4,)),
    layers.Layer("batch_norm", (2, 4, 6, 6), (2, 4, 6, 6), (4,), "relu"),
    layers.Layer("batch_norm", (2, 4, 6, 6), (2, 4, 6, 6), (4,), "add+relu"),
    layers.Layer("max_pool", (2, 4, 6, 6), (2, 4, 3, 3), ((3, 3), (2, 2), (1, 1))),
    layers.Layer("avg_pool", (2, 4, 6, 6), (2, 4, 1, 1), ((1, 1),)),
    layers.Layer("linear", (2, 16), (2, 5), (16, 5)),
    layers.Layer("linear", (2, 3, 16), (2, 3, 5), (16, 5)),
    layers.Layer("layer_norm", (2, 3, 16), (2, 3, 16), ((16,),)),
    layers.Layer("group_norm", (2, 8, 4, 4), (2, 8, 4, 4), (4, 8)),
    layers.Layer("group_norm", (2, 8, 4, 4), (2, 8, 4, 4), (4, 8), "silu"),
    layers.Layer("attention", (3, 2, 2, 9, 16), (2, 2, 9, 16), ()),
]


def test_every_layer_of_every_model_has_a_job():
    kinds = {layer.kind for name in dlperf.benchmarks.models.MODELS for _, layer in layers.model_layers(name, 1)}
    assert kinds == {layer.kind for layer in KINDS}


@pytest.mark.parametrize("engine", ["dlperf", "eager-nhwc"])
@pytest.mark.parametrize("mode", ["forward", "backward"])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("layer", KINDS, ids=lambda layer: f"{layer.kind}-{layer.epilogue}{layer.is_first}")
def test_kernel_jobs_pass_their_own_check(engine, mode, dtype, layer):
    threads = torch.get_num_threads()
    arguments = json.loads(json.dumps(vars(layer)))  # as the worker gets them
    job = kernels.kernel_job(engine=engine, layer=arguments, mode=mode, dtype=dtype, threads=threads)
    assert job.info["passed"], job.info
    job.step()


def test_kernel_check_sees_a_wrong_result():
    steps = kernels.LayerSteps(KINDS[0], torch.nn, torch.float32, True)
    forward = steps.forward
    steps.forward = lambda: forward() + 1e-3
    assert not kernels.check(steps, "forward", "f32")["passed"]


def test_rel_err():
    reference = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert rel_err(torch.tensor([3.0, 4.0]), reference) == 0
    assert rel_err(torch.tensor([3.0, 4.5]), reference) == pytest.approx(0.1)
    assert rel_err(torch.tensor([3.0, float("nan")]), reference) == float("inf")
    assert rel_err(torch.tensor([3.0]), reference) == float("inf")


# --- whole engines -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["resnet18", "unet_digits"])
@pytest.mark.parametrize("mode", ["inference", "train"])
def test_dlperf_and_eager_pass_the_float64_check(tmp_path, model, mode):
    from dlperf.benchmarks import engines

    case = peers.Case(model, mode, "f32", 1, "cpu", 2, str(tmp_path))
    engines.prepare(case, None)
    ask_once(package_job("engines", "reference_job"), {"case": vars(case), "dtypes": ["f32"]}, 2, 300)
    for name in ("dlperf", "eager-nhwc"):
        info = ask_once(package_job("engines", "model_job"), peers.arguments(name, case), 2, 300)
        assert info["passed"], (name, info)
        assert info["tolerance"] >= ERROR_FLOOR["f32"]
    reference = torch.load(tmp_path / f"reference-{mode}.pt")
    key = "scores" if mode == "inference" else "loss"
    torch.save({**reference, key: reference[key] * 1.01}, tmp_path / f"reference-{mode}.pt")
    info = ask_once(package_job("engines", "model_job"), peers.arguments("dlperf", case), 2, 300)
    assert not info["passed"]


def test_why_not_names_the_reason():
    train = peers.Case("resnet18", "train", "f32", 8)
    assert "no train mode" in peers.why_not("onnxruntime", train)
    assert peers.why_not("eager", train) is None
    on_gpu = peers.Case("resnet18", "inference", "f32", 8, device="cuda")
    assert "cpu only" in peers.why_not("openvino", on_gpu)


def test_eager_mkl_is_a_default_peer_on_amd_alone(monkeypatch):
    monkeypatch.setattr(peers, "cpu_vendor", lambda: "AuthenticAMD")
    assert "eager-mkl" in peers.default_peers()
    assert peers.why_not("eager-mkl", peers.Case("resnet18", "train", "f32", 8)) is None
    monkeypatch.setattr(peers, "cpu_vendor", lambda: "GenuineIntel")
    assert "eager-mkl" not in peers.default_peers()
    assert "only AMD" in peers.why_not("eager-mkl", peers.Case("resnet18", "train", "f32", 8))


@pytest.mark.skipif(sys.platform != "linux", reason="the library is preloaded on Linux alone")
def test_the_library_that_unlocks_mkl_answers_yes(tmp_path):
    try:
        env = peers.unlock_mkl(tmp_path)
    except RuntimeError as error:
        pytest.skip(str(error))
    ask = "import ctypes; print(ctypes.CDLL(None).mkl_serv_intel_cpu_true())"
    answer = subprocess.run([sys.executable, "-c", ask], env={**os.environ, **env}, capture_output=True, text=True)
    assert answer.stdout.strip() == "1"


# --- the command -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model", "resnet19"], "resnet18"),
        (["--batch", "0"], "1 or more"),
        (["--batch", "many"], "--batch"),
        (["--threads", "-1"], "1 or more"),
        (["--peers", "caffe"], "openvino"),
        (["--peers", ","], "empty"),
        (["--mode", "sleep"], "inference"),
        (["--dtype", "f8"], "bf16"),
        (["sonnets"], "kernels"),
        (["--checkpoint", "x.pt"], "--model"),
        (["--checkpoint", "/no/such/file.pt", "--model", "resnet18"], "not a state_dict"),
        (["--out", "/proc/nothing/here"], "name another folder"),
        (["--device", "tpu"], "cuda"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(arguments, named, capsys):
    try:
        code = main(["bench", *arguments])
    except SystemExit as error:
        code = error.code
    printed = capsys.readouterr()
    assert code == 2
    assert printed.err.count("\n") == 1
    assert named in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--threads", "0"], ["--out", "/proc/nothing/here"]])
def test_bad_arguments_of_the_demo(arguments, capsys):
    assert main(["demo", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_checkpoint_of_another_model_is_refused(tmp_path, capsys):
    torch.save(dlperf.benchmarks.models.seeded("resnet34").state_dict(), tmp_path / "other.pt")
    assert main(["bench", "--model", "resnet18", "--checkpoint", str(tmp_path / "other.pt")]) == 2
    assert "not a state_dict of resnet18" in capsys.readouterr().err


def test_a_quick_run_has_all_models_in_both_dtypes_and_modes():
    options = suites.Options(peers=("eager", "eager-nhwc", "compile"), quick=True)
    cases = suites.model_cases(options)
    assert {case.model.partition("_")[0].rstrip("0123456789") for case in cases} == {"resnet", "vit", "unet"}
    for model in {case.model for case in cases}:
        rows = {(case.mode, case.dtype) for case in cases if case.model == model}
        assert rows == {(mode, dtype) for mode in ("inference", "train") for dtype in ("f32", "bf16")}


def test_a_quick_run_says_what_it_leaves_out():
    options = suites.Options(peers=("eager", "eager-nhwc", "compile"), quick=True)
    for case in suites.model_cases(options):
        out = {name for name in suites.model_engines(case, options) if suites.left_out(name, case, options)}
        compiled = case.model in suites.COMPILED_IN_QUICK and (case.mode, case.dtype) == ("inference", "f32")
        assert out == {"eager"} | (set() if compiled else {"compile"})
        for other in (replace(options, explicit_peers=True), replace(options, quick=False)):
            assert not any(suites.left_out(name, case, other) for name in suites.model_engines(case, other))


@pytest.mark.parametrize(("peer", "packages"), [("onnxruntime", ("onnx", "onnxscript")), ("openvino", ())])
@pytest.mark.parametrize("model", ["resnet18", "vit_tiny", "unet_digits"])
def test_optional_peers_pass_the_float64_check(tmp_path, model, peer, packages):
    from dlperf.benchmarks import engines

    for package in (peer, *packages):
        pytest.importorskip(package, reason=f"{package} is not installed")
    case = peers.Case(model, "inference", "f32", 1, "cpu", 2, str(tmp_path))
    engines.prepare(case, None)
    ask_once(package_job("engines", "reference_job"), {"case": vars(case), "dtypes": ["f32"]}, 2, 300)
    info = ask_once(package_job("engines", "model_job"), peers.arguments(peer, case), 2, 300)
    assert info["passed"], info


def test_a_run_from_end_to_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(suites, "QUICK", Plan(rounds=1, seconds=0.0))
    monkeypatch.setattr(bench, "measure_ceilings", lambda options, results, console: CEILINGS)
    arguments = ["models", "--quick", "--model", "resnet18", "--mode", "inference", "--dtype", "f32", "--batch", "1"]
    code = main(["bench", *arguments, "--peers", "eager-nhwc", "--threads", "2", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert code == 0, printed
    results = Results.load(tmp_path / "results.json")
    engines = [r.engine for r in results.rows]
    assert engines[0] == "dlperf"
    assert set(engines) - set(peers.OURS) == {"eager-nhwc"}
    assert all(r.passed and r.rounds == 1 and r.gflops > 0 for r in results.rows)
    assert any(note.startswith("Weights: random") for note in results.notes)
    assert "resnet18 inference f32 batch 1" in printed
    assert (tmp_path / "report.html").exists()


# --- tables and the GPU harness ----------------------------------------------------------------------


def test_tables_are_made_from_committed_results(tmp_path, capsys):
    source = tmp_path / "results.json"
    sample_results().save(source)
    folder, readme = tmp_path / "committed", tmp_path / "README.md"
    readme.write_text("before\n<!-- results:test-cpu/models-train -->\nold\n<!-- /results -->\nafter\n")
    assert tables.main(["--results", str(folder), "--add", str(source), "--check", str(readme)]) == 1
    assert (folder / "test-cpu" / "2026-01-02.json").exists()
    assert tables.main(["--results", str(folder), str(readme)]) == 0
    text = readme.read_text()
    assert "| resnet18 train f32 | 8 | 40.0 ms | 80.0 ms | 50.0 ms (torch.compile) | 2.00x | 1.25x |" in text
    assert "inference" not in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("<!-- /results -->\nafter\n")
    assert tables.main(["--results", str(folder), "--check", str(readme)]) == 0
    assert "bn + relu" in tables.table("test-cpu/kernels-forward", folder)


@pytest.mark.parametrize("name", ["nowhere/models", "test-cpu/poems", "public", "test-cpu/models-bf16", "scaling"])
def test_tables_without_results_are_an_error(tmp_path, name, capsys):
    sample_results().save(tmp_path / "results.json")
    tables.add(tmp_path / "results.json", None, tmp_path / "committed")
    readme = tmp_path / "README.md"
    readme.write_text(f"<!-- results:{name} -->\n<!-- /results -->\n")
    assert tables.main(["--results", str(tmp_path / "committed"), str(readme)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_newest_record_counts_and_a_gpu_check_holds_one(tmp_path):
    results = sample_results()
    results.save(tmp_path / "results.json")
    run = json.loads((tmp_path / "results.json").read_text())
    device = tmp_path / "gpu"
    device.mkdir()
    (device / "2026-01-01.json").write_text(json.dumps({"kind": "gpu-check", "bench": run}))
    (device / "2026-01-02.json").write_text(json.dumps({"kind": "gpu-check", "bench": None}))
    assert tables.latest("gpu", tmp_path) == results


def test_gpu_check_stages(tmp_path):
    stages = {stage.name: stage for stage in gpu_check.stages(tmp_path, "python3")}
    assert list(stages) == [
        *("install", "import", "check", "check-cuda", "tests", "memcheck", "racecheck"),
        *("kernels", "kernels-cuda", "bench"),
    ]
    assert {"--no-deps", "--no-build-isolation", "--target"} <= set(stages["install"].command)
    assert [name for name, stage in stages.items() if not stage.needs_gpu] == ["install", "import"]
    hangs = gpu_check.Stage("hangs", [sys.executable, "-c", "import time; time.sleep(60)"], 1, False)
    assert gpu_check.run(hangs, tmp_path)["error"] == "stopped after 1 s"
    fails = gpu_check.Stage("fails", [sys.executable, "-c", "raise SystemExit(3)"], 60, False)
    assert gpu_check.run(fails, tmp_path)["error"] == "exit code 3"
    missing = gpu_check.Stage("missing", ["/no/such/program"], 60, False)
    assert "No such file" in gpu_check.run(missing, tmp_path)["error"]


def test_gpu_check_without_a_gpu_says_so(tmp_path):
    command = [sys.executable, gpu_check.__file__, "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PATH": str(tmp_path), "GPU_CHECK_DRY": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "GPU_CHECK_DRY=1" in done.stderr
