"""The benchmark's models: their sources' parameters, and the same function in torch's and dlperf's namespaces."""

import pytest
import torch

import dlperf.nn
from dlperf.benchmarks.engines import rel_err
from dlperf.benchmarks.models import MODELS, seeded, unet, vit
from dlperf.benchmarks.models.fusion import fuses_epilogue
from dlperf.benchmarks.models.resnet import resnet18, resnet50, resnet_digits

from .helpers import package, shapes, stored_shapes, torchvision

RESNETS = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("nn", [torch.nn, dlperf.nn], ids=["torch", "dlperf"])
def test_names_and_shapes_are_those_written_down_from_torchvision(name, nn):
    assert list(shapes(MODELS[name].build(nn)).items()) == list(stored_shapes(name).items())


@pytest.mark.parametrize("name", RESNETS)
def test_state_dict_is_torchvisions(name):
    models = torchvision().models
    with torch.device("meta"):
        ours, theirs = MODELS[name].build(torch.nn), getattr(models, name)()
    assert list(shapes(ours).items()) == list(shapes(theirs).items())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("training", [False, True])
def test_scores_are_torchvisions(name, training):
    theirs = getattr(torchvision().models, name)()
    ours = MODELS[name].build(torch.nn)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        got, expected = ours.train(training)(x), theirs.train(training)(x)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("build", [resnet18, resnet50])
def test_initial_weights_follow_torchvisions_rule(build):
    model = build(torch.nn)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
        if isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


def test_same_seed_same_weights_and_the_callers_random_state_is_kept():
    before = torch.random.get_rng_state()
    first, second = seeded("resnet18").state_dict(), seeded("resnet18", dlperf.nn).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_which_namespaces_fuse():
    assert fuses_epilogue(dlperf.nn.BatchNorm2d)
    assert not fuses_epilogue(torch.nn.BatchNorm2d)


# In training the last stage's batch norm needs more than a handful of values, or it amplifies any rounding.
@pytest.mark.parametrize(("training", "size"), [(False, 33), (True, 97)])
def test_dlperf_namespace_computes_the_same(training, size):
    plain = seeded("resnet18").train(training)
    fused = seeded("resnet18", dlperf.nn).train(training)
    truth = seeded("resnet18").double().train(training)
    x = torch.randn(4, 3, size, size)
    with torch.no_grad():
        expected = truth(x.double())
        error, torch_error = rel_err(fused(x), expected), rel_err(plain(x), expected)
    assert error <= max(1e-5, 2 * torch_error)
    for (name, ours), torchs in zip(fused.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-5, msg=name)


def test_gradients_of_the_small_resnet():
    plain, fused, truth = resnet_digits(torch.nn), resnet_digits(dlperf.nn), resnet_digits(torch.nn).double()
    fused.load_state_dict(plain.state_dict())
    truth.load_state_dict(plain.state_dict())
    x, labels = torch.randn(16, 1, 8, 8), torch.randint(10, (16,))
    for model, dtype in ((plain, torch.float32), (fused, torch.float32), (truth, torch.float64)):
        torch.nn.functional.cross_entropy(model(x.to(dtype)), labels).backward()
    triples = zip(plain.named_parameters(), fused.parameters(), truth.parameters(), strict=True)
    for (name, torchs), ours, expected in triples:
        allowed = max(1e-5, 2 * rel_err(torchs.grad, expected.grad))
        assert rel_err(ours.grad, expected.grad) <= allowed, name


def test_photographs():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    (x,), what = MODELS["resnet18"].inputs(6)
    assert x.shape == (6, 3, 224, 224)
    assert "photographs" in what
    assert torch.equal(x[2], x[0].flip(-1))
    assert not torch.equal(x[4], x[0])
    assert x.abs().max() < 3
    assert torch.equal(x, MODELS["resnet18"].inputs(6)[0][0])


VITS = {"vit_tiny": 5.7, "vit_small": 22.1, "vit_base": 86.6, "vit_large": 304.3}  # millions of parameters


