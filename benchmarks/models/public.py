"""Models that other people wrote, at full size, for `dlperf bench public`: inference, through dlperf.optimize."""

from functools import partial

import torch

from ..public_models import package
from .pictures import pictures

SEGMENTED_SIZE = 256
TOKENS, VOCABULARY = 128, 50257
FRAMES, FEATURES = 128, 256


def _timm(name: str, nn=torch.nn, **options) -> torch.nn.Module:
    return package("timm").create_model(name, **options)


def _segmenter(nn=torch.nn) -> torch.nn.Module:
    package("torchvision")
    return package("segmentation_models_pytorch").Unet("resnet18", encoder_weights=None, classes=21)


class Logits(torch.nn.Module):
    """The scores alone of a language model from transformers."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model(input_ids=tokens, use_cache=False, return_dict=False)[0]


def _gpt(nn=torch.nn) -> torch.nn.Module:
    """GPT-2 with six blocks: the shape of DistilGPT2."""
    transformers = package("transformers")
    return Logits(transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=6, vocab_size=VOCABULARY)))


class Recurrent(torch.nn.Module):
    """[N, frames, features] to [N, 1000] scores: torch's LSTM and a linear layer over its last step."""

    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(FEATURES, 512, num_layers=2, batch_first=True)
        self.head = torch.nn.Linear(512, 1000)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


def _recurrent(nn=torch.nn) -> torch.nn.Module:
    return Recurrent()


def _photographs(batch: int, size: int = 224):
    x, what = pictures(batch, size)
    return (x,), what


def _tokens(batch: int):
    generator = torch.Generator().manual_seed(0)
    return (torch.randint(VOCABULARY, (batch, TOKENS), generator=generator),), f"{TOKENS} random tokens"


def _frames(batch: int):
    x = torch.randn(batch, FRAMES, FEATURES, generator=torch.Generator().manual_seed(0))
    return (x,), f"{FRAMES} frames of normal noise"


# name: (builder over a namespace, which is torch's whatever is given; inputs of a batch)
BUILDERS = {
    "timm_resnet18": (partial(_timm, "resnet18"), _photographs),
    "timm_vgg16": (partial(_timm, "vgg16"), _photographs),
    "timm_mobilenetv3": (partial(_timm, "mobilenetv3_large_100"), _photographs),
    "timm_efficientnet_b0": (partial(_timm, "efficientnet_b0"), _photographs),
    # Its initial layer scale, 1e-6, would hide every block from the check of the results.
    "timm_convnext_tiny": (partial(_timm, "convnext_tiny", ls_init_value=0.3), _photographs),
    "smp_unet": (_segmenter, partial(_photographs, size=SEGMENTED_SIZE)),
    "transformers_gpt2": (_gpt, _tokens),
    "torch_lstm": (_recurrent, _frames),
}
