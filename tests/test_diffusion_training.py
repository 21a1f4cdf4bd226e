"""Training that resumes bit for bit, checkpoints that nothing breaks, readers, sampling, and the shipped digits."""

import errno
import gzip
import os
import pickle
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import dlperf
from dlperf.cli import main
from dlperf.diffusion import DDIMScheduler, checkpoint, data, models, sample
from dlperf.diffusion.train import TrainConfig, Trainer, TrainingError

PIL = pytest.importorskip("PIL.Image", reason="pictures are written with Pillow")
TINY = {"kind": "unet", "widths": [8, 8], "depth": 1, "attention": [1], "groups": 4, "channels": 1, "classes": 3}
TINY_DIT = {"kind": "dit", "size": 8, "patch": 4, "width": 16, "depth": 1, "heads": 2, "channels": 1, "classes": 3}


def _pictures(count: int = 40) -> data.Pictures:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=draw, dtype=torch.uint8)
    return data.Pictures("made", images, torch.arange(count) % 3, ("a", "b", "c"))


def _trainer(**changes) -> Trainer:
    return Trainer(TrainConfig(**({"model": TINY, "batch": 8, "warmup": 2} | changes)), _pictures())


def _steps(run: Trainer, count: int) -> Trainer:
    for _ in range(count):
        run.step()
    return run


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"amp": True}, {"model": TINY_DIT}, {"model": TINY | {"classes": 0}}])
def test_resumes_bit_for_bit(changes, tmp_path):
    whole = _steps(_trainer(**changes), 9)
    _steps(_trainer(**changes), 4).save(tmp_path / "c.safetensors")
    resumed = _steps(Trainer.resume(tmp_path / "c.safetensors", _pictures()), 5)
    assert resumed.losses == whole.losses and resumed.step_count == 9
    for (name, a), b in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for name in whole.ema:
        assert torch.equal(whole.ema[name], resumed.ema[name]), name


def test_the_loss_falls_on_real_digits():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    config = TrainConfig(TINY | {"classes": 10, "widths": [16, 16]}, batch=32, warmup=5, lr=4e-3)
    run = _steps(Trainer(config, data.read("digits")), 60)
    assert np.mean(run.losses[-10:]) < 0.6 * np.mean(run.losses[:5])


def test_a_loss_that_is_no_number_stops_before_it_spreads():
    run = _steps(_trainer(), 1)
    with torch.no_grad():
        run.model.conv_out.bias.fill_(float("nan"))
    before = run.model.conv_in.weight.clone()
    with pytest.raises(TrainingError, match="step 1"):
        run.step()
    assert torch.equal(run.model.conv_in.weight, before) and run.step_count == 1


def test_batches_are_the_steps_own():
    a, b = _trainer(), _trainer()
    _steps(a, 2)
    for x, y in zip(a.batch(7), b.batch(7), strict=True):
        assert torch.equal(x, y)
    assert not torch.equal(a.batch(7)[1], a.batch(8)[1])
    rows = torch.cat([a.batch(i)[0] for i in range(5)])  # one epoch: every picture once
    assert len(rows.flatten(1).unique(dim=0)) == 40


