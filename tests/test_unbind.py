"""Slices of one tensor, and gradients that lie together: unbind, chunk, attention's."""

import pytest
import torch

from dlperf.nn import functional as F

DTYPES = [torch.float32, torch.bfloat16]


def _packed(n=2, s=5, heads=3, d=4, dtype=torch.float32):
    x = torch.randn(n, s, 3 * heads * d, dtype=dtype, requires_grad=True)
    return x, (x * 1).view(n, s, 3, heads, d).permute(2, 0, 3, 1, 4)


@pytest.mark.parametrize("dim", [0, 2, -1])
@pytest.mark.parametrize("used", [(0, 1, 2), (0, 2), (1,)])
def test_gradients_are_torchs(dim, used):
    weights = torch.randn(3, 3, 4, 3)
    gradients = []
    for unbind in (F.unbind, torch.unbind):
        x = torch.arange(108.0).view(3, 4, 3, 3).transpose(1, 2).requires_grad_()
        slices = unbind(x * 2, dim)
        sum((slices[i] * weights.unbind(dim)[i]).sum() for i in used).backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients) and gradients[0].abs().sum() > 0


def test_second_derivatives():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def square(x):
        a, b, _ = F.unbind(x * x, 0)
        return a * b

    assert torch.autograd.gradgradcheck(square, x)


def test_slices_are_views_that_refuse_what_torchs_refuse():
    x, y = _packed()
    q, _, _ = F.unbind(y, 0)
    assert q.data_ptr() == y.data_ptr() and q._is_view()
    with pytest.raises(RuntimeError, match="modified inplace"):
        q.mul_(2)
    with torch.no_grad():
        F.unbind(x, 0)[0].mul_(2)
    with pytest.raises(IndexError):
        F.unbind(x, 3)


@pytest.mark.parametrize("chunks, dim", [(3, 0), (3, -1), (2, 0), (1, 1), (7, 0)])
def test_chunk(chunks, dim):
    x = torch.randn(6, 9, requires_grad=True)
    got, expected = F.chunk(x, chunks, dim), torch.chunk(x, chunks, dim)
    assert len(got) == len(expected) and all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    weight = torch.randn_like(got[-1])
    a, b = (torch.autograd.grad((parts[-1] * weight).sum(), x)[0] for parts in (got, expected))
    assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_attentions_gradients_are_not_copied(dtype, kernels):
    _, y = _packed(dtype=dtype)
    seen = {}
    slices = F.unbind(y, 0)
    for name, t in zip("qkvy", (*slices, y), strict=True):
        t.register_hook(lambda g, name=name: seen.__setitem__(name, g))
    F.scaled_dot_product_attention(*slices).float().square().sum().backward()
    assert len({g.untyped_storage().data_ptr() for g in seen.values()}) == 1
    assert torch.equal(seen["y"], torch.stack([seen[c] for c in "qkv"]))
    assert seen["y"].stride() == y.stride()


# The order of (which, batch, head, token, element) in memory.
@pytest.mark.parametrize("order", [(1, 3, 0, 2, 4), (0, 1, 2, 4, 3), (0, 1, 4, 3, 2), (0, 4, 2, 1, 3), (1, 2, 3, 4, 0)])
def test_attentions_gradients_in_any_memory_order(order, kernels):
    data = torch.randn([(3, 2, 3, 16, 16)[d] for d in order])
    gradients = []
    for unbind, attend in (
        (F.unbind, F.scaled_dot_product_attention),
        (torch.unbind, torch.nn.functional.scaled_dot_product_attention),
    ):
        x = data.clone().requires_grad_()
        slices = unbind((x * 1).permute([order.index(d) for d in range(5)]), 0)
        attend(*slices).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("twice", [False, True])
def test_what_hooks_and_other_uses_change_arrives(twice):
    gradients = []
    x, _ = _packed()
    for unbind, attend in (
        (F.unbind, F.scaled_dot_product_attention),
        (torch.unbind, torch.nn.functional.scaled_dot_product_attention),
    ):
        q, k, v = unbind((x * 1).view(2, 5, 3, 3, 4).permute(2, 0, 3, 1, 4), 0)
        if not twice:
            k.register_hook(lambda g: g * 3)
        out = attend(q, k, v)
        (out.square() + (q if twice else 0)).sum().backward()
        gradients.append(x.grad)
        x.grad = None
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("frozen", ["", "q", "kv"])
def test_attentions_gradients_where_some_are_not_wanted(frozen):
    data = torch.randn(3, 2, 3, 5, 4)
    results = []
    for attend in (F.scaled_dot_product_attention, torch.nn.functional.scaled_dot_product_attention):
        slices = [t.detach().requires_grad_(c not in frozen) for c, t in zip("qkv", data.unbind(0), strict=True)]
        attend(*slices).square().sum().backward()
        results.append([t.grad for t in slices])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
