"""Attention over few keys, which has kernels of its own: each width of a step, one step and more, rests of strips."""

import pytest
import torch
import torch.nn.functional as theirs

from dlperf.nn import functional as F

from .tools import HALVES, check, tensor


def both(**options):
    return [lambda q, k, v, f=f: f.scaled_dot_product_attention(q, k, v, **options) for f in (F, theirs)]


# 208, 144 and 64 keys a step; one query; queries that end inside of a strip; keys that fill the steps
@pytest.mark.parametrize("queries, keys", [(49, 49), (64, 64), (1, 77), (100, 140), (197, 197), (30, 208), (81, 257)])
def test_one_head(queries, keys):
    check(*both(), (tensor(1, 1, queries, 64), tensor(1, 1, keys, 64), tensor(1, 1, keys, 64)), max(queries, keys))


def test_three_steps():
    q, k, v = tensor(1, 1, 70, 64), tensor(1, 1, 577, 64), tensor(1, 1, 577, 64)
    check(*both(scale=0.25), (q, k, v), 577)


@pytest.mark.parametrize("dtype", HALVES)
def test_batches_of_shared_heads_in_strided_memory(dtype):
    q = tensor(2, 40, 4, 64, dtype=dtype).transpose(1, 2)
    k, v = (tensor(2, 33, 2, 64, dtype=dtype).transpose(1, 2) for _ in "kv")
    q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
    check(*both(enable_gqa=True), (q, k, v), 40)


def test_scores_that_grow_from_step_to_step():
    """The maximum changes in every step, so that what was summed before must be scaled down."""
    q = torch.ones(1, 1, 5, 64, dtype=torch.bfloat16, requires_grad=True)
    k = (torch.arange(257.0)[:, None] * torch.full((1, 64), 0.004)).bfloat16()[None, None].requires_grad_()
    check(*both(), (q, k, tensor(1, 1, 257, 64)), 257)
