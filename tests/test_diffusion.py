import math

import pytest
import torch

from dlperf.backends.reference.philox import philox_normals, philox_words
from dlperf.diffusion import functional as D
from tests.family import check_case, parametrize

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ALPHA_BARS = torch.cumprod(1 - BETAS, 0)


@parametrize("diffusion")
def test_case(case, dtype, isa):
    check_case(case, dtype, "cpu")


@parametrize("diffusion")
def test_reference(case, dtype):
    check_case(case, dtype, "reference")


def _levels(t: int, before: int) -> tuple[float, float]:
    return ALPHA_BARS[t].item(), ALPHA_BARS[before].item() if before >= 0 else 1.0


def _double(*shape):
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("t", [999, 500, 1])
def test_ddpm_is_algorithm_2(t):
    """x_{t-1} = (x_t - (1 - alpha_t) / sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_t) + sigma_t z"""
    x, eps, z = _double(2, 3), _double(2, 3), _double(2, 3)
    alpha, bar, before = (1 - BETAS[t]).item(), *_levels(t, t - 1)
    mean = (x - (1 - alpha) / math.sqrt(1 - bar) * eps) / math.sqrt(alpha)
    for variance, square in (("fixed_large", 1 - alpha), ("fixed_small", (1 - before) / (1 - bar) * (1 - alpha))):
        got = D.ddpm_step(eps, x, bar, before, noise=z, variance=variance)
        torch.testing.assert_close(got, mean + math.sqrt(square) * z, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_equation_12(eta):
    x, eps, z = _double(2, 3), _double(2, 3), _double(2, 3)
    bar, before = _levels(600, 580)
    sigma = eta * math.sqrt((1 - before) / (1 - bar) * (1 - bar / before))
    x0 = (x - math.sqrt(1 - bar) * eps) / math.sqrt(bar)
    expected = math.sqrt(before) * x0 + math.sqrt(1 - before - sigma**2) * eps + sigma * z
    got, got_x0 = D.ddim_step(eps, x, bar, before, eta=eta, noise=z, return_x0=True)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got_x0, x0, rtol=1e-10, atol=1e-10)


def test_ddim_with_eta_1_is_ddpm():
    x, eps, z = _double(2, 3), _double(2, 3), _double(2, 3)
    levels = _levels(600, 599)
    torch.testing.assert_close(
        D.ddim_step(eps, x, *levels, eta=1.0, noise=z), D.ddpm_step(eps, x, *levels, noise=z), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("step", [D.ddpm_step, D.ddim_step])
def test_predictions_of_the_same_state_agree(step):
    x, eps, z = _double(2, 3), _double(2, 3), _double(2, 3)
    bar, before = _levels(600, 580)
    x0 = (x - math.sqrt(1 - bar) * eps) / math.sqrt(bar)
    v = math.sqrt(bar) * eps - math.sqrt(1 - bar) * x0
    expected = step(eps, x, bar, before, noise=z, clip_range=1.0)
    if step is D.ddpm_step:
        for kind, prediction in (("sample", x0), ("v_prediction", v)):
            got = step(prediction, x, bar, before, noise=z, clip_range=1.0, prediction_type=kind)
            torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)
    else:
        got = step(v, x, bar, before, clip_range=1.0, prediction_type="v_prediction")
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)


def test_guidance_is_folded_in(isa):
    x, cond, uncond, z = (torch.randn(2, 4, 6, 6) for _ in range(4))
    levels = _levels(300, 280)
    mixed = uncond + 7.5 * (cond - uncond)
    torch.testing.assert_close(
        D.ddpm_step(cond, x, *levels, noise=z, uncond=uncond, guidance_scale=7.5),
        D.ddpm_step(mixed, x, *levels, noise=z),
        rtol=1e-4,
        atol=1e-4,
    )


def test_last_step_adds_no_noise():
    x, eps = torch.randn(2, 3), torch.randn(2, 3)
    bar, before = _levels(0, -1)
    expected = (x - math.sqrt(1 - bar) * eps) / math.sqrt(bar)
    for variance in D.VARIANCES:
        torch.testing.assert_close(D.ddpm_step(eps, x, bar, before, variance=variance), expected)
    torch.testing.assert_close(D.ddpm_step(eps, x, bar, before, seed=3, clip_range=0.5), expected.clamp(-0.5, 0.5))


def test_nan_survives_clipping(isa):
    x = torch.zeros(40)
    x[[3, 35]] = float("nan")
    got = D.ddim_step(x, torch.zeros(40), *_levels(500, 490), clip_range=1.0)
    assert got.isnan().nonzero().flatten().tolist() == [3, 35]


# --- noise made inside ----------------------------------------------------------------------------


def test_reference_words_are_the_published_ones():
    """Random123's kat_vectors: counter and key zero."""
    words = philox_words(torch.tensor((0, 0)), 1, 4, 0, 0, "user")
    assert [f"{w:08x}" for w in words.flatten().tolist()] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


