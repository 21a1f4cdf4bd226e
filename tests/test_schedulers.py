"""The schedulers against diffusers' own, their noise, and what they refuse."""

import json

import numpy as np
import pytest
import torch

from dlperf import backends
from dlperf.diffusion import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    schedules,
)
from dlperf.diffusion import functional as D

from .helpers import package

OURS = {c.__name__: c for c in (DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler)}
SHAPE = (2, 4, 8, 8)


@pytest.fixture(scope="module")
def diffusers():
    return package("diffusers")


def _generator(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _exact(scheduler):
    """diffusers' scheduler with its float32 tables carried in float64, so that its arithmetic is exact."""
    for name in ("alphas_cumprod", "one", "final_alpha_cumprod", "sigmas"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, getattr(scheduler, name).double())
    return scheduler


def _loop(scheduler, steps: int, dtype=torch.float64, exact=False, shape=SHAPE, **arguments):
    """A whole run with a stand-in for the network, which answers to x and t."""
    scheduler.set_timesteps(steps)
    if exact:
        _exact(scheduler)
    x = torch.randn(shape, generator=_generator(1), dtype=dtype)
    generator, path = _generator(2), []
    for t in scheduler.timesteps:
        m = torch.tanh(1.3 * x.roll(1, -1)) * (0.5 + t / 1000)
        if scheduler.config.get("variance_type") in ("learned", "learned_range"):
            m = torch.cat([m, 0.1 + 0.2 * x.sigmoid()], 1)
        out = scheduler.step(m, t, x, generator=generator, **arguments)
        x = out.prev_sample.to(dtype)
        path.append(x)
    return path


def _pair(diffusers, name: str, **config):
    return OURS[name](**config), getattr(diffusers, name)(**config)


CONFIGS = [
    ("DDPMScheduler", {}, {}),
    ("DDPMScheduler", {"variance_type": "fixed_large", "steps_offset": 1}, {}),
    ("DDPMScheduler", {"variance_type": "fixed_small_log", "clip_sample": False}, {}),
    ("DDPMScheduler", {"variance_type": "learned"}, {}),
    ("DDPMScheduler", {"variance_type": "learned_range", "timestep_spacing": "trailing"}, {}),
    ("DDPMScheduler", {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}, {}),
    ("DDPMScheduler", {"beta_schedule": "sigmoid", "timestep_spacing": "linspace", "prediction_type": "sample"}, {}),
    ("DDPMScheduler", {"thresholding": True, "sample_max_value": 1.5}, {}),
    ("DDIMScheduler", {}, {}),
    ("DDIMScheduler", {"beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False}, {}),
    ("DDIMScheduler", {"steps_offset": 1, "clip_sample_range": 0.8}, {"eta": 0.7}),
    ("DDIMScheduler", {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}, {"eta": 1.0}),
    (
        "DDIMScheduler",
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        {},
    ),
    ("DDIMScheduler", {"prediction_type": "sample"}, {"use_clipped_model_output": True}),
    ("DDIMScheduler", {"thresholding": True}, {}),
    ("DDIMScheduler", {"thresholding": True}, {"use_clipped_model_output": True}),
    ("DPMSolverMultistepScheduler", {}, {}),
    ("DPMSolverMultistepScheduler", {"solver_order": 1, "beta_schedule": "scaled_linear"}, {}),
    ("DPMSolverMultistepScheduler", {"solver_type": "heun", "prediction_type": "v_prediction"}, {}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "euler_at_final": True}, {}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}, {}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}, {}),
    ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True, "timestep_spacing": "trailing"}, {}),
    ("DPMSolverMultistepScheduler", {"use_exponential_sigmas": True}, {}),
    ("DPMSolverMultistepScheduler", {"timestep_spacing": "leading", "steps_offset": 1, "thresholding": True}, {}),
    ("DPMSolverMultistepScheduler", {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}, {}),
    ("DPMSolverMultistepScheduler", {"prediction_type": "sample", "lower_order_final": False}, {}),
]


