"""The U-Net of DDPM (Ho et al. 2020, arXiv:2006.11239): what predicts the noise in a picture at a timestep.

Written once over an `nn` namespace: torch.nn, dlperf.nn, or anything that mirrors them. Parameters carry the names and
shapes of diffusers' UNet2DModel, so a checkpoint such as google/ddpm-cifar10-32 loads.
"""

import math

import torch

from .fusion import adder, takes

EPS = 1e-6


class _Part(torch.nn.Module):
    """What the parts share: norms with SiLU and layers with a residual, fused where the namespace's layers do that."""

    def __init__(self, nn):
        super().__init__()
        self.add = adder(nn)
        self.silu = nn.functional.silu
        self.fused = takes(nn.Conv2d, "residual") and takes(nn.Linear, "residual", "activation")

    def norm_silu(self, nn, groups: int, channels: int) -> torch.nn.Module:
        """A group norm for `apply_norm`."""
        fused = {"activation": "silu"} if hasattr(nn.GroupNorm, "activation") else {}
        return nn.GroupNorm(groups, channels, EPS, **fused)

    def apply_norm(self, norm, x):
        """silu(norm(x))"""
        x = norm(x)
        return x if getattr(norm, "activation", None) else self.silu(x)

    def joined(self, layer, x, residual):
        """layer(x) + residual"""
        return layer(x, residual=residual) if self.fused else layer(x) + residual


class ResnetBlock(_Part):
    """Two 3x3 convolutions, each after norm and SiLU; the timestep is added to every pixel between them."""

    def __init__(self, nn, inputs: int, outputs: int, time: int, groups: int):
        super().__init__(nn)
        self.norm1 = self.norm_silu(nn, groups, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(time, outputs)
        self.norm2 = self.norm_silu(nn, groups, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x, time):
        """x [N, C, H, W]; time [N, T], SiLU already applied: it is the same for every block."""
        h = self.conv1(self.apply_norm(self.norm1, x))
        h = self.add(h, self.time_emb_proj(time)[:, :, None, None])
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return self.joined(self.conv2, self.apply_norm(self.norm2, h), shortcut)


class Attention(_Part):
    """Self-attention between pixels, one head, with its residual."""

    def __init__(self, nn, channels: int, groups: int):
        super().__init__(nn)
        self.attend = nn.functional.scaled_dot_product_attention
        self.group_norm = nn.GroupNorm(groups, channels, EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x):
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)  # [N, H W, C], a view of channels_last
        q, k, v = (to(tokens).unsqueeze(1) for to in (self.to_q, self.to_k, self.to_v))
        h = self.attend(q, k, v).squeeze(1)
        return self.joined(self.to_out[0], h, x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


class Downsample(torch.nn.Module):
    """Half the size. Padding is on the right and at the bottom alone, as in the paper's code."""

    def __init__(self, nn, channels: int):
        super().__init__()
        self.pad = nn.functional.pad
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):
        return self.conv(self.pad(x, (0, 1, 0, 1)))


class Upsample(torch.nn.Module):
    def __init__(self, nn, channels: int):
        super().__init__()
        self.interpolate = nn.functional.interpolate
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(self.interpolate(x, scale_factor=2.0, mode="nearest"))


class DownBlock(torch.nn.Module):
    def __init__(self, nn, inputs, outputs, time, groups, depth, attention: bool, last: bool):
        super().__init__()
        if attention:
            self.attentions = nn.ModuleList(Attention(nn, outputs, groups) for _ in range(depth))
        widths = [inputs] + [outputs] * (depth - 1)
        self.resnets = nn.ModuleList(ResnetBlock(nn, width, outputs, time, groups) for width in widths)
        if not last:
            self.downsamplers = nn.ModuleList([Downsample(nn, outputs)])

    def forward(self, x, time, skips: list):
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, time)
            if hasattr(self, "attentions"):
                x = self.attentions[i](x)
            skips.append(x)
        if hasattr(self, "downsamplers"):
            x = self.downsamplers[0](x)
            skips.append(x)
        return x


class UpBlock(torch.nn.Module):
    """One resnet more than the block below it; each reads what the way down left, the latest first."""

    def __init__(self, nn, inputs, skips: list[int], outputs, time, groups, attention: bool, last: bool):
        super().__init__()
        if attention:
            self.attentions = nn.ModuleList(Attention(nn, outputs, groups) for _ in skips)
        widths = [inputs] + [outputs] * (len(skips) - 1)
        self.resnets = nn.ModuleList(
            ResnetBlock(nn, width + skip, outputs, time, groups) for width, skip in zip(widths, skips, strict=True)
        )
        if not last:
            self.upsamplers = nn.ModuleList([Upsample(nn, outputs)])

    def forward(self, x, time, skips: list):
        for i, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, skips.pop()], 1), time)
            if hasattr(self, "attentions"):
                x = self.attentions[i](x)
        return self.upsamplers[0](x) if hasattr(self, "upsamplers") else x


