"""The suites public, scaling and memory: their cases, their rows, what is drawn and printed of them."""

import re
from dataclasses import replace

import pytest
import torch

from dlperf.benchmarks import bench, diffusion, layers, peers, scaling, suites, tables, totals
from dlperf.benchmarks.console import Console
from dlperf.benchmarks.models import MODELS, PUBLIC, find
from dlperf.benchmarks.printed import print_tables
from dlperf.benchmarks.public_models import Missing
from dlperf.benchmarks.results import Results, row_from
from dlperf.benchmarks.timing import Measurement, Plan, ask_once, package_job
from dlperf.cli import main

from .test_benchmarks import CEILINGS, sample_results

ALL_PEERS = tuple(peers.PEERS)


def made(name: str) -> torch.nn.Module:
    try:
        return find(name).build(torch.nn).eval()
    except Missing as reason:
        pytest.skip(str(reason))


# --- models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLIC)
def test_public_models_take_their_inputs(name):
    model = made(name)
    (inputs, what) = PUBLIC[name].inputs(1)
    assert what
    with torch.no_grad():
        y = model(*inputs)
    assert y.shape[0] == 1
    assert y.isfinite().all()


# Published multiply-adds of one 224x224 picture, in 1e9.
@pytest.mark.parametrize(
    ("name", "gmacs", "within"),
    [
        ("timm_resnet18", 1.81, 0.01),
        ("timm_vgg16", 15.47, 0.01),
        ("timm_mobilenetv3", 0.22, 0.01),
        ("timm_efficientnet_b0", 0.39, 0.01),
        ("timm_convnext_tiny", 4.46, 0.01),
    ],
)
def test_operations_of_public_models(name, gmacs, within):
    made(name)
    flops, moved = layers.model_cost(name, 1, "inference", 4)
    assert flops / 2e9 == pytest.approx(gmacs, abs=within)
    assert layers.model_cost(name, 3, "inference", 4)[0] == 3 * flops
    assert moved > 4 * sum(p.numel() for p in made(name).parameters())


def test_operations_of_an_lstm_are_its_products():
    flops, _ = layers.model_cost("torch_lstm", 1, "inference", 4)
    per_step = 4 * 512 * ((256 + 512) + (512 + 512))
    assert flops == 2 * (128 * per_step + 512 * 1000)


def test_a_model_of_another_size():
    assert find("resnet18@160").inputs(2)[0][0].shape == (2, 3, 160, 160)
    assert find("vit_tiny@160").build(torch.nn).pos_embed.shape[1] == 101
    assert find("resnet18") is MODELS["resnet18"]
    small, large = (layers.model_cost(f"resnet18@{n}", 1, "inference", 4)[0] for n in (160, 320))
    assert 3.9 < large / small < 4  # but for the last layer


# --- cases -------------------------------------------------------------------------------------------


def test_full_runs_cover_what_is_promised():
    options = suites.Options(peers=ALL_PEERS, threads=2)
    assert {c.model for c in suites.public_cases(options)} == set(PUBLIC)
    cases = suites.sorted_cases("scaling", options)
    values = {axis: {c.value for c in cases if c.axis == axis} for axis in ("batch", "resolution", "threads")}
    assert {1, 64} <= values["batch"]
    assert {160, 384} <= values["resolution"]
    assert values["threads"] == {1, 2}
    lengths = {c.value for c in scaling.attention_cases(options)}
    assert {197, 4096} <= lengths
    kinds = {c.model.partition("_")[0].rstrip("0123456789@") for c in suites.memory_cases(options)}
    assert kinds == {"resnet", "vit", "unet"}


@pytest.mark.parametrize("suite", suites.SUITES)
def test_a_quick_run_is_no_larger(suite):
    full, quick = (suites.Options(suites=(suite,), peers=ALL_PEERS, threads=2, quick=q) for q in (False, True))
    counts = [len(suites.CASES[suite](o)) if suite in suites.CASES else 0 for o in (full, quick)]
    counts = [n + len(suites.layer_cases(suite, o)) for n, o in zip(counts, (full, quick), strict=True)]
    if suite == "diffusion":
        counts = [len(diffusion.cases(o.quick)) for o in (full, quick)]
    assert 0 < counts[1] <= counts[0]
    assert suites.steps(quick) <= suites.steps(full)