@pytest.mark.parametrize("name, config, arguments", CONFIGS)
@pytest.mark.parametrize("steps", [10, 20])
def test_a_run_is_diffusers(diffusers, name, config, arguments, steps):
    """Every sample on the way, in float64 over diffusers' own float32 levels."""
    ours, theirs = _pair(diffusers, name, **config)
    # the multistep solver itself rounds the sample to float32
    loose = {"rtol": 2e-4, "atol": 2e-4} if name.startswith("DPM") else {"rtol": 1e-9, "atol": 1e-9}
    expected = _loop(theirs, steps, exact=True, **arguments)
    got = _loop(ours, steps, **arguments)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, **loose)


@pytest.mark.parametrize("name", OURS)
def test_float32_pictures_are_diffusers(diffusers, name, kernels):
    """The same generator, the same picture: within 1/255 of the range at the end of 50 steps."""
    ours, theirs = _pair(diffusers, name)
    with backends.trace() as calls:
        got = _loop(ours, 50, torch.float32)[-1]
    expected = _loop(theirs, 50, torch.float32)[-1]
    assert (got - expected).abs().max() < 2 / 255
    assert [op for op, _ in calls] == ["diffusion_step"] * 50  # each step is one call


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_tables_are_diffusers(diffusers, name, schedule):
    for rescale in (False, True):
        config = {"beta_schedule": schedule, "rescale_betas_zero_snr": rescale, "prediction_type": "v_prediction"}
        ours, theirs = _pair(diffusers, name, **config)
        torch.testing.assert_close(ours.betas, theirs.betas, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-5, atol=1e-7)
        assert dict(ours.config) == {k: v for k, v in theirs.config.items() if not k.startswith("_")}
        assert len(ours) == len(theirs) and torch.equal(ours.timesteps.long(), theirs.timesteps.long())


@pytest.mark.parametrize("name", OURS)
def test_add_noise_is_diffusers(diffusers, name):
    ours, theirs = _pair(diffusers, name)
    x, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(20)
    t = ours.timesteps[[3, 19]]
    torch.testing.assert_close(ours.add_noise(x, noise, t), theirs.add_noise(x, noise, t), rtol=1e-4, atol=1e-5)
    assert ours.scale_model_input(x, t[0]) is x and ours.init_noise_sigma == theirs.init_noise_sigma


def test_solver_starts_in_the_middle_as_diffusers_does(diffusers):
    ours, theirs = _pair(diffusers, "DPMSolverMultistepScheduler")
    found = []
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(10)
        scheduler.set_begin_index(6)
        x = scheduler.add_noise(torch.ones(SHAPE), torch.full(SHAPE, 0.5), scheduler.timesteps[6:7].repeat(2))
        for t in scheduler.timesteps[6:]:
            x = scheduler.step(0.3 * x, t, x, return_dict=False)[0]
        found.append(x)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_custom_timesteps(diffusers):
    for name in ("DDPMScheduler", "DPMSolverMultistepScheduler"):
        ours, theirs = _pair(diffusers, name)
        path = []
        for scheduler in (ours, theirs):
            scheduler.set_timesteps(timesteps=[900, 400, 30])
            x = torch.ones(SHAPE)
            for t in scheduler.timesteps:
                x = scheduler.step(0.3 * x, t, x, generator=_generator()).prev_sample
            path.append(x)
        torch.testing.assert_close(*path, rtol=1e-4, atol=1e-4)


# --- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_configuration_goes_to_diffusers_and_back(diffusers, name, tmp_path):
    ours = OURS[name](beta_schedule="scaled_linear", prediction_type="v_prediction", steps_offset=1)
    ours.save_pretrained(tmp_path)
    theirs = getattr(diffusers, name).from_pretrained(tmp_path)
    again = OURS[name].from_config(theirs.config)
    theirs.save_pretrained(tmp_path / "theirs")
    assert ours.config == again.config == OURS[name].from_pretrained(tmp_path / "theirs").config
    assert json.loads((tmp_path / "scheduler_config.json").read_text())["_class_name"] == name


