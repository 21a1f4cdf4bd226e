"""A small DiT (Peebles & Xie 2023, arXiv:2212.09748): a transformer over patches, conditioned by adaptive norms."""

from __future__ import annotations

import torch

from ..benchmarks.models.unet import TimestepEmbedding


class Block(torch.nn.Module):
    """Attention and MLP; scale, shift and gate of each come from the condition, the gates from zero (adaLN-Zero)."""

    def __init__(self, nn, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attend = nn.functional.scaled_dot_product_attention
        self.gelu = nn.functional.gelu
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.modulation = nn.Linear(width, 6 * width)
        torch.nn.init.zeros_(self.modulation.weight)
        torch.nn.init.zeros_(self.modulation.bias)

    def forward(self, x, condition):
        """x [N, T, C]; condition [N, C], SiLU already applied."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, -1)
        n, t, c = x.shape
        h = self.qkv(self.norm1(x) * (1 + scale1) + shift1)
        q, k, v = h.view(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        h = self.attend(q, k, v).transpose(1, 2).reshape(n, t, c)
        x = x + gate1 * self.out(h)
        h = self.norm2(x) * (1 + scale2) + shift2
        return x + gate2 * self.fc2(self.gelu(self.fc1(h)))


class DiT(torch.nn.Module):
    """[N, C, size, size] and timesteps [N] (int64, 0 to steps - 1) to the noise, of the pictures' shape.

    With ``classes`` it also takes labels [N]; the label ``null_label``, and None, stand for no condition.
    """

    def __init__(self, nn, size=8, patch=2, width=128, depth=4, heads=4, channels=1, steps=1000, classes=0):
        super().__init__()
        if size % patch or width % heads:
            raise ValueError(
                f"DiT(): expected size {size} to be a multiple of patch {patch}, width {width} of heads {heads}"
            )
        self.patch, self.channels, self.side = patch, channels, size // patch
        self.null_label = classes if classes else None
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = torch.nn.Parameter(torch.randn(1, self.side**2, width) * 0.02)
        self.time_embedding = TimestepEmbedding(nn, steps, width, width)
        self.class_embedding = nn.Embedding(classes + 1, width) if classes else None
        self.blocks = nn.ModuleList(Block(nn, width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, patch * patch * channels)
        for layer in (self.modulation, self.head):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)

    def forward(self, x, timesteps, labels=None):
        condition = None
        if self.class_embedding is not None:
            labels = torch.full_like(timesteps, self.null_label) if labels is None else labels
            condition = self.class_embedding(labels)
        time = self.time_embedding(timesteps, condition)
        h = self.embed(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            h = block(h, time)
        shift, scale = self.modulation(time)[:, None].chunk(2, -1)
        h = self.head(self.norm(h) * (1 + scale) + shift)
        n, s, p = len(x), self.side, self.patch
        return h.view(n, s, s, p, p, self.channels).permute(0, 5, 1, 3, 2, 4).reshape(n, self.channels, s * p, s * p)
