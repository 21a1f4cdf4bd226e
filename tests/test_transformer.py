"""Multi-head attention and the transformer layers, held against torch's own, gradients and every flag."""

import copy

import pytest
import torch

from dlperf import nn
from dlperf.backends import trace
from dlperf.nn import functional as F

_HIDDEN = torch.zeros(5, 7, dtype=torch.bool).index_put_(
    (torch.tensor([0, 2, 3]), torch.tensor([1, 0, 6])), torch.tensor(True)
)
_PADDING = torch.tensor([[0, 0, 0, 0, 0, 1, 1], [0] * 7, [1, 0, 0, 0, 0, 0, 0]], dtype=torch.bool)
_CAUSAL = torch.nn.Transformer.generate_square_subsequent_mask(5)


def _twins(layer_class, *args, **kwargs):
    theirs = getattr(torch.nn, layer_class)(*args, **kwargs)
    ours = getattr(nn, layer_class)(*args, **kwargs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


def _assert_alike(theirs, ours, inputs, **kwargs):
    """Outputs and gradients of inputs and parameters, in training mode."""
    results = []
    for layer in (theirs, ours):
        given = [t.clone().requires_grad_() for t in inputs]
        outputs = layer(*given, **kwargs)
        outputs = [o for o in (outputs if isinstance(outputs, tuple) else (outputs,)) if o is not None]
        wanted = [*given, *layer.parameters()]
        grads = torch.autograd.grad(sum((o * o).sum() for o in outputs), wanted, allow_unused=True)
        results.append((outputs, grads))
    assert len(results[0][0]) == len(results[1][0])
    for a, b in zip(*(r[0] for r in results), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
    for a, b in zip(*(r[1] for r in results), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize(
    "options, call",
    [
        ({}, {}),
        ({"bias": False}, {}),
        ({"batch_first": True}, {}),
        ({"kdim": 9, "vdim": 11}, {}),
        ({"add_bias_kv": True}, {"attn_mask": _HIDDEN, "key_padding_mask": _PADDING}),
        ({"add_zero_attn": True}, {"attn_mask": _HIDDEN, "key_padding_mask": _PADDING}),
        ({"add_bias_kv": True, "add_zero_attn": True}, {"key_padding_mask": _PADDING}),
        ({}, {"attn_mask": _HIDDEN}),
        ({}, {"attn_mask": torch.linspace(-2, 2, 35).reshape(5, 7)}),
        ({}, {"attn_mask": torch.linspace(-2, 2, 35 * 12).reshape(12, 5, 7)}),
        ({}, {"key_padding_mask": _PADDING}),
        ({"batch_first": True}, {"key_padding_mask": torch.zeros(3, 7).masked_fill(_PADDING, -3.0)}),
        ({}, {"key_padding_mask": _PADDING.float(), "attn_mask": _HIDDEN.float()}),
        ({}, {"average_attn_weights": False}),
    ],
)
def test_multihead_attention(options, call, need_weights, kernels):
    theirs, ours = _twins("MultiheadAttention", 16, 4, **options)
    kdim, vdim = options.get("kdim", 16), options.get("vdim", 16)
    shapes = (
        ((3, 5, 16), (3, 7, kdim), (3, 7, vdim))
        if options.get("batch_first")
        else ((5, 3, 16), (7, 3, kdim), (7, 3, vdim))
    )
    inputs = [torch.randn(s) for s in shapes]
    _assert_alike(theirs, ours, inputs, need_weights=need_weights, **call)


@pytest.mark.parametrize("call", [{}, {"need_weights": False}, {"attn_mask": _CAUSAL, "is_causal": True}])
@pytest.mark.parametrize("batch_first", [False, True])
def test_self_attention_and_no_batch(batch_first, call, kernels):
    theirs, ours = _twins("MultiheadAttention", 16, 4, batch_first=batch_first)
    for shape in ((5, 16), (5, 3, 16) if not batch_first else (3, 5, 16)):
        x = torch.randn(shape)
        for key in (x, torch.randn(shape)):
            expected, weights = theirs(x, key, key, **call)
            actual, our_weights = ours(x, key, key, **call)
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
            assert (weights is None) == (our_weights is None)
            if weights is not None:
                torch.testing.assert_close(our_weights, weights, rtol=1e-4, atol=1e-5)


def test_causal_hint_needs_no_matrix(kernels):
    theirs, ours = _twins("MultiheadAttention", 16, 4)
    x = torch.randn(5, 3, 16)
    call = {"attn_mask": _CAUSAL, "is_causal": True, "need_weights": False}
    torch.testing.assert_close(ours(x, x, x, **call)[0], theirs(x, x, x, **call)[0], rtol=1e-4, atol=1e-5)


def test_functional_with_static_keys(kernels):
    layer = torch.nn.MultiheadAttention(16, 4)
    x, static = torch.randn(5, 3, 16), torch.randn(12, 6, 4)
    args = (x, x, x, 16, 4, layer.in_proj_weight, layer.in_proj_bias, None, None, False, 0.0)
    args = (*args, layer.out_proj.weight, layer.out_proj.bias)
    kwargs = {"static_k": static, "static_v": static, "need_weights": False}
    ours = F.multi_head_attention_forward(*args, **kwargs)[0]
    torch.testing.assert_close(ours, torch.nn.functional.multi_head_attention_forward(*args, **kwargs)[0])


def test_attention_dropout_only_in_training(kernels):
    layer = nn.MultiheadAttention(16, 4, dropout=0.5)
    x = torch.randn(5, 3, 16)
    assert not torch.equal(layer(x, x, x, need_weights=False)[0], layer(x, x, x, need_weights=False)[0])
    layer.eval()
    assert torch.equal(layer(x, x, x, need_weights=False)[0], layer(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu", torch.nn.GELU(), torch.tanh])
def test_encoder_layer(activation, norm_first, training, kernels):
    theirs, ours = _twins(
        "TransformerEncoderLayer", 16, 4, 24, 0.0, activation, norm_first=norm_first, batch_first=True
    )
    theirs.train(training), ours.train(training)
    _assert_alike(theirs, ours, [torch.randn(3, 7, 16)], src_key_padding_mask=_PADDING)


@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_layer(norm_first, kernels):
    theirs, ours = _twins("TransformerDecoderLayer", 16, 4, 24, 0.0, norm_first=norm_first)
    inputs = [torch.randn(5, 3, 16), torch.randn(7, 3, 16)]
    _assert_alike(theirs, ours, inputs, memory_key_padding_mask=_PADDING, tgt_mask=_CAUSAL, tgt_is_causal=True)


@pytest.mark.parametrize("mask", [None, _CAUSAL, _CAUSAL.isneginf(), torch.linspace(-1, 1, 25).reshape(5, 5)])
@pytest.mark.parametrize("is_causal", [None, False])
def test_encoder(mask, is_causal, kernels):
    layer = torch.nn.TransformerEncoderLayer(16, 4, 24, 0.0)
    theirs = torch.nn.TransformerEncoder(layer, 2, torch.nn.LayerNorm(16), enable_nested_tensor=False)
    ours = nn.TransformerEncoder(layer, 2, torch.nn.LayerNorm(16))
    ours.load_state_dict(theirs.state_dict())
    assert type(layer) is torch.nn.TransformerEncoderLayer
    _assert_alike(theirs, ours, [torch.randn(5, 3, 16)], mask=mask, is_causal=is_causal)


def test_padded_encoder_in_inference(kernels):
    theirs, ours = _twins("TransformerEncoder", torch.nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), 2)
    theirs.eval(), ours.eval()
    x, padding = torch.randn(3, 7, 16), _PADDING.sort(1).values
    with torch.no_grad():
        kept = ~padding
        expected, actual = (layer(x, src_key_padding_mask=padding)[kept] for layer in (theirs, ours))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_first", [False, True])
def test_transformer(batch_first, kernels):
    theirs, ours = _twins("Transformer", 16, 4, 2, 2, 24, 0.0, batch_first=batch_first)
    inputs = [torch.randn(3, s, 16) if batch_first else torch.randn(s, 3, 16) for s in (7, 5)]
    _assert_alike(theirs, ours, inputs, tgt_mask=_CAUSAL, src_key_padding_mask=_PADDING)


def test_one_seed_gives_torchs_parameters():
    torch.manual_seed(5)
    theirs = torch.nn.Transformer(16, 4, 1, 1, 24)
    torch.manual_seed(5)
    ours = nn.Transformer(16, 4, 1, 1, 24)
    for (name, a), (our_name, b) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
        assert name == our_name and torch.equal(a, b)


def test_custom_parts_keep_their_class():
    encoder = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(16, 4), 1)
    ours = nn.Transformer(16, 4, custom_encoder=encoder)
    assert type(ours.encoder) is torch.nn.TransformerEncoder
    assert type(ours.decoder.layers[0].self_attn) is nn.MultiheadAttention
    activation = torch.nn.GELU()
    nn.TransformerEncoderLayer(16, 4, activation=activation)
    assert type(activation) is torch.nn.GELU


@pytest.mark.parametrize("training", [True, False])
def test_attention_is_served_in_training_and_in_inference(training, kernels):
    layer = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), 2).train(training)
    with torch.set_grad_enabled(training), trace() as calls:
        layer(torch.randn(3, 7, 16))
    assert [op for op, _ in calls].count("attention") == 2
    assert {backend for _, backend in calls} == {"cpu"}


def test_copies_share_nothing(kernels):
    layer = nn.TransformerEncoderLayer(16, 4, 24)
    twin = copy.deepcopy(layer)
    assert type(twin.self_attn) is nn.MultiheadAttention
    assert twin.self_attn.in_proj_weight is not layer.self_attn.in_proj_weight


_X = torch.zeros(5, 3, 16)


@pytest.mark.parametrize(
    "args, kwargs, error, match",
    [
        ((_X[0, 0], _X, _X), {}, AssertionError, "'query'"),
        ((_X, _X[0], _X), {}, AssertionError, "'key'"),
        ((_X[..., :8], _X, _X), {}, AssertionError, "'query'"),
        ((_X, _X, _X[:3]), {}, AssertionError, "disagree"),
        ((_X, _X, _X), {"attn_mask": torch.zeros(4, 5)}, RuntimeError, "'attn_mask'"),
        ((_X, _X, _X), {"attn_mask": torch.zeros(5, 5, 5)}, RuntimeError, "'attn_mask'"),
        ((_X, _X, _X), {"attn_mask": torch.zeros(5, 5).long()}, AssertionError, "'attn_mask'"),
        ((_X, _X, _X), {"key_padding_mask": torch.zeros(3, 4)}, AssertionError, "'key_padding_mask'"),
        ((_X, _X, _X), {"key_padding_mask": torch.zeros(3)}, AssertionError, "'key_padding_mask'"),
        ((_X, _X, _X), {"is_causal": True}, RuntimeError, "is_causal"),
    ],
)
def test_refuses(args, kwargs, error, match):
    with pytest.raises(error, match=match):
        nn.MultiheadAttention(16, 4)(*args, **kwargs)