def test_one_schedulers_configuration_serves_another():
    ddpm = DDPMScheduler(beta_schedule="sigmoid", num_train_timesteps=50, trained_betas=np.full(50, 0.02))
    ddim = DDIMScheduler.from_config(ddpm.config, clip_sample=False)
    assert ddim.config.trained_betas == ddpm.config.trained_betas and not ddim.config["clip_sample"]
    assert torch.equal(ddim.alphas_cumprod, ddpm.alphas_cumprod)
    with pytest.raises(AttributeError):
        ddim.config.clip_sample = True


# --- pipelines ------------------------------------------------------------------------------------


def _tiny_pipeline(diffusers, name: str):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = diffusers.UNet2DModel(
            sample_size=8,
            block_out_channels=(8, 8),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    scheduler = getattr(diffusers, name)()
    pipeline = (diffusers.DDIMPipeline if name == "DDIMScheduler" else diffusers.DDPMPipeline)(unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler"])
def test_drops_into_a_pipeline(diffusers, name):
    """The same tiny random pipeline, the scheduler exchanged: the same pictures from the same generator."""
    pictures = []
    pipeline = _tiny_pipeline(diffusers, name)
    for exchange in (False, True):
        if exchange:
            pipeline.scheduler = OURS[name].from_config(pipeline.scheduler.config)
        pictures.append(pipeline(2, generator=_generator(), num_inference_steps=6, output_type="np").images)
    assert np.abs(pictures[0] - pictures[1]).max() < 1 / 255


# --- noise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_a_seed_gives_the_kernels_noise(name, kernels):
    config = {"algorithm_type": "sde-dpmsolver++"} if name.startswith("DPM") else {}
    extra = {"eta": 1.0} if name == "DDIMScheduler" else {}
    x, m = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)

    def run(rows, **noise):
        scheduler = OURS[name](**config)
        scheduler.set_timesteps(10)
        t = scheduler.timesteps[0]
        return scheduler.step(m[rows], t, x[rows], **extra, **noise).prev_sample

    whole = run(slice(0, 3), seed=9)
    assert torch.equal(whole[2:], run(slice(2, 3), seed=9, first_sample=2))
    assert torch.equal(whole, run(slice(0, 3), seed=torch.tensor([9, 0])))
    assert not torch.equal(whole, run(slice(0, 3), seed=10))


def test_a_generator_for_each_sample(diffusers):
    ours, theirs = _pair(diffusers, "DDPMScheduler")
    x, m = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    found = [s.step(m, 500, x, generator=[_generator(1), _generator(2)]).prev_sample for s in (ours, theirs)]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_initial_noise_is_normal_and_each_samples_own():
    x = D.initial_noise((64, 3, 32, 32), 3)
    assert abs(x.mean()) < 0.01 and abs(x.std() - 1) < 0.01
    assert torch.equal(x[5:7], D.initial_noise((2, 3, 32, 32), 3, first_sample=5))
    assert not torch.equal(x[:1], D.normals(x[:1], 3, step=0))


def test_guidance_is_the_mixed_predictions():
    x, cond, uncond = (torch.randn(SHAPE) for _ in range(3))
    for cls in OURS.values():
        mixed, fused = cls(), cls()
        for scheduler in (mixed, fused):
            scheduler.set_timesteps(5)
        for t in mixed.timesteps[:2]:
            a = mixed.step(uncond + 3 * (cond - uncond), t, x, generator=_generator())
            b = fused.step(cond, t, x, generator=_generator(), uncond=uncond, guidance_scale=3.0)
            torch.testing.assert_close(a.prev_sample, b.prev_sample, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(a[1], b["pred_original_sample"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OURS)
def test_predicted_x0_is_diffusers(diffusers, name):
    ours, theirs = _pair(diffusers, name)
    x, m = torch.randn(SHAPE), torch.randn(SHAPE)
    if name == "DPMSolverMultistepScheduler":
        pytest.skip("diffusers' solver does not return x_0")
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(20)
    t = ours.timesteps[7]
    expected = theirs.step(m, t, x, generator=_generator())
    prev, x0 = ours.step(m, t, x, generator=_generator(), return_dict=False)
    torch.testing.assert_close(x0, expected.pred_original_sample, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(prev, expected.prev_sample, rtol=1e-4, atol=1e-4)


# --- bad input ------------------------------------------------------------------------------------

X = torch.ones(2, 3)


def _ready(cls=DDIMScheduler, steps=10, **config):
    scheduler = cls(**config)
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: DDPMScheduler(prediction_type="noise"), ValueError, "'prediction_type'"),
        (lambda: DDPMScheduler(beta_schedule="square"), ValueError, "'beta_schedule'"),
        (lambda: DDPMScheduler(variance_type="fixed_large_log"), ValueError, "'variance_type'"),
        (lambda: DDPMScheduler(timestep_spacing="uneven"), ValueError, "'timestep_spacing'"),
        (lambda: DDPMScheduler(num_train_timesteps=0), ValueError, "'num_train_timesteps'"),
        (lambda: DDPMScheduler(beta_end=1.5), ValueError, "beta"),
        (lambda: DDPMScheduler(trained_betas=[0.1, 0.2]), ValueError, "'trained_betas'"),
        (lambda: DDPMScheduler(clip_sample_range=-1), ValueError, "'clip_range'"),
        (lambda: DDIMScheduler(rescale_betas_zero_snr=True), ValueError, "'prediction_type'"),
        (lambda: DPMSolverMultistepScheduler(solver_order=3), NotImplementedError, "'solver_order'"),
        (lambda: DPMSolverMultistepScheduler(use_flow_sigmas=True), NotImplementedError, "'use_flow_sigmas'"),
        (lambda: DDIMScheduler.from_config(3), TypeError, "'config'"),
        (lambda: DDIMScheduler.from_config({}, eta=1), TypeError, "eta"),
        (lambda: DDIMScheduler().step(X, 3, X), ValueError, "set_timesteps"),
        (lambda: _ready(steps=0), ValueError, "'num_inference_steps'"),
        (lambda: _ready(steps=1001), ValueError, "1000"),
        (lambda: DDPMScheduler().set_timesteps(timesteps=[3, 5]), ValueError, "descending"),
        (lambda: DDPMScheduler().set_timesteps(timesteps=[1000, 5]), ValueError, r"\[0, 1000\)"),
        (lambda: DDPMScheduler().set_timesteps(5, timesteps=[5]), ValueError, "one of"),
        (lambda: _ready().step(X, 901, X), ValueError, "901"),
        (lambda: _ready().step(X, 5000, X), ValueError, "5000"),
        (lambda: _ready().step(X, torch.tensor([900, 800]), X), ValueError, "'timestep'"),
        (lambda: _ready().step(X, 900, X[:1]), RuntimeError, "'sample'"),
        (lambda: _ready().step(X, 900, X, eta=-0.5), ValueError, "'eta'"),
        (lambda: _ready().step(X, 900, X, eta=1.0, seed=3, generator=_generator()), ValueError, "at most one"),
        (lambda: _ready().step(X, 900, X, eta=1.0, generator=[_generator()] * 3), ValueError, "generator"),
        (lambda: DDPMScheduler(variance_type="learned").step(X, 5, X), RuntimeError, "'model_output'"),
        (lambda: _ready(DPMSolverMultistepScheduler).step(X, 123, X), ValueError, "'timestep'"),
        (lambda: DDPMScheduler().add_noise(X, X, torch.tensor([0, 1000])), IndexError, r"\[0, 1000\)"),
        (lambda: schedules.spaced_timesteps("leading", 11, 10), ValueError, "'num_inference_steps'"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_the_solver_wants_timesteps_in_turn():
    scheduler = _ready(DPMSolverMultistepScheduler)
    first, second, third = scheduler.timesteps[:3]
    scheduler.step(X, first, X)
    with pytest.raises(ValueError, match="next one"):
        scheduler.step(X, third, X)
    scheduler.step(X, second, X)