@pytest.mark.parametrize("name", VITS)
def test_vit_has_timms_parameters(name):
    timm = package("timm")
    with torch.device("meta"):
        ours, theirs = MODELS[name].build(torch.nn), timm.create_model(f"{name}_patch16_224")
    assert list(shapes(ours).items()) == list(shapes(theirs).items())


@pytest.mark.parametrize("name", VITS)
def test_vit_has_the_published_size(name):
    with torch.device("meta"):
        model = MODELS[name].build(torch.nn)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(VITS[name], abs=0.05)


@pytest.mark.parametrize("nn", [torch.nn, dlperf.nn], ids=["torch", "dlperf"])
def test_vit_scores_are_timms(nn):
    theirs = package("timm").create_model("vit_tiny_patch16_224", img_size=64).eval()
    ours = vit.vit_tiny(nn, img_size=64).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_vit_refuses_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="multiple of 16, got 100"):
        vit.vit_tiny(img_size=100)


def _diffusers_unet():
    attention = ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D")
    return package("diffusers").UNet2DModel(
        sample_size=32,
        block_out_channels=(128, 256, 256, 256),
        layers_per_block=2,
        down_block_types=attention,
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(attention)),
        norm_num_groups=32,
        norm_eps=1e-6,
        act_fn="silu",
        freq_shift=1,
        flip_sin_to_cos=False,
        downsample_padding=0,
        attention_head_dim=None,
    )


@pytest.mark.parametrize("nn", [torch.nn, dlperf.nn], ids=["torch", "dlperf"])
def test_unet_is_diffusers(nn):
    theirs, ours = _diffusers_unet().eval(), unet.unet_cifar10(nn).eval()
    assert list(shapes(ours).items()) == list(shapes(theirs).items())
    ours.load_state_dict(theirs.state_dict())
    x, timesteps = torch.randn(2, 3, 32, 32), torch.tensor([3, 977])
    with torch.no_grad():
        torch.testing.assert_close(ours(x, timesteps), theirs(x, timesteps).sample, rtol=1e-4, atol=1e-5)


def test_unet_has_the_papers_size():
    with torch.device("meta"):
        model = unet.unet_cifar10()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(35.7, abs=0.05)


@pytest.mark.parametrize("name", ["vit_tiny", "unet_digits"])
def test_dlperf_namespace_has_the_same_gradients(name):
    entry = MODELS[name]
    inputs, target = entry.inputs(2)[0], entry.target(2)
    gradients = {}
    for key, nn, dtype in (("ours", dlperf.nn, torch.float32), ("torch", torch.nn, torch.float32),
                           ("truth", torch.nn, torch.float64)):  # fmt: skip
        model = seeded(name, nn).to(dtype)
        x, *rest = [t.to(dtype) if t.is_floating_point() else t for t in inputs]
        wanted = target.to(dtype) if target.is_floating_point() else target
        getattr(torch.nn.functional, entry.loss)(model(x, *rest), wanted).backward()
        gradients[key] = torch.cat([p.grad.flatten() for p in model.parameters()])
    allowed = max(1e-5, 2 * rel_err(gradients["torch"], gradients["truth"]))
    assert rel_err(gradients["ours"], gradients["truth"]) <= allowed


def test_denoisers_get_real_pictures_with_noise():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    for name, size in (("unet_cifar10", (3, 32, 32)), ("unet_digits", (1, 8, 8))):
        (x, timesteps), what = MODELS[name].inputs(5)
        assert x.shape == (5, *size)
        assert "noise added" in what
        assert timesteps.dtype is torch.int64
        assert 0 <= timesteps.min() < timesteps.max() < 1000
        assert MODELS[name].target(5).std() == pytest.approx(1, abs=0.1)
        # The earliest timestep is nearest to its picture, the last nearly noise alone.
        difference = (x - MODELS[name].target(5)).flatten(1).norm(dim=1)
        assert difference[0] > difference[-1]
