"""Multi-head attention, as torch.nn's, without its inference-only fused path."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.multi_head_attention import _attend


class MultiheadAttention(torch.nn.MultiheadAttention):
    """Weights are computed as a matrix only where ``need_weights`` asks for them; pass False for memory linear in S."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        if query.is_nested or key.is_nested or value.is_nested:
            raise TypeError("MultiheadAttention: nested tensors are not supported: pad them and give key_padding_mask")
        separate = None if self._qkv_same_embed_dim else (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        return _attend(
            query,
            key,
            value,
            batch_first=self.batch_first,
            embed_dim=self.embed_dim,
            num_heads=self.num_heads,
            in_proj_weight=self.in_proj_weight,
            in_proj_bias=self.in_proj_bias,
            separate=separate,
            bias_k=self.bias_k,
            bias_v=self.bias_v,
            add_zero_attn=self.add_zero_attn,
            dropout_p=self.dropout if self.training else 0.0,
            out_proj_weight=self.out_proj.weight,
            out_proj_bias=self.out_proj.bias,
            padding=key_padding_mask,
            mask=attn_mask,
            need_weights=need_weights,
            average=average_attn_weights,
            is_causal=is_causal,
        )
