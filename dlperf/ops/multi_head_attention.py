"""Multi-head attention (Vaswani et al. 2017): projections of packed weights around scaled dot-product attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._checks import describe
from .attention import scaled_dot_product_attention
from .dropout import dropout
from .matmul import baddbmm, bmm, linear
from .softmax import softmax
from .unbind import chunk

_NAME = "multi_head_attention_forward"


def _check_mask(name: str, mask: Tensor | None) -> None:
    if mask is not None and mask.dtype is not torch.bool and not mask.is_floating_point():
        raise AssertionError(f"{_NAME}(): expected '{name}' to be bool or floating, got {describe(mask)}")


def _check_shapes(query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, mask: Tensor | None) -> None:
    dims = query.dim()
    if dims not in (2, 3):
        raise AssertionError(f"{_NAME}(): expected 'query' to have 2 or 3 dimensions, got {describe(query)}")
    for name, t, wanted in (("key", key, dims), ("value", value, dims), ("key_padding_mask", padding, dims - 1)):
        if t is not None and t.dim() != wanted:
            raise AssertionError(f"{_NAME}(): expected '{name}' to have {wanted} dimensions, got {describe(t)}")
    if mask is not None and mask.dim() not in (2, 3):
        raise AssertionError(f"{_NAME}(): expected 'attn_mask' to have 2 or 3 dimensions, got {describe(mask)}")


def _project(query, key, value, in_weight, in_bias, separate, embed_dim) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [*, embed_dim]; one product for as many of the inputs as are the same tensor."""
    biases = (None, None, None) if in_bias is None else in_bias.chunk(3)
    if separate is not None:
        return tuple(linear(x, w, b) for x, w, b in zip((query, key, value), separate, biases, strict=True))
    if key is value:
        if query is key:
            return chunk(linear(query, in_weight, in_bias), 3, -1)
        rest = None if in_bias is None else in_bias[embed_dim:]
        k, v = chunk(linear(key, in_weight[embed_dim:], rest), 2, -1)
        return linear(query, in_weight[:embed_dim], biases[0]), k, v
    weights = in_weight.chunk(3)
    return tuple(linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """True (hidden) as -inf."""
    if mask.dtype is not torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask, -math.inf)