def test_cases_of_one_reference_come_together():
    options = suites.Options(peers=ALL_PEERS, threads=2)
    seen = []
    for case in suites.sorted_cases("scaling", options):
        group = suites.group_of(case)
        if not seen or seen[-1] != group:
            assert group not in seen
            seen.append(group)


@pytest.mark.parametrize(("most", "counts"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))])
def test_thread_counts(most, counts):
    assert scaling.thread_counts(most) == counts


def test_engines_of_a_public_model():
    case = peers.Case("timm_resnet18", "inference", "f32", 1, suite="public")
    assert "dlperf.optimize" in peers.why_not("dlperf", case)
    engines = suites.model_engines(case, suites.Options(peers=("eager", "eager-nhwc")))
    assert engines == ["dlperf-optimize", "eager", "eager-nhwc"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["public", "--model", "resnet18"], "timm_resnet18"),
        (["models", "--model", "timm_resnet18"], "resnet18"),
        (["public", "--mode", "train"], "inference"),
        (["memory", "--device", "cuda"], "cuda"),
    ],
)
def test_bad_arguments(arguments, named, capsys):
    assert main(["bench", *arguments]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert named in printed


# --- rows --------------------------------------------------------------------------------------------


def results_of_all_suites() -> Results:
    results = sample_results()
    options = suites.Options(peers=("eager-nhwc",), threads=2, quick=True, models=())
    cases = [case for suite in ("public", "scaling", "memory") for case in suites.CASES[suite](options)]
    cases += suites.layer_cases("scaling", options)
    for case in cases:
        for engine, ms in (("dlperf-optimize", 5.0), ("eager-nhwc", 10.0)):
            fields = case.row_fields
            info = {"rel_err": 1e-6, "tolerance": 1e-4, "passed": True}
            measurement = Measurement(engine, [ms * max(1, fields["value"])] * 3, info, peak_mem_mb=321.0)
            results.rows.append(row_from(measurement, fields, (10**9, 10**7), CEILINGS, "flops"))
    return results


def test_rows_survive_a_round_trip_and_differ(tmp_path):
    results = results_of_all_suites()
    results.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == results
    assert len({row.key for row in results.rows}) == len(results.rows)


def test_everything_is_drawn_and_printed(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    from dlperf.benchmarks import charts, report

    results = results_of_all_suites()
    pictures = charts.write_all(results, tmp_path)
    wanted = {"public", "memory", "share-f32", *(f"growth-{axis}" for axis in scaling.AXES)}
    assert wanted <= {path.stem for path in pictures}
    html = report.write(results, pictures, tmp_path / "report.html").read_text()
    assert len(re.findall(r'src="data:image/png;base64,', html)) == len(pictures)
    assert "ms against resolution" in html
    print_tables(results, Console())
    printed = capsys.readouterr().out
    for text in ("Peak memory: resnet18", "Scaling: attention forward", "timm_mobilenetv3 inference", "321"):
        assert text in printed


def test_totals_count_every_use():
    results = sample_results()
    results.rows = []
    uses = layers.distinct(layers.model_layers("resnet18", 8))
    for use in uses:
        fields = {"suite": "kernels", "name": f"resnet18/{use.name}", "mode": "forward", "dtype": "f32", "batch": 8}
        for engine, ms in (("dlperf", 1.0), ("eager-nhwc", 3.0)):
            measurement = Measurement(engine, [ms], {"passed": True})
            made_row = row_from(measurement, {**fields, "repeats": use.repeats}, (1, 1), CEILINGS, "flops")
            results.rows.append(made_row)
    (total,) = totals.model_totals(results)
    run = sum(use.repeats for use in uses)
    assert (total.layers, total.ours_ms, total.torch_ms, total.speedup) == (run, run, 3 * run, 3.0)
    results.rows[0].passed = False
    assert totals.model_totals(results) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("public", "| timm_mobilenetv3 inference f32 | 1 | 5.0 ms | 10.0 ms |"),
        ("memory-train", "| resnet18 train f32 | 4 | 321 MB | 321 MB |"),
        ("scaling-threads", "| resnet18 inference f32 | torch eager, channels_last | 10.0 ms | 20.0 ms |"),
        ("scaling-sequence-backward", "| attention backward f32 | dlperf.optimize | 985.0 ms |"),
        ("ceilings", "| for comparison: torch.matmul, float32 | 90 GFLOP/s |"),
        ("kernels-forward", "| resnet18/conv1 | conv 7x7 | forward f32 |"),
    ],
)
def test_tables_of_every_suite(tmp_path, name, line):
    results = results_of_all_suites()
    results.machine["ceilings"] = {**CEILINGS, "loops": {"avx2": {"f32": 100.0}}, "bandwidth": {"copy": 10.0}}
    results.save(tmp_path / "results.json")
    filed = tables.add(tmp_path / "results.json", None, tmp_path / "committed")
    assert filed.name == "2026-01-02.json"
    assert line in tables.table(name, tmp_path / "committed")


