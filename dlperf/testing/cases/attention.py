from __future__ import annotations

import math

import torch

from ._case import Case


def _qkv(make, b, h, sq, sk, e, *, ev=None, kv_heads=None, sequence_first=False):
    """[B, H, S, E] each; with ``sequence_first`` views of [B, S, H, E]."""

    def tensor(heads, s, width):
        if sequence_first:
            x = make(b, s, heads, width, grad=False).transpose(1, 2)
            return x.requires_grad_()
        return make(b, heads, s, width)

    kv_heads, ev = kv_heads or h, ev or e
    return tensor(h, sq, e), tensor(kv_heads, sk, e), tensor(kv_heads, sk, ev)


def attention_case(id, *sizes, mask=None, layout=None, **kwargs):
    """Sizes B, H, Sq, Sk, E; ``mask(make)`` makes attn_mask."""
    sq, sk, e = sizes[2:]

    def make_arguments(make):
        qkv = _qkv(make, *sizes, **(layout or {}))
        return qkv, kwargs if mask is None else {"attn_mask": mask(make), **kwargs}

    return Case(
        "scaled_dot_product_attention",
        id,
        make_arguments,
        reduction=sk + e,
        grad_reduction=2 * (max(sq, sk) + e),
        gradients=sk > 1,  # those of a single key's scores are zero: nothing to be relative to
    )


def _bool_mask(*shape, empty_row=False):
    def mask(make):
        m = make.integers(0, 3, *shape) > 0
        if empty_row:
            m[..., shape[-2] // 2, :] = False
        return m

    return mask


def _lowest_mask(*shape):
    """As transformers' libraries build it: the lowest finite number where a key is hidden, one whole row of them."""

    def mask(make):
        m = torch.zeros(shape, dtype=make.dtype, device=make.device)
        m.masked_fill_(_bool_mask(*shape, empty_row=True)(make).logical_not(), torch.finfo(make.dtype).min)
        return m

    return mask


# Around a vector and a panel of keys, a block of 96 queries and one of 256 keys.
_LENGTHS = [(1, 1), (1, 17), (7, 15), (17, 65), (95, 64), (97, 255), (40, 257), (193, 513)]

CASES = [
    attention_case("vit", 2, 3, 197, 197, 64),
    attention_case("vit_257", 1, 2, 257, 257, 64),
    attention_case("vit_577", 1, 1, 577, 577, 64),
    # Swin: windows with a bias of their head, and shifted ones with a mask of their own beside it.
    attention_case("window_7x7", 6, 3, 49, 49, 32, mask=lambda make: make(1, 3, 49, 49)),
    attention_case("window_8x8", 4, 2, 64, 64, 32, mask=lambda make: make(4, 2, 64, 64)),
    *(attention_case(f"s{sq}x{sk}", 1, 2, sq, sk, 16) for sq, sk in _LENGTHS),
    *(attention_case(f"e{e}", 1, 2, 19, 33, e) for e in (1, 5, 24, 65, 256)),
    attention_case("ev", 2, 2, 33, 40, 24, layout={"ev": 40}),
    attention_case("ev_smaller", 1, 2, 33, 40, 40, layout={"ev": 3}),
    attention_case("sequence_first", 2, 3, 50, 60, 32, layout={"sequence_first": True}),
    attention_case("gqa", 2, 6, 33, 40, 16, layout={"kv_heads": 2}, enable_gqa=True),
    attention_case("multi_query", 2, 4, 33, 300, 16, layout={"kv_heads": 1, "sequence_first": True}, enable_gqa=True),
    attention_case("empty_batch", 0, 2, 4, 5, 8),
    attention_case("no_queries", 1, 2, 0, 5, 8),
    attention_case("scale", 1, 2, 20, 20, 16, scale=0.5),
    attention_case("scale_negative", 1, 2, 20, 20, 16, scale=-0.3),
    attention_case("causal", 2, 2, 100, 100, 32, is_causal=True),
    attention_case("causal_long", 1, 1, 200, 600, 8, is_causal=True),
    attention_case("causal_short", 1, 1, 300, 270, 8, is_causal=True),
    attention_case("causal_gqa", 1, 4, 130, 130, 16, layout={"kv_heads": 2}, is_causal=True, enable_gqa=True),
    attention_case("bool", 2, 2, 33, 300, 16, mask=_bool_mask(2, 2, 33, 300, empty_row=True)),
    attention_case("bool_2d", 2, 2, 33, 40, 16, mask=_bool_mask(33, 40)),
    attention_case("bool_keys", 2, 2, 33, 40, 16, mask=_bool_mask(2, 1, 1, 40)),
    attention_case("bool_causal", 2, 2, 40, 40, 16, mask=_bool_mask(2, 1, 1, 40), is_causal=True),
    attention_case("bool_queries", 2, 2, 33, 40, 16, mask=_bool_mask(2, 1, 33, 1, empty_row=True)),
    attention_case("lowest", 2, 2, 33, 40, 16, mask=_lowest_mask(2, 1, 33, 40)),
    attention_case("float", 2, 2, 33, 300, 16, mask=lambda make: make(2, 2, 33, 300)),
    attention_case("float_heads", 2, 3, 33, 40, 16, mask=lambda make: make(1, 3, 33, 40)),
    attention_case("float_2d", 2, 3, 33, 40, 16, mask=lambda make: make(33, 40)),
    attention_case("float_transposed", 1, 2, 33, 33, 16, mask=lambda make: make(1, 2, 33, 33, grad=False).mT),
    attention_case("float32", 2, 2, 17, 40, 16, mask=lambda make: make(2, 1, 17, 40, dtype=torch.float32)),
    attention_case(
        "float_empty_row",
        *(1, 2, 8, 40, 16),
        mask=lambda make: make(8, 40, grad=False).masked_fill(
            torch.arange(8, device=make.device)[:, None] == 3, -math.inf
        ),
    ),
]
