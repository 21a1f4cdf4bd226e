import math

import pytest
import torch

import dlperf
from dlperf.backends import cpu
from dlperf.nn import functional as F
from dlperf.ops.dropout import dropout_op

# Random123's known answers for philox4x32-10: key, counter, words.
KNOWN = [
    ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF,) * 4,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0xA4093822, 0x299F31D0),
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize("key, counter, words", KNOWN)
def test_published_vectors(key, counter, words, kernels):
    assert tuple(cpu.C.philox(*key, *counter)) == words


@pytest.mark.parametrize("key, counter, words", KNOWN)
def test_published_vectors_in_the_reference(key, counter, words):
    from dlperf.backends.reference.dropout import philox_words

    seed = key[0] | key[1] << 32
    high = counter[2] | counter[3] << 32
    blocks = torch.tensor([counter[0] | (counter[1] << 32) - (1 << 64 if counter[1] >> 31 else 0)])
    assert tuple(philox_words(blocks, seed, high, 0, 0, 0)[0].tolist()) == words


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 63, 64, 65, 1001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_backend_drops_the_same_elements(n, dtype, isa):
    x = torch.rand(n).add_(0.5).to(dtype)
    pair = torch.tensor([123456789012345, 42])
    with dlperf.backend("cpu"):
        ours = dropout_op(x, pair, 0.3)
    with dlperf.backend("reference"):
        expected = dropout_op(x, pair, 0.3)
    assert torch.equal(ours == 0, expected == 0)
    torch.testing.assert_close(ours, expected)


def test_channels_last_elements_are_numbered_in_memory_order(kernels):
    pair = torch.tensor([7, 0])
    x = torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)
    y = dropout_op(x, pair, 0.5)
    flat = dropout_op(torch.ones(x.numel()), pair, 0.5)
    assert torch.equal(y.permute(0, 2, 3, 1).flatten(), flat)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_share_and_mean(p):
    n = 200_000
    y = F.dropout(torch.ones(n), p)
    kept = (y != 0).double().mean().item()
    assert abs(kept - (1 - p)) < 5 * math.sqrt(p * (1 - p) / n)
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / (1 - p)))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_has_the_same_mask(memory_format):
    x = torch.randn(3, 4, 5, 6).contiguous(memory_format=memory_format).requires_grad_()
    y = F.dropout(x, 0.4)
    (gx,) = torch.autograd.grad(y, x, torch.ones(3, 4, 5, 6))
    torch.testing.assert_close(y, x * gx)
    assert 0 < (gx == 0).sum() < gx.numel()


def test_expanded_gradients():
    x = torch.randn(4, 50, requires_grad=True)
    y = F.dropout(x, 0.5)
    (gx,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gx == 0, y == 0)


def test_the_seed_governs_and_calls_differ():
    x = torch.ones(1000)
    torch.manual_seed(3)
    a, b = F.dropout(x), F.dropout(x)
    torch.manual_seed(3)
    assert torch.equal(F.dropout(x), a)
    assert not torch.equal(a, b)


def test_edges():
    x = torch.randn(10)
    assert F.dropout(x, 0.0) is x
    assert F.dropout(x, 0.5, training=False) is x
    assert torch.equal(F.dropout(x, 1.0), torch.zeros(10))
    with pytest.raises(ValueError, match="between 0 and 1"):
        F.dropout(x, 1.5)
    with pytest.raises(RuntimeError, match="'input'"):
        F.dropout(torch.ones(3, dtype=torch.int64))


def test_in_place():
    x = torch.ones(100)
    y = F.dropout(x, 0.5, inplace=True)
    assert y is x and 0 < (x == 0).sum() < 100


def test_layer_and_compile():
    layer = dlperf.nn.Dropout(0.5)
    compiled = torch.compile(layer, fullgraph=True)
    x = torch.ones(64, 64, requires_grad=True)
    y = compiled(x)
    (gx,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y.detach(), gx)
    assert torch.equal(layer.eval()(x), x)


def test_gradients_of_every_order_in_double():
    x = torch.randn(20, dtype=torch.float64, requires_grad=True)
    pair = torch.tensor([1, 2])
    assert torch.autograd.gradcheck(lambda x: dropout_op(x, pair, 0.3), x)
    assert torch.autograd.gradgradcheck(lambda x: dropout_op(x, pair, 0.3), x)
