"""Twenty models that other people wrote, unmodified and small, and a table of how dlperf serves them.

python -m dlperf.benchmarks.public_models docs/public_models.md     writes the page; needs the extra `peers`
"""

import argparse
import copy
import functools
import importlib
import importlib.util
import sys
from pathlib import Path

import torch

import dlperf
from dlperf.optimize.structure import flatten_result


class Missing(Exception):
    """A package that is not installed."""


@functools.lru_cache(maxsize=1)
def _torchvision_operators() -> torch.library.Library:
    """The operators that torchvision names at import, for a build that brings none of its own for this torch."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def package(name: str):
    """The imported package. Raises Missing."""
    if importlib.util.find_spec(name) is None:
        raise Missing(f"{name} is not installed (pip install 'dlperf[peers]')")
    if name != "torchvision" and importlib.util.find_spec("torchvision") is not None:
        package("torchvision")  # the others import it
    try:
        return importlib.import_module(name)
    except RuntimeError:
        if name != "torchvision":
            raise
        _torchvision_operators()
        return importlib.import_module(name)


def _timm(name, size=64, **options):
    def build():
        timm = package("timm")
        return timm.create_model(name, **options), (torch.randn(2, 3, size, size),), {}

    return build


def _unet():
    model = package("diffusers").UNet2DModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    return model, (torch.randn(2, 3, 16, 16), torch.tensor(7)), {}


def _conditional_unet():
    model = package("diffusers").UNet2DConditionModel(
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
    model = package("diffusers").AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=32,
    )
    return model, (torch.randn(2, 3, 32, 32),), {}


def _dit():
    model = package("diffusers").DiTTransformer2DModel(
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
        transformers = package("transformers")
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


def build(name: str):
    """(model in eval mode, args, kwargs); weights and statistics as if trained: fresh ones hide what they multiply."""
    torch.manual_seed(0)
    model, args, kwargs = MODELS[name]()
    for key, tensor in model.state_dict().items():
        if key.endswith("running_mean"):
            tensor.normal_(std=0.1)
        elif key.endswith("running_var"):
            tensor.uniform_(0.8, 1.25)
        elif tensor.is_floating_point() and tensor.abs().max() == 0:
            tensor.normal_(std=0.02)
    return model.eval(), args, kwargs


def leaves(result) -> list[torch.Tensor]:
    found: list = []
    flatten_result(result, found)
    return found


def loss(output) -> torch.Tensor:
    return sum(t.square().mean() for t in leaves(output) if t.requires_grad)


def _difference(mine: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """||mine - theirs|| / ||theirs||, all together."""
    pairs = [(a, b) for a, b in zip(mine, theirs, strict=True) if b is not None and b.is_floating_point()]
    return float(sum((a - b).norm() ** 2 for a, b in pairs) ** 0.5 / sum(b.norm() ** 2 for _, b in pairs) ** 0.5)


def measure(name: str) -> list[str]:
    """A line of the table: what differs from torch in float32, and what dlperf serves."""
    model, args, kwargs = build(name)
    origin = type(model).__module__.split(".")[0]
    with torch.no_grad():
        expected = leaves(model(*args, **kwargs))
    fast = dlperf.optimize(model, mode="inference")
    for _ in range(2):  # the first call captures, the second runs the plan
        inference = _difference(leaves(fast(*args, **kwargs)), expected)
    (call,) = dlperf.report(fast).calls
    served = [w for plan in fast._engine.plans.values() for w in getattr(plan, "work", ())]
    rest = sorted({w.name for w in served if w.served_by == "torch" and w.multiply_adds})
    twin = copy.deepcopy(model)
    trained = dlperf.optimize(model)
    result, truth = trained(*args, **kwargs), twin(*args, **kwargs)
    outputs = _difference([t.detach() for t in leaves(result)], [t.detach() for t in leaves(truth)])
    loss(result).backward()
    loss(truth).backward()
    gradients = _difference(*([p.grad for p in m.parameters() if p.grad is not None] for m in (trained, twin)))
    numbers = [f"{call.share:.1%}", f"{inference:.0e}", f"{outputs:.0e}", f"{gradients:.0e}"]
    return [name, origin, *numbers, ", ".join(rest) or "none"]


COLUMNS = ["model", "from", "share served", "inference", "training: output", "gradients", "products left to torch"]
INTRODUCTION = """\
# Public models

Twenty models from timm, diffusers and transformers, as they are, small, with random weights, through `dlperf.optimize`.
Share served: of the multiply-adds in inference, what dlperf's kernels compute. The others are differences from torch's
own float32 results, as norms. `tests/test_public_models.py` holds each to at least 90 % and to its bounds; this page is
made by `python -m dlperf.benchmarks.public_models docs/public_models.md`.
"""


def page() -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|---|" + "--:|" * 4 + "---|"]
    lines += ["| " + " | ".join(measure(name)) + " |" for name in MODELS]
    versions = ", ".join(
        f"{name} {package(name).__version__}" for name in ("torch", "timm", "diffusers", "transformers")
    )
    return "\n".join([INTRODUCTION, *lines, "", f"Made with {versions}; {dlperf.backends.cpu.C.isa()}."]) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dlperf.benchmarks.public_models", description="Writes the table.")
    parser.add_argument("page", nargs="?", type=Path, help="the file to write; default: print it")
    args = parser.parse_args(argv)
    try:
        text = page()
        if args.page is None:
            print(text, end="")
        else:
            args.page.write_text(text)
    except (Missing, OSError) as error:
        print(f"public_models: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