def test_a_run_of_other_suites_does_not_replace_the_days_plain_run(tmp_path):
    results, folder = results_of_all_suites(), tmp_path / "committed"
    for suites_kept in ({"models", "kernels"}, {"scaling", "memory"}):
        part = replace(results, rows=[row for row in results.rows if row.suite in suites_kept])
        part.save(tmp_path / "results.json")
        tables.add(tmp_path / "results.json", None, folder)
    assert {path.name for path in folder.glob("*/*.json")} == {"2026-01-02.json", "2026-01-02-scaling-memory.json"}
    assert "resnet18 train" in tables.table("models", folder)
    assert "MB" in tables.table("memory", folder)


# --- runs --------------------------------------------------------------------------------------------


def test_a_planned_layer_passes_its_check():
    layer = next(layer for _, layer in layers.model_layers("resnet18", 1) if layer.kind == "conv2d")
    arguments = {"layer": vars(layer), "mode": "forward", "dtype": "f32", "threads": 2}
    info = ask_once(package_job("kernels", "kernel_job"), {"engine": "dlperf-optimize", **arguments}, 2, 300)
    assert info["passed"], info


@pytest.mark.parametrize("suite", ["public", "scaling", "memory"])
def test_a_suite_from_end_to_end(suite, tmp_path, capsys, monkeypatch):
    plan = Plan(rounds=1, seconds=0.0, most=1)
    monkeypatch.setattr(suites, "QUICK", plan)
    monkeypatch.setattr(suites, "QUICK_KERNELS", plan)
    monkeypatch.setattr(scaling, "QUICK", plan)
    monkeypatch.setattr(scaling, "QUICK_BATCHES", (1, 2))
    monkeypatch.setattr(scaling, "QUICK_SEQUENCES", (16, 32))
    monkeypatch.setattr(bench, "measure_ceilings", lambda options, results, console: CEILINGS)
    model = "torch_lstm" if suite == "public" else "resnet18"
    arguments = [suite, "--quick", "--model", model, "--peers", "eager-nhwc", "--threads", "2", "--out", str(tmp_path)]
    if suite == "memory":
        arguments += ["--mode", "inference", "--batch", "1"]
    code = main(["bench", *arguments])
    printed = capsys.readouterr().out
    assert code == 0, printed
    results = Results.load(tmp_path / "results.json")
    assert {r.suite for r in results.rows} == {suite}
    assert all(r.passed for r in results.rows)
    if suite == "scaling":
        assert {r.axis for r in results.rows} == set(scaling.AXES)
    if suite == "memory":
        assert all(r.peak_mem_mb > 50 for r in results.rows)
