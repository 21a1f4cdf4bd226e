from __future__ import annotations

import torch


def embedding(indices, weight, padding_idx, by_frequency):
    return torch.ops.aten.embedding(weight, indices, padding_idx, by_frequency)


def embedding_bwd(gy, indices, rows, padding_idx, by_frequency):
    flat = indices.flatten().to(torch.int64)
    wide = gy.reshape(flat.shape[0], gy.shape[-1]).to(torch.promote_types(gy.dtype, torch.float32))
    if padding_idx >= 0:
        wide = wide * (flat != padding_idx).unsqueeze(1)
    if by_frequency:
        wide = wide / torch.bincount(flat, minlength=rows)[flat].unsqueeze(1)
    return wide.new_zeros((rows, gy.shape[-1])).index_add(0, flat, wide).to(gy.dtype)