# --- checkpoints ----------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"a": torch.ones(3)}, {"step": 1})

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(path, {"a": torch.zeros(3)}, {"step": 2})
    tensors, info = checkpoint.load(path)
    assert info["step"] == 1 and torch.equal(tensors["a"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "c.safetensors"
    code = (
        "import sys, torch; from dlperf.diffusion import checkpoint\n"
        "for i in range(10**6): checkpoint.save(sys.argv[1], {'a': torch.full((2000000,), float(i))}, {'step': i})\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, path])
    try:
        for _ in range(600):
            if path.exists() or worker.poll() is not None:
                break
            time.sleep(0.1)
        time.sleep(0.123)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    tensors, info = checkpoint.load(path)
    assert bool((tensors["a"] == info["step"]).all())
    checkpoint.remove_leftovers(path)
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "no such file"),
        (b"", "truncated"),
        (b"not a checkpoint at all", "truncated"),
        ("half", "truncated"),
        ("foreign", "not of dlperf"),
    ],
)
def test_a_broken_checkpoint_is_named(tmp_path, content, words):
    from safetensors.torch import save_file

    path = tmp_path / "c.safetensors"
    if content == "foreign":
        save_file({"a": torch.ones(2)}, path)
    elif content == "half":
        checkpoint.save(path, {"a": torch.ones(1000)}, {})
        path.write_bytes(path.read_bytes()[:2000])
    elif content is not None:
        path.write_bytes(content)
    for load in (checkpoint.load, models.load_model, lambda p: Trainer.resume(p, _pictures())):
        with pytest.raises(checkpoint.CheckpointError, match=words) as raised:
            load(path)
        assert str(path) in str(raised.value)


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    run = _trainer()
    run.save(tmp_path / "c.safetensors")
    run.export(tmp_path / "m.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match="trained on"):
        Trainer.resume(tmp_path / "c.safetensors", _pictures(50))
    with pytest.raises(checkpoint.CheckpointError, match="sampling alone"):
        Trainer.resume(tmp_path / "m.safetensors", _pictures())
    tensors, info = checkpoint.load(tmp_path / "m.safetensors")
    info["model"]["widths"] = [8, 16]
    checkpoint.save(tmp_path / "m.safetensors", tensors, info)
    with pytest.raises(checkpoint.CheckpointError, match="do not fit"):
        models.load_model(tmp_path / "m.safetensors")


def test_ctrl_c_saves_and_the_run_goes_on(tmp_path):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    command = [sys.executable, "-m", "dlperf.cli", "train-ddpm", "--out", tmp_path, "--batch", "4", "--save-every", "1"]

    def as_in_a_terminal():  # a run in the background starts with this signal ignored, and so do its children
        signal.signal(signal.SIGINT, signal.default_int_handler)

    worker = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=as_in_a_terminal
    )
    path = tmp_path / "checkpoint.safetensors"
    try:
        for _ in range(600):
            if path.exists() or worker.poll() is not None:
                break
            time.sleep(0.1)
        worker.send_signal(signal.SIGINT)
        printed = worker.communicate(timeout=120)[0]
    finally:
        worker.kill()
    assert worker.returncode == 130, printed
    assert "Traceback" not in printed
    run = Trainer.resume(path, data.read("digits"))
    assert run.step_count == len(run.losses) >= 1


DIT_COMMAND = ["train-ddpm", "--model", "dit", "--batch", "4", "--save-every", "1", "--steps"]


