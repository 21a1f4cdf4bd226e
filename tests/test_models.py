"""The benchmark's ResNets: torchvision's parameters, and the same function in torch's and dlperf's namespaces."""

import pytest
import torch

import dlperf.nn
from dlperf.benchmarks.engines import rel_err
from dlperf.benchmarks.models import MODELS, seeded
from dlperf.benchmarks.models.resnet import fuses_epilogue, resnet18, resnet50, resnet_digits

from .helpers import shapes, stored_shapes, torchvision

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
    x, what = MODELS["resnet18"].inputs(6)
    assert x.shape == (6, 3, 224, 224)
    assert "photographs" in what
    assert torch.equal(x[2], x[0].flip(-1))
    assert not torch.equal(x[4], x[0])
    assert x.abs().max() < 3
    assert torch.equal(x, MODELS["resnet18"].inputs(6)[0])
