"""Models that other people wrote, unmodified, with random weights: outputs, gradients, state, in both modes."""

import copy
import importlib.util

import pytest
import torch

import dlperf
from dlperf.optimize.engine import Fallback
from dlperf.optimize.structure import flatten_result

from .helpers import torchvision

# The share of multiply-adds that dlperf's kernels have to serve in inference.
SHARE = 0.9


def _timm(name, size=64, **options):
    def build():
        timm = _package("timm")
        return timm.create_model(name, **options), (torch.randn(2, 3, size, size),), {}

    return build


def _package(name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    torchvision()
    return importlib.import_module(name)


def _unet():
    model = _package("diffusers").UNet2DModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return model, (torch.randn(2, 3, 16, 16), torch.tensor(7)), {}


def _conditional_unet():
    model = _package("diffusers").UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
    )
    return model, (torch.randn(2, 4, 16, 16), torch.tensor(7), torch.randn(2, 5, 32)), {}


def _autoencoder():
    model = _package("diffusers").AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=32,
    )
    return model, (torch.randn(2, 3, 32, 32),), {}


def _dit():
    model = _package("diffusers").DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=16,
        norm_num_groups=2,
        num_embeds_ada_norm=10,
    )
    labels = {"timestep": torch.tensor([3, 4]), "class_labels": torch.tensor([1, 2])}
    return model, (torch.randn(2, 4, 16, 16),), labels


def _transformer(model, config, inputs, **options):
    def build():
        transformers = _package("transformers")
        tokens = {"bos_token_id": 0, "eos_token_id": 1} if model.startswith("GPT2") else {}
        return getattr(transformers, model)(getattr(transformers, config)(**options, **tokens)), (), inputs()

    return build


def _text():
    return {"input_ids": torch.randint(0, 99, (2, 11))}


def _masked_text():
    mask = torch.ones(2, 11, dtype=torch.long)
    mask[1, 7:] = 0
    return {**_text(), "attention_mask": mask}


def _pixels(size):
    return lambda: {"pixel_values": torch.randn(2, 3, size, size)}


_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_IMAGES = {**_ENCODER, "image_size": 32, "patch_size": 8}

MODELS = {
    "resnet18": _timm("resnet18"),
    "mobilenetv3_small_100": _timm("mobilenetv3_small_100"),
    "efficientnet_b0": _timm("efficientnet_b0"),
    "convnext_atto": _timm("convnext_atto"),
    "vit_tiny": _timm("vit_tiny_patch16_224", img_size=64, depth=3),
    "deit_tiny": _timm("deit_tiny_patch16_224", img_size=64, depth=3),
    "swin_tiny": _timm("swin_tiny_patch4_window7_224", 224, depths=(1, 1, 1, 1)),
    "mixer_s32": _timm("mixer_s32_224", 224),
    "regnetx_002": _timm("regnetx_002"),
    "densenet121": _timm("densenet121"),
    "UNet2DModel": _unet,
    "UNet2DConditionModel": _conditional_unet,
    "AutoencoderKL": _autoencoder,
    "DiTTransformer2DModel": _dit,
    "BertModel": _transformer("BertModel", "BertConfig", _masked_text, vocab_size=99, **_ENCODER),
    "GPT2LMHeadModel": _transformer(
        "GPT2LMHeadModel", "GPT2Config", _text, vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=64
    ),
    "ViTModel": _transformer("ViTModel", "ViTConfig", _pixels(32), **_IMAGES),
    "CLIPVisionModel": _transformer("CLIPVisionModel", "CLIPVisionConfig", _pixels(32), **_IMAGES),
    "T5EncoderModel": _transformer(
        "T5EncoderModel", "T5Config", _text, vocab_size=99, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4
    ),
    "SegformerForSemanticSegmentation": _transformer(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        _pixels(64),
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 32, 64],
        num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=32,
        num_labels=5,
    ),
}


@pytest.fixture(params=MODELS)
def made(request):
    """(model in eval mode, args, kwargs); weights and statistics as if trained: fresh ones hide what they multiply."""
    torch.manual_seed(0)
    model, args, kwargs = MODELS[request.param]()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.8, 1.25)
        elif tensor.is_floating_point() and tensor.abs().max() == 0:
            tensor.normal_(std=0.02)
    return model.eval(), args, kwargs


def leaves(result) -> list[torch.Tensor]:
    found: list = []
    flatten_result(result, found)
    return found


def assert_near(actual, expected, bound):
    actual, expected = leaves(actual), leaves(expected)
    assert len(actual) == len(expected)
    for mine, theirs in zip(actual, expected, strict=True):
        assert mine.shape == theirs.shape and mine.dtype is theirs.dtype
        if theirs.is_floating_point():
            assert (mine - theirs).abs().max() <= bound * theirs.abs().max().clamp_min(1e-6)
        else:
            assert torch.equal(mine, theirs)


def test_inference(made):
    model, args, kwargs = made
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        expected = model(*args, **kwargs)
    fast = dlperf.optimize(model, mode="inference")
    for _ in range(2):
        result = fast(*args, **kwargs)
        assert type(result) is type(expected)
        assert_near(result, expected, 1e-4)
    assert list(fast.state_dict()) == list(state)
    assert all(torch.equal(a, b) for a, b in zip(fast.state_dict().values(), state.values(), strict=True))
    (plan,) = fast._engine.plans.values()
    assert not isinstance(plan, Fallback), plan.reason
    (call,) = dlperf.report(fast).calls
    if dlperf.backends.cpu.available() is None:
        assert call.share >= SHARE, [w for w in plan.work if w.served_by == "torch" and w.multiply_adds]


def test_training(made):
    model, args, kwargs = made
    twin = copy.deepcopy(model)
    fast = dlperf.optimize(model)
    assert list(fast.state_dict()) == list(twin.state_dict())
    result, expected = fast(*args, **kwargs), twin(*args, **kwargs)
    assert_near(result, expected, 1e-4)

    def loss(output):
        return sum(t.square().mean() for t in leaves(output) if t.requires_grad)

    loss(result).backward()
    loss(expected).backward()
    # By norms: where rounding turns a unit's sign, a ReLU passes another element of the gradient.
    largest = max(p.grad.norm() for p in twin.parameters() if p.grad is not None)
    for (name, mine), theirs in zip(fast.named_parameters(), twin.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), name
        if theirs.grad is not None:
            assert (mine.grad - theirs.grad).norm() <= 5e-3 * theirs.grad.norm() + 1e-5 * largest, name
