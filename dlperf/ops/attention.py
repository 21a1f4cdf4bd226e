"""Scaled dot-product attention: softmax(scale q k^T + mask) v. Formulas and sources: docs/math/attention.md."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..memory import new_empty, new_empty_strided
from ._checks import check_floating, check_same_device, describe
from ._epilogue import cast_for_autocast
from ._frame import Operator, backward_through_reference, lies_as_in_eager, save_inputs
from .random import random_pair
from .unbind import dense_strides, evenly_apart


def _in_order_of(x: Tensor, shape: tuple) -> Tensor:
    """An empty [B, H, S, E] of x's dtype, with batch, head and sequence in the order in which they lie in x."""
    b, h, s, e = shape
    at_b, at_h, at_s, _ = x.stride()
    if at_h >= at_s or at_h == 0:
        return new_empty(x, shape)
    if at_b >= at_s or at_b == 0:
        return new_empty(x, (b, s, h, e)).transpose(1, 2)
    return new_empty(x, (s, b, h, e)).permute(1, 2, 0, 3)


def attention_empty(q: Tensor, k: Tensor, v: Tensor, *_) -> tuple[Tensor, Tensor]:
    """The output [B, Hq, Sq, Ev] in q's order of dimensions, and the softmax's statistics [B, Hq, Sq, 2]."""
    b, h, s, _e = q.shape
    stats = q.new_empty((b, h, s, 2), dtype=torch.promote_types(q.dtype, torch.float32))
    return _in_order_of(q, (b, h, s, v.shape[3])), stats