def test_a_killed_run_resumes_to_the_same_losses(tmp_path):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    pytest.importorskip("matplotlib", reason="the losses are drawn with matplotlib")
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}

    def command(steps: int, name: str) -> list[str]:
        return [sys.executable, "-m", "dlperf.cli", *DIT_COMMAND, str(steps), "--out", str(tmp_path / name)]

    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    worker = subprocess.Popen(command(100_000, "killed"), **quiet)
    path = tmp_path / "killed" / "checkpoint.safetensors"
    try:
        for _ in range(600):
            if path.exists() or worker.poll() is not None:
                break
            time.sleep(0.1)
        time.sleep(0.35)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    steps = checkpoint.load(path)[1]["step"] + 2
    for name in ("killed", "whole"):
        assert subprocess.run(command(steps, name), **quiet).returncode == 0
    killed, whole = (checkpoint.load(tmp_path / name / "checkpoint.safetensors")[0] for name in ("killed", "whole"))
    assert len(whole["losses"]) == steps and killed.keys() == whole.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, killed[name]), name


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    pytest.importorskip("matplotlib", reason="the losses are drawn with matplotlib")
    command = [*DIT_COMMAND, "4", "--out", str(tmp_path)]
    written, flush = [], os.fsync

    def full(handle):
        written.append(handle)
        if len(written) > 4:  # a checkpoint flushes its file and its folder
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main(command) == 1
    assert "No space left" in capsys.readouterr().err
    assert checkpoint.load(tmp_path / "checkpoint.safetensors")[1]["step"] == 2
    assert main(command) == 0
    assert checkpoint.load(tmp_path / "checkpoint.safetensors")[1]["step"] == 4


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    loss = Trainer.loss
    monkeypatch.setattr(Trainer, "loss", lambda run, step: loss(run, step) * (float("inf") if step == 3 else 1.0))
    assert main([*DIT_COMMAND, "9", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().err
    assert "step 3" in printed and len(printed.strip().splitlines()) == 1
    tensors, info = checkpoint.load(tmp_path / "checkpoint.safetensors")
    assert info["step"] == 3 and all(bool(t.isfinite().all()) for t in tensors.values())


# --- readers --------------------------------------------------------------------------------------


def _write_idx(path, array):
    content = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_reads_mnist(tmp_path, ending):
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    labels = np.array([3, 1, 4, 1, 5, 9, 2], np.uint8)
    _write_idx(tmp_path / f"train-images-idx3-ubyte{ending}", images)
    _write_idx(tmp_path / f"train-labels-idx1-ubyte{ending}", labels)
    found = data.read(tmp_path)
    assert found.name == "mnist" and np.array_equal(found.images[:, 0].numpy(), images)
    assert found.labels.tolist() == labels.tolist() and len(found.classes) == 10
    assert found.batch(torch.tensor([2])).min() >= -1 and found.batch(torch.arange(7)).max() <= 1


def test_broken_mnist_is_named(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    _write_idx(path, np.zeros((3, 28, 28), np.uint8))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(data.DataError, match=r"train-images-idx3-ubyte: expected .* truncated"):
        data.read(tmp_path)
    path.write_bytes(b"\0\0\x0d\x03" + bytes(40))
    with pytest.raises(data.DataError, match="no idx file"):
        data.read(tmp_path)


@pytest.mark.parametrize("kind", ["binary", "python"])
def test_reads_cifar10(tmp_path, kind):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (2, 4, 3072), dtype=np.uint8)
    labels = random.integers(0, 10, (2, 4), dtype=np.uint8)
    for i in range(2):
        if kind == "binary":
            rows = np.concatenate([labels[i][:, None], pixels[i]], 1)
            (tmp_path / f"data_batch_{i + 1}.bin").write_bytes(rows.tobytes())
        else:
            content = pickle.dumps({b"data": pixels[i], b"labels": labels[i].tolist()}, protocol=2)
            (tmp_path / f"data_batch_{i + 1}").write_bytes(content)
    found = data.read(tmp_path)
    assert found.name == "cifar10" and found.images.shape == (8, 3, 32, 32) and found.classes[3] == "cat"
    assert np.array_equal(found.images.numpy(), pixels.reshape(8, 3, 32, 32))
    assert found.labels.tolist() == labels.flatten().tolist()


class _Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": _Harm()}))
    with pytest.raises(data.DataError, match=r"data_batch_1.*mkdir"):
        data.read(tmp_path)
    assert not (tmp_path / "harm").exists()


def _write_images(folder, modes=("RGB", "L")):
    for i, name in enumerate(("cats", "dogs")):
        (folder / name).mkdir()
        for j in range(3):
            shade = 40 * (3 * i + j)
            PIL.new(modes[i], (20 + j, 14), shade if modes[i] == "L" else (shade, 0, 255)).save(
                folder / name / f"{j}.png"
            )


def test_reads_a_folder_of_images(tmp_path):
    _write_images(tmp_path)
    (tmp_path / "cats" / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    found = data.read(tmp_path, size=8)
    assert found.images.shape == (6, 3, 8, 8) and found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.classes == ("cats", "dogs")
    assert found.images[1, :, 4, 4].tolist() == [40, 0, 255] and found.images[5, :, 4, 4].tolist() == [200] * 3
    assert [p.name for p, _ in found.skipped] == ["broken.jpg"]
    with pytest.raises(data.DataError, match=r"broken\.jpg"):
        data.read(tmp_path, size=8, strict=True)


def test_grey_images_have_one_channel(tmp_path):
    _write_images(tmp_path, ("L", "L"))
    assert data.read(tmp_path).images.shape == (6, 1, 32, 32)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(data.DataError, match="no images"):
        data.read(tmp_path)
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(data.DataError, match="none of its 1"):
        data.read(tmp_path)


# --- sampling -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return dlperf.optimize(models.build(TINY), mode="inference")


@pytest.mark.parametrize("scheduler, guidance", [("ddim", 3.0), ("ddpm", 1.0), ("dpm", 3.0)])
def test_a_sample_does_not_depend_on_its_batch(tiny, scheduler, guidance):
    labels = [0, 1, 2, 0, 1]
    common = {"steps": 5, "scheduler": scheduler, "guidance_scale": guidance, "seed": 4, "progress": False}
    whole = sample(tiny, (5, 1, 8, 8), class_labels=labels, **common)
    part = sample(tiny, (2, 1, 8, 8), class_labels=labels[3:], first_sample=3, **common)
    torch.testing.assert_close(whole[3:], part, rtol=1e-4, atol=1e-4)
    other = sample(tiny, (5, 1, 8, 8), class_labels=labels, **common | {"seed": 5})
    assert (whole - other).abs().max() > 0.1


def test_50_steps_of_ddim_are_deterministic(tiny):
    found = [sample(tiny, (3, 1, 8, 8), 50, class_labels=[0, 1, 2], seed=1, progress=False) for _ in range(2)]
    assert torch.equal(*found) and found[0].abs().max() <= 1.01


def test_the_loop_is_the_schedulers_steps(tiny):
    labels, states = torch.tensor([2, 0]), []
    got = sample(
        tiny, (2, 1, 8, 8), 4, DDIMScheduler(), 2.0, labels, progress=False, on_step=lambda i, x: states.append(x)
    )
    assert len(states) == 4 and states[-1] is got
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(4)
    x = states[0].clone()
    for t in scheduler.timesteps[1:]:
        times = t.expand(2)
        with torch.no_grad():
            cond, uncond = tiny(x, times, labels), tiny(x, times)
        mixed = uncond + 2 * (cond - uncond)
        x = scheduler.step(mixed, t, x, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(got, x, rtol=1e-3, atol=1e-4)


def test_dit_samples():
    torch.manual_seed(0)
    x = sample(models.build(TINY_DIT).eval(), (2, 1, 8, 8), 3, class_labels=[0, 1], guidance_scale=2.0, progress=False)
    assert x.shape == (2, 1, 8, 8) and bool(x.isfinite().all())


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"scheduler": "euler"}, ValueError, "'scheduler'"),
        ({"scheduler": object()}, TypeError, "'scheduler'"),
        ({"guidance_scale": 2.0}, ValueError, "'class_labels'"),
        ({"class_labels": [0, 1, 2]}, ValueError, "'class_labels'"),
        ({"class_labels": [0, 4]}, ValueError, "'class_labels'"),
        ({"class_labels": [0.5, 1.0]}, ValueError, "'class_labels'"),
        ({"shape": (0, 1, 8, 8)}, ValueError, "'shape'"),
        ({"steps": 0}, ValueError, "'num_inference_steps'"),
        ({"seed": 1.5}, TypeError, "'seed'"),
        ({"cuda_graph": True}, ValueError, "'device'"),
    ],
)
def test_bad_arguments(tiny, arguments, error, words):
    with pytest.raises(error, match=words):
        sample(tiny, **({"shape": (2, 1, 8, 8), "progress": False} | arguments))