def _merge(mask: Tensor | None, padding: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Both masks as one; bool stays bool: True is hidden."""
    if mask is None or padding is None:
        return padding if mask is None else mask
    if mask.dtype is padding.dtype is torch.bool:
        return mask | padding
    return _additive(mask, dtype) + _additive(padding, dtype)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    batch_first: bool,
    embed_dim: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    separate: tuple[Tensor, Tensor, Tensor] | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    padding: Tensor | None,
    mask: Tensor | None,
    need_weights: bool,
    average: bool,
    is_causal: bool,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attention of [N, L, E] (``batch_first``) or [L, N, E] inputs, or of [L, E] without a batch."""
    _check_mask("key_padding_mask", padding)
    _check_mask("attn_mask", mask)
    _check_shapes(query, key, value, padding, mask)
    if is_causal and mask is None:
        raise RuntimeError(f"{_NAME}(): is_causal is a hint about 'attn_mask', which has to be given with it")
    if query.shape[-1] != embed_dim:
        raise AssertionError(f"{_NAME}(): expected 'query' to have {embed_dim} features, got {describe(query)}")
    if embed_dim % num_heads != 0:
        raise AssertionError(f"{_NAME}(): embed_dim {embed_dim} is not divisible by num_heads {num_heads}")
    agree = key.shape[:-1] == value.shape[:-1] if separate is not None else key.shape == value.shape
    if not agree:
        raise AssertionError(f"{_NAME}(): 'key' and 'value' disagree: got {describe(key)} and {describe(value)}")
    batched = query.dim() == 3
    same_key, same_value = key is query, value is key
    if not batched:
        batch_first = True
        query = query.unsqueeze(0)
        key = query if same_key else key.unsqueeze(0)
        value = key if same_value else value.unsqueeze(0)
        padding = None if padding is None else padding.unsqueeze(0)

    n, length = query.shape[:2] if batch_first else (query.shape[1], query.shape[0])
    head_dim = embed_dim // num_heads
    # [N, H, L, D] views of [N, L, H * D] or [L, N, H * D]
    order = (0, 2, 1, 3) if batch_first else (1, 2, 0, 3)
    q, k, v = (
        t.unflatten(-1, (num_heads, head_dim)).permute(order)
        for t in _project(query, key, value, in_proj_weight, in_proj_bias, separate, embed_dim)
    )
    if static_k is not None:
        k = static_k.view(n, num_heads, -1, head_dim)
    if static_v is not None:
        v = static_v.view(n, num_heads, -1, head_dim)
    added = 0
    if bias_k is not None:
        k, v = (
            torch.cat([t, b.view(1, num_heads, 1, head_dim).expand(n, -1, -1, -1)], 2)
            for t, b in ((k, bias_k), (v, bias_v))
        )
        added += 1
    if add_zero_attn:
        k, v = (torch.cat([t, t.new_zeros((n, num_heads, 1, head_dim))], 2) for t in (k, v))
        added += 1
    keys = k.shape[2]

    if mask is not None:
        expected = (length, keys - added) if mask.dim() == 2 else (n * num_heads, length, keys - added)
        if tuple(mask.shape) != expected:
            raise RuntimeError(f"{_NAME}(): expected 'attn_mask' to have the shape {expected}, got {describe(mask)}")
        if is_causal and padding is None and not need_weights and added == 0:
            mask = None
        else:
            is_causal = False
            mask = mask.view(1, 1, *mask.shape) if mask.dim() == 2 else mask.unflatten(0, (n, num_heads))
    if padding is not None:
        if tuple(padding.shape) != (n, keys - added):
            raise AssertionError(
                f"{_NAME}(): expected 'key_padding_mask' to have the shape {(n, keys - added)}, got {describe(padding)}"
            )
        padding = padding.view(n, 1, 1, -1)
    mask = _merge(mask, padding, q.dtype)
    if mask is not None and added:
        mask = torch.nn.functional.pad(mask, (0, added))

    weights = None
    if need_weights:
        out, weights = _with_weights(q, k, v, mask, dropout_p)
        weights = weights.mean(1) if average else weights
    else:
        if mask is not None:
            mask = ~mask if mask.dtype is torch.bool else mask.to(q.dtype)
        out = scaled_dot_product_attention(q, k, v, mask, dropout_p, is_causal)
    out = out.permute(0, 2, 1, 3) if batch_first else out.permute(2, 0, 1, 3)
    out = linear(out.flatten(-2), out_proj_weight, out_proj_bias)
    if not batched:
        return out.squeeze(0), None if weights is None else weights.squeeze(0)
    return out, weights


def _with_weights(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float) -> tuple[Tensor, Tensor]:
    """The output and the softmax [N, H, L, S], as a matrix."""
    n, heads, length, head_dim = q.shape
    rows, columns = q.flatten(0, 1) * math.sqrt(1.0 / head_dim), k.flatten(0, 1).mT
    if mask is None:
        scores = bmm(rows, columns)
    else:
        mask = _additive(mask, q.dtype).expand(n, heads, length, k.shape[2]).flatten(0, 1)
        scores = baddbmm(mask, rows, columns)
    weights = softmax(scores, -1)
    if dropout_p > 0:
        weights = dropout(weights, dropout_p)
    return bmm(weights, v.flatten(0, 1)).unflatten(0, (n, heads)), weights.unflatten(0, (n, heads))


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Multi-head attention of query [L, N, E], key and value [S, N, E] (or without N), as torch's of the same name.

    Bool masks hide where they are True; floating masks are added. ``need_weights`` costs the [N, H, L, S] matrix.

    Returns:
        The output [L, N, E], and the weights [N, L, S] ([N, H, L, S] unless averaged) or None.
    """
    separate = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else None
    return _attend(
        query,
        key,
        value,
        batch_first=False,
        embed_dim=embed_dim_to_check,
        num_heads=num_heads,
        in_proj_weight=in_proj_weight,
        in_proj_bias=in_proj_bias,
        separate=separate,
        bias_k=bias_k,
        bias_v=bias_v,
        add_zero_attn=add_zero_attn,
        dropout_p=dropout_p if training else 0.0,
        out_proj_weight=out_proj_weight,
        out_proj_bias=out_proj_bias,
        padding=key_padding_mask,
        mask=attn_mask,
        need_weights=need_weights,
        average=average_attn_weights,
        is_causal=is_causal,
        static_k=static_k,
        static_v=static_v,
    )
