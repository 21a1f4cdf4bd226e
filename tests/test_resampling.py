import pytest
import torch

from dlperf import nn
from dlperf.nn import functional as F
from tests.family import check_case, parametrize

torch_F = torch.nn.functional


@parametrize("resampling")
def test_case(case, dtype, isa):
    check_case(case, dtype, "cpu")


@parametrize("resampling")
def test_reference(case, dtype):
    check_case(case, dtype, "reference")


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_the_same_pixels_as_torch(kernels, mode):
    """Every pair of sizes up to 40: rounding picks the pixels that torch's does."""
    for n_in in range(1, 41, 3):
        x = torch.arange(float(n_in)).reshape(1, 1, 1, n_in)
        for n_out in range(1, 41):
            assert torch.equal(F.interpolate(x, (1, n_out), mode=mode), torch_F.interpolate(x, (1, n_out), mode=mode))
        for factor in (0.3, 0.7, 1.1, 1.9, 2.5, 3.3):
            if int(n_in * factor) > 0:
                ours = F.interpolate(x, scale_factor=(1.0, factor), mode=mode)
                assert torch.equal(ours, torch_F.interpolate(x, scale_factor=(1.0, factor), mode=mode))


@pytest.mark.parametrize("corners", [False, True])
def test_bilinear_is_torchs(kernels, corners):
    x = torch.randn(2, 3, 7, 11)
    for size in ((14, 22), (5, 30), (1, 1), (7, 11), (20, 3)):
        ours = F.interpolate(x, size, mode="bilinear", align_corners=corners)
        torch.testing.assert_close(ours, torch_F.interpolate(x, size, mode="bilinear", align_corners=corners))
    kwargs = {"scale_factor": 1.37, "mode": "bilinear", "align_corners": corners}
    for recompute in (None, True):
        torch.testing.assert_close(
            F.interpolate(x, recompute_scale_factor=recompute, **kwargs),
            torch_F.interpolate(x, recompute_scale_factor=recompute, **kwargs),
        )


def test_other_modes_are_torchs():
    x = torch.randn(1, 2, 6, 6)
    for kwargs in ({"mode": "bicubic"}, {"mode": "area"}, {"mode": "bilinear", "antialias": True}):
        assert torch.equal(F.interpolate(x, scale_factor=2, **kwargs), torch_F.interpolate(x, scale_factor=2, **kwargs))


def test_memory_format_is_kept(kernels):
    x = torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    for y in (F.interpolate(x, scale_factor=2), F.pixel_shuffle(x, 2), F.pixel_unshuffle(x, 2)):
        assert y.is_contiguous(memory_format=torch.channels_last)
    assert F.interpolate(x.contiguous(), scale_factor=2).is_contiguous()


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_gradients(mode):
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)

    def resize(x):
        return F.interpolate(x, (5, 3), mode=mode)

    assert torch.autograd.gradcheck(resize, x)
    assert torch.autograd.gradgradcheck(resize, x)


def test_shuffles_are_inverse(isa):
    x = torch.randn(2, 18, 4, 5)
    for dtype in (torch.float32, torch.bfloat16):
        y = F.pixel_shuffle(x.to(dtype), 3)
        assert torch.equal(y, torch_F.pixel_shuffle(x.to(dtype), 3))
        assert torch.equal(F.pixel_unshuffle(y, 3), x.to(dtype))


def test_integers_are_served_by_the_reference():
    x = torch.arange(36).reshape(1, 4, 3, 3)
    assert torch.equal(F.pixel_shuffle(x, 2), torch_F.pixel_shuffle(x, 2))


def test_compiles_whole():
    layer = torch.nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.PixelUnshuffle(2), nn.PixelShuffle(2))
    x = torch.randn(1, 4, 4, 6, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))


X = torch.ones(2, 3, 4, 5)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: F.interpolate(X), ValueError, "size or scale_factor"),
        (lambda: F.interpolate(X, (3, 3), 2.0), ValueError, "size or scale_factor"),
        (lambda: F.interpolate(X, (3,)), ValueError, "spatial dimensions"),
        (lambda: F.interpolate(X, (0, 3)), RuntimeError, "greater than 0"),
        (lambda: F.interpolate(X, scale_factor=0.1), RuntimeError, "greater than 0"),
        (lambda: F.interpolate(X, scale_factor=2, align_corners=True), ValueError, "align_corners"),
        (lambda: F.interpolate(X, scale_factor=2, mode="linear"), NotImplementedError, "linear"),
        (lambda: F.interpolate([1.0], scale_factor=2), TypeError, "'input'"),
        (lambda: F.interpolate(X[:, :0], scale_factor=2), RuntimeError, "Non-empty"),
        (lambda: F.pixel_shuffle(X, 2), RuntimeError, "divisible"),
        (lambda: F.pixel_shuffle(X, 0), RuntimeError, "'upscale_factor'"),
        (lambda: F.pixel_shuffle(X[0, 0], 2), RuntimeError, "at least 3"),
        (lambda: F.pixel_unshuffle(X, 2), RuntimeError, "divisible"),
        (lambda: F.pixel_unshuffle(X, -1), RuntimeError, "'downscale_factor'"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