class MidBlock(torch.nn.Module):
    def __init__(self, nn, channels, time, groups):
        super().__init__()
        self.attentions = nn.ModuleList([Attention(nn, channels, groups)])
        self.resnets = nn.ModuleList(ResnetBlock(nn, channels, channels, time, groups) for _ in range(2))

    def forward(self, x, time):
        return self.resnets[1](self.attentions[0](self.resnets[0](x, time)), time)


class TimestepEmbedding(_Part):
    """Timesteps [N] to [N, outputs]: sines and cosines, read from a table, then two layers."""

    def __init__(self, nn, steps: int, width: int, outputs: int):
        super().__init__(nn)
        self.lookup = nn.functional.embedding
        # No entry of the state_dict: it is computed, as the reference computes it, in float32.
        self.register_buffer("table", sinusoids(steps, width), persistent=False)
        self.linear_1 = nn.Linear(width, outputs)
        self.linear_2 = nn.Linear(outputs, outputs)

    def forward(self, timesteps, condition=None):
        """silu(embedding): nothing reads it without the SiLU. `condition` [N, outputs] is added before it."""
        x = self.lookup(timesteps, self.table)
        if condition is not None:
            return self.silu(self.linear_2(self.silu(self.linear_1(x))) + condition)
        if self.fused:
            return self.linear_2(self.linear_1(x, activation="silu"), activation="silu")
        return self.silu(self.linear_2(self.silu(self.linear_1(x))))


def sinusoids(steps: int, width: int) -> torch.Tensor:
    """[steps, width]: sin(t f) for width / 2 frequencies f from 1 to 1e-4, geometrically, then cos(t f)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / (half - 1))
    angles = torch.arange(steps, dtype=torch.float32)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


class UNet(_Part):
    """[N, C, H, W] and timesteps [N] (int64, 0 to steps - 1) to the noise, [N, C, H, W].

    `widths` are the channels of the levels, each half the size of the one before; `attention` names the levels with
    attention between pixels. H and W are multiples of 2 to the power of len(widths) - 1. With `classes` it also takes
    labels [N] (int64); the label `null_label`, and None, stand for no condition.
    """

    def __init__(self, nn, widths, depth, attention, channels=3, groups=32, steps=1000, classes=0):
        super().__init__(nn)
        self.null_label = classes if classes else None
        time, levels = 4 * widths[0], len(widths)
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(nn, steps, widths[0], time)
        self.class_embedding = nn.Embedding(classes + 1, time) if classes else None
        self.down_blocks = nn.ModuleList()
        skips = [widths[0]]
        for level, width in enumerate(widths):
            inputs, last = widths[max(level - 1, 0)], level == levels - 1
            self.down_blocks.append(DownBlock(nn, inputs, width, time, groups, depth, level in attention, last))
            skips += [width] * (depth if last else depth + 1)
        self.up_blocks = nn.ModuleList()
        inputs = widths[-1]
        for level in reversed(range(levels)):
            read = [skips.pop() for _ in range(depth + 1)]
            block = UpBlock(nn, inputs, read, widths[level], time, groups, level in attention, level == 0)
            self.up_blocks.append(block)
            inputs = widths[level]
        self.mid_block = MidBlock(nn, widths[-1], time, groups)
        self.conv_norm_out = self.norm_silu(nn, groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], channels, 3, padding=1)

    def forward(self, x, timesteps, labels=None):
        condition = None
        if self.class_embedding is not None:
            labels = torch.full_like(timesteps, self.null_label) if labels is None else labels
            condition = self.class_embedding(labels)
        time = self.time_embedding(timesteps, condition)
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            x = block(x, time, skips)
        x = self.mid_block(x, time)
        for block in self.up_blocks:
            x = block(x, time, skips)
        return self.conv_out(self.apply_norm(self.conv_norm_out, x))


def unet_cifar10(nn=torch.nn):
    """The paper's model for 32x32 pictures: 35.7 million parameters, attention at 16x16."""
    return UNet(nn, (128, 256, 256, 256), 2, {1})


def unet_digits(nn=torch.nn):
    """For 8x8 grey pictures: attention at 4x4."""
    return UNet(nn, (32, 64), 1, {1}, channels=1, groups=8)