def attention_bwd_empty(
    go: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    rng,
    out,
    stats,
    causal,
    scale,
    dropout_p,
    mask_grad,
    joined=False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v in their own memory orders, and of the mask, contiguous ([0] where none is wanted).

    joined: q, k and v are slices of one tensor, their last dimension's elements neighbours; so are their gradients.
    """
    gm = mask.new_empty(mask.shape) if mask_grad else q.new_empty((0,))
    if joined:
        size, apart = (3, *q.shape), k.storage_offset() - q.storage_offset()
        gq, gk, gv = new_empty_strided(q, size, dense_strides(size, (apart, *q.stride()))).unbind(0)
        return gq, gk, gv, gm
    return _in_order_of(q, q.shape), _in_order_of(k, k.shape), _in_order_of(v, v.shape), gm


def _setup(ctx, args, output):
    q, k, v, mask, rng, ctx.causal, ctx.scale, ctx.dropout_p = args
    ctx.save_for_backward(q, k, v, mask, rng, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, go, _):
    if go is None:
        return (None,) * 5
    q, k, v, mask, rng, out, stats = ctx.saved_tensors
    mask_grad = mask is not None and ctx.needs_input_grad[3]
    # In compiled code each gradient is a tensor of its own; the kernels write rows of neighbouring elements.
    joined = not torch.is_grad_enabled() and lies_as_in_eager(q, k, v)
    joined = joined and q.stride(3) == 1 and evenly_apart((q, k, v)) > 0
    rest = ctx.causal, ctx.scale, ctx.dropout_p, mask_grad, joined
    gq, gk, gv, gm = attention_bwd(go, q, k, v, mask, rng, out, stats, *rest)
    needs = ctx.needs_input_grad
    return (
        gq if needs[0] else None,
        gk if needs[1] else None,
        gv if needs[2] else None,
        gm if mask_grad else None,
        None,
    )


# q [B, Hq, Sq, E], k [B, Hkv, Sk, E], v [B, Hkv, Sk, Ev] with Hq a multiple of Hkv; mask: None, bool (True takes part)
# or floating (added), [B or 1, Hq or 1, Sq or 1, Sk or 1]; rng: the int64 pair (seed, offset) where dropout_p > 0.
# Statistics: the row's maximum and the logarithm of its sum of exp(score - maximum); (0, inf) for a row without keys.
attention = Operator(
    "attention(Tensor q, Tensor k, Tensor v, Tensor? mask, Tensor? rng, bool causal, float scale, float dropout_p)"
    " -> (Tensor, Tensor)",
    fake=attention_empty,
    setup=_setup,
    backward=_backward,
)

attention_bwd = Operator(
    "attention_bwd(Tensor go, Tensor q, Tensor k, Tensor v, Tensor? mask, Tensor? rng, Tensor out, Tensor stats,"
    " bool causal, float scale, float dropout_p, bool mask_grad, bool joined=False)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    fake=attention_bwd_empty,
    setup=save_inputs,
    backward=backward_through_reference("attention_bwd"),
)

_NAME = "scaled_dot_product_attention"


def _check_mask(mask, query: Tensor) -> None:
    if not isinstance(mask, Tensor):
        raise TypeError(f"{_NAME}(): argument 'attn_mask' must be Tensor, not {type(mask).__name__}")
    if mask.dtype not in (torch.bool, torch.float32, query.dtype):
        raise RuntimeError(
            f"{_NAME}(): expected 'attn_mask' to have the dtype bool, float32 or that of 'query', got {describe(mask)}"
        )
    if mask.dim() < 2:
        raise IndexError(f"{_NAME}(): expected 'attn_mask' to have two or more dimensions, got {describe(mask)}")
    if mask.device != query.device:
        raise RuntimeError(f"{_NAME}(): expected 'attn_mask' to be on {query.device}, got {describe(mask)}")


def _same_heads(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Heads that the kernels take: key and value with one count, which divides the query's."""
    hq, hk, hv = query.shape[1], key.shape[1], value.shape[1]
    if hq == hk == hv:
        return query, key, value
    if enable_gqa and hk and hv and hq % hk == 0 and hq % hv == 0:
        if hk != hv:
            most = max(hk, hv) if max(hk, hv) % min(hk, hv) == 0 else hq
            key, value = key.repeat_interleave(most // hk, 1), value.repeat_interleave(most // hv, 1)
        return query, key, value
    if enable_gqa and 1 not in (hk, hv):
        raise RuntimeError(
            f"{_NAME}(): the number of heads in 'key' and 'value' must divide the number of heads in 'query', "
            f"got {hq}, {hk} and {hv}"
        )
    most = max(hq, hk, hv)
    if any(h not in (1, most) for h in (hq, hk, hv)):
        raise RuntimeError(
            f"{_NAME}(): the heads of 'query', 'key' and 'value' must be equal, 1, or grouped by enable_gqa=True, "
            f"got {hq}, {hk} and {hv}"
        )
    if hk == hv == 1:
        return query, key, value
    return query.expand(-1, most, -1, -1), key.expand(-1, most, -1, -1), value.expand(-1, most, -1, -1)


def _as_batches(x: Tensor, dims: int, lead: tuple) -> Tensor:
    """[B, H, S, E] from ``dims`` or fewer dimensions; ``lead`` are those before the heads where there are more."""
    x = x[(None,) * (dims - x.dim())]
    if dims == 2:
        return x[None, None]
    if dims == 3:
        return x.unsqueeze(1)
    return x.expand(*lead, *x.shape[-3:]).flatten(0, -4) if dims > 4 else x


def _same_batches(*tensors: Tensor) -> list[Tensor]:
    sizes = {t.shape[0] for t in tensors} - {1}
    if len(sizes) > 1:
        raise RuntimeError(
            f"{_NAME}(): expected the batch dimensions of 'query', 'key' and 'value' to broadcast, got "
            + ", ".join(str(t.shape[0]) for t in tensors)
        )
    size = next(iter(sizes), 1)
    return [t if t.shape[0] == size else t.expand(size, -1, -1, -1) for t in tensors]


def _prepare(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, enable_gqa: bool):
    """What the operator takes, from any shapes that torch takes; how many dimensions there were; the leading ones."""
    dims = max(query.dim(), key.dim(), value.dim())
    if min(query.dim(), key.dim(), value.dim()) < 2:
        raise RuntimeError(
            f"{_NAME}(): expected 'query', 'key' and 'value' to have two or more dimensions, got {query.dim()}, "
            f"{key.dim()} and {value.dim()}"
        )
    lead = torch.broadcast_shapes(*(t.shape[:-3] for t in (query, key, value))) if dims > 4 else ()
    q, k, v = query, key, value
    if not (q.dim() == k.dim() == v.dim() == 4):
        q, k, v = (_as_batches(t, dims, lead) for t in (q, k, v))
    if q.shape[3] != k.shape[3]:
        raise RuntimeError(
            f"{_NAME}(): expected 'query' and 'key' to have one head dimension, got {describe(query)} "
            f"and {describe(key)}"
        )
    if k.shape[2] != v.shape[2]:
        raise RuntimeError(
            f"{_NAME}(): expected 'key' and 'value' to have one sequence length, got {describe(key)} "
            f"and {describe(value)}"
        )
    if not (q.shape[0] == k.shape[0] == v.shape[0]):
        q, k, v = _same_batches(q, k, v)
    if not (q.shape[1] == k.shape[1] == v.shape[1]):
        q, k, v = _same_heads(q, k, v, enable_gqa)
    if mask is not None:
        _check_mask(mask, query)
        given = mask
        if mask.dim() <= dims:
            mask = _as_batches(mask, dims, lead)
        scores = (q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        if mask.dim() != 4 or any(m not in (1, n) for m, n in zip(mask.shape, scores, strict=True)):
            raise RuntimeError(
                f"{_NAME}(): expected 'attn_mask' to broadcast to the scores {scores}, got {describe(given)}"
            )
    return q, k, v, mask, dims, lead


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(scale * query key^T + mask) value (Vaswani et al. 2017), in blocks (Dao et al. 2022): memory linear in S.

    Args:
        query: [*, Hq, Sq, E].
        key: [*, H, Sk, E].
        value: [*, H, Sk, Ev].
        attn_mask: broadcastable to [*, Hq, Sq, Sk]. bool: True takes part. Floating: added to the scores.
        dropout_p: probability of dropping an entry of the softmax; applied whenever it is above 0.
        is_causal: query i sees keys 0..i. Together with a mask, both apply.
        scale: 1 / sqrt(E) where None.
        enable_gqa: key and value may have fewer heads, a divisor of the query's.

    Returns:
        [*, Hq, Sq, Ev]. A row that sees no key is 0.

    Raises:
        RuntimeError: shapes, dtypes or devices that disagree, a mask that can't be broadcast, dropout_p outside [0, 1].
        IndexError: a mask of fewer than two dimensions.
    """
    check_floating(_NAME, query=query, key=key, value=value)
    if torch.is_autocast_enabled("cpu" if query.is_cpu else query.device.type):
        query, key, value, attn_mask = cast_for_autocast(query, key, value, attn_mask)
    dtype = query.dtype
    if not (dtype is key.dtype is value.dtype):
        raise RuntimeError(
            f"{_NAME}(): expected 'query', 'key' and 'value' to have one dtype, got "
            f"{', '.join(str(t.dtype).removeprefix('torch.') for t in (query, key, value))}"
        )
    if not (query.is_cpu and key.is_cpu and value.is_cpu):
        check_same_device(_NAME, query=query, key=key, value=value)
    if not 0 <= dropout_p <= 1:
        raise RuntimeError(f"{_NAME}(): expected 'dropout_p' to be between 0 and 1, got {dropout_p}")
    q, k, v, mask, dims, lead = _prepare(query, key, value, attn_mask, enable_gqa)
    if scale is None:
        e = query.shape[-1]
        scale = 1.0 / math.sqrt(e) if e else 1.0
    rng = random_pair(query.device) if dropout_p > 0 else None
    out, _ = attention(q, k, v, mask, rng, bool(is_causal), float(scale), float(dropout_p))
    if dims == 4:
        return out
    return out[0, 0] if dims == 2 else out[:, 0] if dims == 3 else out.unflatten(0, lead)