def test_guidance_needs_a_model_with_classes():
    with pytest.raises(ValueError, match="null_label"):
        sample(
            models.build(TINY | {"classes": 0}), (1, 1, 8, 8), 2, guidance_scale=2.0, class_labels=[0], progress=False
        )


# --- the command line -----------------------------------------------------------------------------


def test_sample_writes_a_grid_and_the_path(tmp_path, capsys):
    _trainer().export(tmp_path / "m.safetensors")
    out = tmp_path / "new" / "grid.png"
    command = ["sample", str(tmp_path / "m.safetensors"), "--n", "6", "--steps", "4", "--out", str(out)]
    assert main(command) == 0
    with PIL.open(out) as image, PIL.open(out.with_suffix(".gif")) as moving:
        assert image.size == (3 * 50 + 2, 2 * 50 + 2) and moving.n_frames == 4
    first = out.read_bytes()
    assert main([*command, "--path", str(tmp_path / "strip.png")]) == 0
    assert out.read_bytes() == first and (tmp_path / "strip.png").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["sample", "nowhere.safetensors"], "no such file"),
        (["sample", "--out", "grid.txt"], "--out"),
        (["sample", "--label", "eleven"], "--label"),
        (["sample", "--steps", "5000"], "'num_inference_steps'"),
        (["train-ddpm", "--data", "nowhere"], "nowhere"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert words in printed and len(printed.strip().splitlines()) == 1


def test_pictures_that_cannot_be_read_are_counted_or_refused(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the losses are drawn with matplotlib")
    folder = tmp_path / "pictures"
    folder.mkdir()
    _write_images(folder)
    for i in range(7):
        (folder / "dogs" / f"broken{i}.png").write_bytes(b"no picture")
    command = ["train-ddpm", "--data", str(folder), "--size", "8", "--batch", "2", "--steps", "1", "--out"]
    assert main([*command, str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "broken0.png" in printed and "7 images can't be read and were skipped" in printed
    assert main([*command, str(tmp_path / "strict"), "--strict"]) == 2
    assert "broken0.png" in capsys.readouterr().err and not (tmp_path / "strict").exists()


def test_guidance_without_classes_is_refused(tmp_path, capsys):
    _trainer(model=TINY | {"classes": 0}).export(tmp_path / "m.safetensors")
    command = ["sample", str(tmp_path / "m.safetensors"), "--out", str(tmp_path / "grid.png"), "--guidance", "2"]
    assert main(command) == 2
    assert "--guidance 2.0: the checkpoint's model has no classes" in capsys.readouterr().err
    assert main([*command[:-2], "--label", "3"]) == 2


def test_training_from_the_command_line_resumes(tmp_path, capsys):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    pytest.importorskip("matplotlib", reason="the losses are drawn with matplotlib")
    command = ["train-ddpm", "--out", str(tmp_path), "--batch", "4", "--model", "dit", "--steps"]
    assert main([*command, "2"]) == 0
    assert main([*command, "3"]) == 0
    assert "resumed from step 2" in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {
        "checkpoint.safetensors",
        "model.safetensors",
        "loss.png",
        "samples-000002.png",
        "samples-000003.png",
    }
    assert main(["train-ddpm", "--out", str(tmp_path), "--batch", "5"]) == 2


# --- the digits that ship -------------------------------------------------------------------------


def test_the_shipped_digits_are_recognised():
    pytest.importorskip("sklearn", reason="the classifier is scikit-learn's")
    from dlperf.diffusion import quality

    assert models.SHIPPED.stat().st_size < 6_000_000
    judge = quality.judge()
    assert judge.held_out > 0.97
    x, labels = quality.sampled_digits(200)
    assert judge.share(x, labels) >= quality.WANTED_SHARE
    assert judge.distance(x) < 10 * judge.distance_of_halves() < judge.distance(torch.randn_like(x)) / 10


@pytest.mark.parametrize("scheduler, steps", [("ddim", 50), ("dpm", 50), ("ddpm", 200)])
def test_guided_digits_are_recognised(scheduler, steps):
    pytest.importorskip("sklearn", reason="the classifier is scikit-learn's")
    from dlperf.diffusion import quality
    from dlperf.diffusion.sampling import SCHEDULERS

    model, info = models.load_model()
    labels = torch.arange(40) % 10
    scheduler = SCHEDULERS[scheduler].from_config(info["schedule"])
    x = sample(model, (40, 1, 8, 8), steps, scheduler, 3.0, labels, progress=False)
    assert quality.judge().share(x, labels) >= quality.WANTED_SHARE


def test_frechet_distance_of_known_distributions():
    from dlperf.diffusion.quality import frechet_distance

    a = np.random.default_rng(0).standard_normal((4000, 3))
    a = (a - a.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(a, rowvar=False))).T  # exactly N(0, 1)
    assert abs(frechet_distance(a, a)) < 1e-9
    assert abs(frechet_distance(a, a + [3, 0, 4]) - 25) < 1e-9
    assert abs(frechet_distance(a, 3 * a) - 3 * (3 - 1) ** 2) < 1e-9  # trace (S1 - S2)^2 of commuting roots