@pytest.mark.parametrize("seed", [0, 7, -1, 2**62 + 12345])
def test_noise_is_the_contracts(isa, seed):
    elements = 4200
    zeros = torch.zeros(3, elements)
    bar, before = _levels(500, 499)
    sigma = math.sqrt((1 - before) / (1 - bar) * (1 - bar / before))
    got = D.ddpm_step(zeros, zeros, bar, before, seed=seed, step=11, first_sample=2) / sigma
    expected = philox_normals(torch.tensor((seed, 0)), 3, elements, 2, 11, "diffusion")
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


def test_noise_depends_on_the_sample_not_the_batch(kernels):
    x, eps = torch.randn(5, 3, 7, 9), torch.randn(5, 3, 7, 9)
    levels = _levels(400, 399)
    whole = D.ddpm_step(eps, x, *levels, seed=3, step=2)
    parts = [D.ddpm_step(eps[i : i + 1], x[i : i + 1], *levels, seed=3, step=2, first_sample=i) for i in range(5)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, D.ddpm_step(eps, x, *levels, seed=3, step=3))


def test_noise_does_not_depend_on_the_layout(kernels):
    x, eps = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    last = [t.contiguous(memory_format=torch.channels_last) for t in (eps, x)]
    levels = _levels(400, 399)
    y = D.ddpm_step(*last, *levels, seed=3)
    assert y.stride() == last[0].stride()
    torch.testing.assert_close(y, D.ddpm_step(eps, x, *levels, seed=3), rtol=1e-6, atol=1e-6)


def test_noise_is_standard_normal(isa):
    zeros = torch.zeros(4, 50_000)
    bar, before = _levels(500, 499)
    noise = D.ddpm_step(zeros, zeros, bar, before, seed=1, variance="fixed_large") / math.sqrt(1 - bar / before)
    assert abs(noise.mean().item()) < 0.01 and abs(noise.std().item() - 1) < 0.01
    assert abs((noise**4).mean().item() - 3) < 0.1


# --- the forward process --------------------------------------------------------------------------


def test_add_noise_and_back(kernels):
    x, noise = torch.rand(6, 3, 5, 5) * 2 - 1, torch.randn(6, 3, 5, 5)
    t = torch.randint(0, 600, (6,))
    noisy = D.add_noise(x, noise, ALPHA_BARS, t)
    v = D.velocity(x, noise, ALPHA_BARS, t)
    for i in range(6):
        levels = ALPHA_BARS[t[i]].item(), 1.0
        for kind, prediction in (("epsilon", noise[i]), ("v_prediction", v[i])):
            _, x0 = D.ddim_step(prediction, noisy[i], *levels, prediction_type=kind, return_x0=True)
            torch.testing.assert_close(x0, x[i], rtol=1e-3, atol=1e-3)


def test_one_timestep_serves_all(kernels):
    x, noise = torch.randn(4, 9), torch.randn(4, 9)
    t = torch.tensor(77)
    assert torch.equal(
        D.add_noise(x, noise, ALPHA_BARS, t), D.add_noise(x, noise, ALPHA_BARS, t.expand(4).contiguous())
    )


# --- against diffusers ----------------------------------------------------------------------------


