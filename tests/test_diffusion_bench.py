"""The diffusion suite of the benchmark and the demo's second half: what they check and write, not how fast it is."""

import json

import pytest
import torch

from dlperf.benchmarks import demo_diffusion, diffusion, diffusion_jobs
from dlperf.benchmarks.results import Results, validate
from dlperf.benchmarks.timing import Measurement
from dlperf.cli import main
from dlperf.diffusion import quality

from .helpers import package
from .test_benchmarks import CEILINGS, sample_results


@pytest.fixture
def threads():
    """The jobs set the number of threads: it is put back."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.mark.parametrize("variant", diffusion.VARIANTS)
@pytest.mark.parametrize("engine", ["dlperf", "diffusers"])
def test_steps_pass_their_check(engine, variant, threads):
    package("diffusers")
    job = diffusion_jobs.StepJob(engine, variant, [3, 3, 8, 8], threads)
    assert job.info["passed"], job.info
    assert job.step().shape == (3, 3, 8, 8)


def test_a_wrong_step_fails_its_check(threads, monkeypatch):
    for variant in diffusion.VARIANTS:
        monkeypatch.setattr(diffusion_jobs.StepJob, "plain", lambda job: job.x * 0.5)
        assert not diffusion_jobs.StepJob("dlperf", variant, [3, 3, 8, 8], threads).info["passed"]


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
@pytest.mark.parametrize("engine", ["dlperf", "diffusers"])
def test_loops_pass_their_check(engine, scheduler, threads):
    package("diffusers")
    job = diffusion_jobs.SamplingJob(engine, "unet_digits", scheduler, 3, 2, threads)
    assert job.info["passed"] and 0 < job.info["rel_err"] < diffusion_jobs.SAMPLES_TOLERANCE
    assert job.step().shape == (2, 1, 8, 8)


@pytest.mark.parametrize("engine", ["dlperf", "eager-nhwc"])
def test_training_passes_its_check(engine, threads):
    job = diffusion_jobs.TrainJob(engine, "unet_digits", 4, threads)
    assert job.info["passed"], job.info
    before = job.run.model.conv_in.weight.clone()
    job.step()
    assert not torch.equal(before, job.run.model.conv_in.weight)


@pytest.mark.parametrize("model", diffusion_jobs.LATENT)
def test_latent_diffusion_passes_its_check(model, threads):
    package("diffusers")
    job = diffusion_jobs.LatentJob("dlperf", model, 1, threads)
    assert job.info["passed"] and job.info["flops"] > 1e9


def _results() -> Results:
    results = sample_results()
    for case in diffusion.cases(quick=True):
        measurements = []
        for i, engine in enumerate(case.engines):
            info = {"rel_err": 1e-7, "tolerance": 1e-5, "passed": True, "flops": 10**9}
            measurements.append(Measurement(engine, [1.0 + i], info))
        results.rows += diffusion.rows_of(case, measurements, CEILINGS)
    failed = Measurement("diffusers", error="diffusers not installed")
    results.rows += diffusion.rows_of(diffusion.cases(quick=True)[0], [failed], CEILINGS)
    return results


def test_tables_say_what_was_measured(tmp_path):
    results = _results()
    results.save(tmp_path / "r.json")
    assert validate(json.loads((tmp_path / "r.json").read_text())) == []
    text = diffusion.markdown(Results.load(tmp_path / "r.json"))
    # 64 pictures of 3x32x32 read twice and written once in a millisecond: 2.36 GB/s of 10; 0.2e9 normals a second
    assert "| ddpm/3x32x32 | 64 | 1000 | 2.4 | 24% | 0.20 | 2.0x | 3.0x |" in text
    assert "| ddim/3x32x32 | 64 | 1000 | 2.4 | 24% |  | 2.0x | 3.0x |" in text
    assert "| unet_digits/ddim-50 | 64 | 1.0 | 64000.00 |" in text
    assert diffusion.errors(results) == ["  ddim/3x32x32 batch 64, diffusers: diffusers not installed"]


def test_bytes_of_a_step_are_its_tensors():
    by_name = {(case.name, case.batch): case for case in diffusion.cases(quick=False)}
    assert by_name["ddim-noise/4x128x128", 256].cost == (0, 4 * 64 * 2**20)
    assert len(by_name) == len(diffusion.cases(quick=False))


def test_the_suite_is_of_the_cpu(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert main(["bench", "diffusion", "--device", "cuda"]) == 2
    assert "diffusion measures the CPU" in capsys.readouterr().err


# --- the demo -------------------------------------------------------------------------------------


def test_the_demo_of_diffusion(tmp_path, monkeypatch, threads):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    pytest.importorskip("matplotlib", reason="the figures are drawn with matplotlib")
    monkeypatch.setattr(demo_diffusion, "SAMPLES", {"shipped": 100, "trained": 20})
    names = {"dlperf": "dlperf.nn", "torch": "torch.nn"}
    said = []
    record = demo_diffusion.run(names, tmp_path, tmp_path, threads, 3, 0, said.append)
    assert {path.name for path in tmp_path.iterdir()} >= set(demo_diffusion.WRITTEN)
    assert record["shipped"]["recognised"] >= quality.WANTED_SHARE
    ours, torchs = record["runs"]["dlperf"], record["runs"]["torch"]
    assert len(ours["losses"]) == 3
    # the same weights, batches and noise
    torch.testing.assert_close(torch.tensor(ours["losses"]), torch.tensor(torchs["losses"]), rtol=1e-3, atol=1e-3)
    assert ours["frechet_distance"] > 10 * record["shipped"]["frechet_distance"]  # three steps teach nothing
    assert not demo_diffusion.passed(record)
    assert len(demo_diffusion.lines(record, {"dlperf": "ours", "torch": "torch's"})) == 4
    record["runs"]["torch"] = {"losses": [], "error": "it died"}
    assert "torch's: it died" in demo_diffusion.lines(record, {"dlperf": "ours", "torch": "torch's"})
