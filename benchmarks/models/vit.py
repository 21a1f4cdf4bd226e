"""Vision Transformer (Dosovitskiy et al. 2020, arXiv:2010.11929), patches of 16x16.

Written once over an `nn` namespace: torch.nn, dlperf.nn, or anything that mirrors them. Parameters carry the names and
shapes of timm's vit_*_patch16_224, so its checkpoints load.
"""

import torch

from .fusion import adder, takes, unbinder


class Attention(torch.nn.Module):
    """Multi-head self-attention of [N, S, D], with the residual that follows it."""

    def __init__(self, nn, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attend, self.unbind = nn.functional.scaled_dot_product_attention, unbinder(nn)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        n, s, d = x.shape
        q, k, v = self.unbind(self.qkv(x).view(n, s, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4), 0)
        return self.attend(q, k, v).transpose(1, 2).reshape(n, s, d)


class Mlp(torch.nn.Module):
    def __init__(self, nn, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)


class Block(torch.nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, nn, dim: int, heads: int):
        super().__init__()
        self.fused = takes(nn.Linear, "activation", "residual")
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(nn, dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(nn, dim, 4 * dim)

    def forward(self, x):
        x = self.joined(self.attn.proj, self.attn(self.norm1(x)), x)
        h = self.norm2(x)
        h = self.mlp.fc1(h, activation="gelu") if self.fused else self.mlp.act(self.mlp.fc1(h))
        return self.joined(self.mlp.fc2, h, x)

    def joined(self, linear, h, residual):
        """residual + linear(h): one pass over memory where the layer fuses it."""
        return linear(h, residual=residual) if self.fused else residual + linear(h)


class PatchEmbed(torch.nn.Module):
    def __init__(self, nn, patch: int, in_channels: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch, stride=patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)  # [N, patches, D]


class VisionTransformer(torch.nn.Module):
    """[N, 3, img_size, img_size] to [N, num_classes] scores; the class token is what the head reads.

    Raises:
        ValueError: an img_size that is no multiple of the patch, a width that is no multiple of the heads.
    """

    def __init__(self, nn, dim, depth, heads, img_size=224, num_classes=1000, patch=16, in_channels=3):
        super().__init__()
        if img_size < patch or img_size % patch:
            raise ValueError(f"VisionTransformer: expected img_size to be a multiple of {patch}, got {img_size}")
        if dim % heads:
            raise ValueError(f"VisionTransformer: expected a width that {heads} heads divide, got {dim}")
        self.add, self.pad = adder(nn), nn.functional.pad
        self.cls_token = torch.nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = torch.nn.Parameter(torch.empty(1, 1 + (img_size // patch) ** 2, dim))
        self.patch_embed = PatchEmbed(nn, patch, in_channels, dim)
        self.blocks = nn.Sequential(*(Block(nn, dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)
        self.reset_parameters()

    def reset_parameters(self):
        torch.nn.init.normal_(self.cls_token, std=1e-6)
        torch.nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, torch.nn.Linear):
                torch.nn.init.trunc_normal_(module.weight, std=0.02)
                torch.nn.init.zeros_(module.bias)

    def forward(self, x):
        tokens = self.patch_embed(x)
        # The class token is the same for every sample: it joins the positions, and a row of zeros takes its place.
        first, rest = self.pos_embed.split([1, tokens.shape[1]], 1)
        positions = torch.cat([self.add(first, self.cls_token), rest], 1).to(tokens.dtype)
        x = self.blocks(self.add(self.pad(tokens, (0, 0, 1, 0)), positions))
        return self.head(self.norm(x[:, 0]))  # the other tokens' norm is never read


def vit_tiny(nn=torch.nn, img_size=224, num_classes=1000):
    return VisionTransformer(nn, 192, 12, 3, img_size, num_classes)


def vit_small(nn=torch.nn, img_size=224, num_classes=1000):
    return VisionTransformer(nn, 384, 12, 6, img_size, num_classes)


def vit_base(nn=torch.nn, img_size=224, num_classes=1000):
    return VisionTransformer(nn, 768, 12, 12, img_size, num_classes)


def vit_large(nn=torch.nn, img_size=224, num_classes=1000):
    return VisionTransformer(nn, 1024, 24, 16, img_size, num_classes)