@pytest.mark.parametrize("prediction_type", D.PREDICTION_TYPES)
@pytest.mark.parametrize("variance", D.VARIANCES)
@pytest.mark.parametrize("clip", [True, False])
def test_ddpm_is_diffusers(prediction_type, variance, clip):
    schedulers = pytest.importorskip("diffusers", reason="compares with diffusers' scheduler")
    scheduler = schedulers.DDPMScheduler(prediction_type=prediction_type, variance_type=variance, clip_sample=clip)
    scheduler.set_timesteps(50)
    x, eps = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    for t in (980, 500, 20, 0):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(t))
        theirs = scheduler.step(eps, t, x, generator=torch.Generator().manual_seed(t))
        before = scheduler.alphas_cumprod[t - 20].item() if t >= 20 else 1.0
        prev, x0 = D.ddpm_step(
            eps,
            x,
            scheduler.alphas_cumprod[t].item(),
            before,
            noise=noise,
            prediction_type=prediction_type,
            variance=variance,
            clip_range=1.0 if clip else None,
            return_x0=True,
        )
        torch.testing.assert_close(prev, theirs.prev_sample, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(x0, theirs.pred_original_sample, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction_type", D.PREDICTION_TYPES)
@pytest.mark.parametrize("eta, from_clipped", [(0.0, False), (0.6, False), (0.0, True)])
def test_ddim_is_diffusers(prediction_type, eta, from_clipped):
    schedulers = pytest.importorskip("diffusers", reason="compares with diffusers' scheduler")
    scheduler = schedulers.DDIMScheduler(prediction_type=prediction_type)
    scheduler.set_timesteps(50)
    x, eps, noise = (torch.randn(2, 3, 8, 8) for _ in range(3))
    for t in (980, 500, 20, 0):
        theirs = scheduler.step(
            eps, t, x, eta=eta, use_clipped_model_output=from_clipped, variance_noise=noise if eta else None
        )
        before = scheduler.alphas_cumprod[t - 20] if t >= 20 else scheduler.final_alpha_cumprod
        got = D.ddim_step(
            eps,
            x,
            scheduler.alphas_cumprod[t],
            before,
            eta=eta,
            noise=noise,
            prediction_type=prediction_type,
            clip_range=1.0,
            use_clipped_model_output=from_clipped,
        )
        torch.testing.assert_close(got, theirs.prev_sample, rtol=1e-4, atol=1e-4)


def test_add_noise_is_diffusers():
    schedulers = pytest.importorskip("diffusers", reason="compares with diffusers' scheduler")
    scheduler = schedulers.DDPMScheduler()
    x, noise, t = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8), torch.tensor([0, 10, 500, 999])
    for ours, theirs in ((D.add_noise, scheduler.add_noise), (D.velocity, scheduler.get_velocity)):
        torch.testing.assert_close(
            ours(x, noise, scheduler.alphas_cumprod, t), theirs(x, noise, t), rtol=1e-4, atol=1e-5
        )


# --- the rest -------------------------------------------------------------------------------------


def test_mixed_dtypes(kernels):
    x, eps, z = torch.randn(3, 17), torch.randn(3, 17), torch.randn(3, 17)
    levels = _levels(500, 480)
    expected = D.ddpm_step(eps.bfloat16().float(), x, *levels, noise=z)
    torch.testing.assert_close(D.ddpm_step(eps.bfloat16(), x, *levels, noise=z), expected)
    half = D.ddpm_step(eps, x.bfloat16(), *levels, noise=z)
    assert half.dtype is torch.float32


def test_gradients():
    x, m, u = (_double(2, 3).requires_grad_() for _ in range(3))
    z = _double(2, 3)
    assert torch.autograd.gradcheck(
        lambda *a: D.ddpm_step(
            a[0], a[1], *_levels(500, 499), uncond=a[2], guidance_scale=2.0, noise=z, clip_range=2.0, return_x0=True
        ),
        (m, x, u),
    )


def test_compiles_whole():
    def step(eps, x):
        return D.ddim_step(eps, x, 0.3, 0.4, clip_range=1.0)

    x, eps = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(torch.compile(step, fullgraph=True, backend="aot_eager")(eps, x), step(eps, x))


X = torch.ones(2, 3)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: D.ddpm_step(X, X, 0.3, 0.4), ValueError, "'noise' or 'seed'"),
        (lambda: D.ddpm_step(X, X, 0.3, 0.4, noise=X, seed=1), ValueError, "got both"),
        (lambda: D.ddpm_step(X, X, 0.3, 0.4, seed=1.5), TypeError, "'seed'"),
        (lambda: D.ddpm_step(X, X, 0.3, 0.4, seed=torch.ones(2)), RuntimeError, "'seed'"),
        (lambda: D.ddpm_step(X, X[:1], 0.3, 0.4, seed=1), RuntimeError, "'sample'"),
        (lambda: D.ddpm_step(X, X, 0.3, 0.4, seed=1, uncond=X[0]), RuntimeError, "'uncond'"),
        (lambda: D.ddpm_step(X, X, 0.3, 0.4, noise=X[:, :2]), RuntimeError, "'noise'"),
        (lambda: D.ddpm_step(X.long(), X, 0.3, 0.4, seed=1), RuntimeError, "'model_output'"),
        (lambda: D.ddpm_step(X, X, 0.0, 0.4, seed=1), ValueError, "'alpha_bar'"),
        (lambda: D.ddpm_step(X, X, 0.3, 0.2, seed=1), ValueError, "'alpha_bar_prev'"),
        (lambda: D.ddpm_step(X, X, 0.3, float("nan"), seed=1), ValueError, "'alpha_bar_prev'"),
        (lambda: D.ddpm_step(X, X, 0.3, 0.4, seed=1, prediction_type="x0"), ValueError, "'prediction_type'"),
        (lambda: D.ddpm_step(X, X, 0.3, 0.4, seed=1, variance="learned"), ValueError, "'variance'"),
        (lambda: D.ddpm_step(X, X, 0.3, 0.4, seed=1, clip_range=0), ValueError, "'clip_range'"),
        (lambda: D.ddim_step(X, X, 0.3, 0.4, eta=-1), ValueError, "'eta'"),
        (lambda: D.add_noise(X, X, ALPHA_BARS, torch.tensor([0, 1000])), IndexError, r"\[0, 1000\)"),
        (lambda: D.add_noise(X, X, ALPHA_BARS, torch.tensor([-1, 0])), IndexError, "-1"),
        (lambda: D.add_noise(X, X, ALPHA_BARS, torch.tensor([0, 1, 2])), RuntimeError, "'timesteps'"),
        (lambda: D.add_noise(X, X, ALPHA_BARS, torch.tensor([0.5, 1])), TypeError, "'timesteps'"),
        (lambda: D.add_noise(X, X[:1], ALPHA_BARS, torch.tensor([0, 1])), RuntimeError, "'noise'"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
