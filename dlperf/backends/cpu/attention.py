from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ...ops.attention import attention_bwd_empty, attention_empty
from ._library import FLOATS, C

_MASKS = {torch.bool: 1, torch.float32: 2, torch.bfloat16: 3, torch.float16: 4}
_MAX_HEAD_DIM = 256


def _why_not(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *floating: Tensor) -> str | None:
    dtype = q.dtype
    if dtype not in FLOATS:
        return f"the kernels have no {str(dtype).removeprefix('torch.')}"
    for t in (k, v, *floating):
        if t.dtype is not dtype:
            return "the tensors' dtypes differ"
    if not all(t.is_cpu for t in (q, k, v, *floating)):
        return "a tensor is not on the CPU"
    if mask is not None and (mask.dtype not in _MASKS or not mask.is_cpu):
        return f"the kernels take no {str(mask.dtype).removeprefix('torch.')} mask on {mask.device}"
    if q.shape[3] > _MAX_HEAD_DIM or v.shape[3] > _MAX_HEAD_DIM:
        return f"head dimensions are above {_MAX_HEAD_DIM}"
    return None


def why_not_attention(q, k, v, mask, rng, causal, scale, dropout_p) -> str | None:
    return _why_not(q, k, v, mask)


def why_not_attention_bwd(
    go, q, k, v, mask, rng, out, stats, causal, scale, dropout_p, mask_grad, joined=False
) -> str | None:
    return _why_not(q, k, v, mask, go, out)


@lru_cache(maxsize=1024)
def _shape(q_size, k_size, ev, q, k, v, out, mask_size, mask, dtype, mask_dtype, causal, scale, dropout_p):
    mask_strides = (0, 0, 0, 0) if mask is None else [0 if n == 1 else s for n, s in zip(mask_size, mask, strict=True)]
    return C.AttentionShape(
        *(q_size[0], q_size[1], k_size[1], q_size[2], k_size[2], q_size[3], ev),
        *(q[:3], k[:3], v[:3], out[:3], mask_strides),
        *(FLOATS[dtype], _MASKS.get(mask_dtype, 0), causal, scale, dropout_p),
    )


@lru_cache(maxsize=1024)
def _grad_shape(forward, go, gq, gk, gv):
    return C.AttentionGradShape(forward, go[:3], gq[:3], gk[:3], gv[:3])


def _shape_of(q, k, v, mask, out, causal, scale, dropout_p):
    return _shape(
        *(q.shape, k.shape, v.shape[3], q.stride(), k.stride(), v.stride(), out.stride()),
        *((None, None) if mask is None else (mask.shape, mask.stride())),
        *(q.dtype, None if mask is None else mask.dtype, causal, scale, dropout_p),
    )


def _unit_last(x: Tensor) -> Tensor:
    return x if x.stride(3) == 1 or x.shape[3] <= 1 else x.contiguous()


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    rng: Tensor | None,
    causal: bool,
    scale: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    out, stats = attention_empty(q, k, v)
    q, k, v = _unit_last(q), _unit_last(k), _unit_last(v)
    shape = _shape_of(q, k, v, mask, out, causal, scale, dropout_p)
    threads = torch.get_num_threads()
    workspace = C.scratch(C.attention_forward_bytes(shape, threads))
    C.attention_forward(
        *(shape, q.data_ptr(), k.data_ptr(), v.data_ptr(), _address(mask), _address(rng)),
        *(out.data_ptr(), stats.data_ptr(), workspace, threads),
    )
    return out, stats


def attention_bwd(
    go: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    rng: Tensor | None,
    out: Tensor,
    stats: Tensor,
    causal: bool,
    scale: float,
    dropout_p: float,
    mask_grad: bool,
    joined: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rest = causal, scale, dropout_p, mask_grad, joined
    gq, gk, gv, gm = attention_bwd_empty(go, q, k, v, mask, rng, out, stats, *rest)
    go, q, k, v, out = (_unit_last(t) for t in (go, q, k, v, out))
    forward = _shape_of(q, k, v, mask, out, causal, scale, dropout_p)
    shape = _grad_shape(forward, go.stride(), gq.stride(), gk.stride(), gv.stride())
    threads = torch.get_num_threads()
    workspace = C.scratch(C.attention_backward_bytes(shape, threads))
    d_scores = None
    if mask_grad:  # the mask's gradient is a matrix of scores anyway, unless the mask is broadcast
        d_scores = torch.zeros((*q.shape[:3], k.shape[2]), dtype=torch.float32)
    C.attention_backward(
        *(shape, q.data_ptr(), k.data_ptr(), v.data_ptr(), _address(mask), _address(rng), out.data_ptr()),
        *(stats.data_ptr(), go.data_ptr(), gq.data_ptr(), gk.data_ptr(), gv.data_ptr(), _address(d_scores)),
        *(workspace, threads),
    )
    if mask_grad:
        gm.copy_(d_scores.sum_to_size(mask.shape))
    return gq, gk, gv, gm
