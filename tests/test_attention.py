"""Scaled dot-product attention: the cases, torch's own as second opinion, properties, edges, refusals."""

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as torchs

import dlperf
from dlperf.backends import cpu
from dlperf.nn.functional import scaled_dot_product_attention
from dlperf.ops.attention import attention, attention_bwd
from dlperf.testing.compare import assert_matches
from tests.family import check_case, parametrize


@parametrize("attention")
def test_case(case, dtype, isa):
    check_case(case, dtype, "cpu")


@parametrize("attention")
def test_reference(case, dtype):
    check_case(case, dtype, "reference")


def _qkv(b=2, h=2, sq=5, sk=7, e=4, ev=None, dtype=torch.float64, grad=False):
    def tensor(s, width):
        return torch.randn(b, h, s, width, dtype=dtype, requires_grad=grad)

    return tensor(sq, e), tensor(sk, e), tensor(sk, ev or e)


_MASK = torch.tensor([[1, 0, 1, 1, 0, 1, 1]] * 4 + [[0] * 7], dtype=torch.bool)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"scale": 0.3},
        {"is_causal": True},
        {"attn_mask": _MASK},
        {"attn_mask": torch.linspace(-3, 3, 35, dtype=torch.float64).reshape(5, 7)},
        {"attn_mask": torch.zeros(5, 7, dtype=torch.float64).masked_fill(~_MASK, -math.inf)},
        {"attn_mask": torch.zeros(5, 7, dtype=torch.float64).masked_fill(~_MASK, torch.finfo(torch.float64).min)},
    ],
    ids=["plain", "scale", "causal", "bool", "float", "infinite", "lowest"],
)
def test_reference_is_torchs_math(kwargs):
    q, k, v = _qkv(ev=6, grad=True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        theirs = torchs(q, k, v, **kwargs)
        their_grads = torch.autograd.grad(theirs.square().sum(), (q, k, v))
    ours = scaled_dot_product_attention(q, k, v, **kwargs)
    our_grads = torch.autograd.grad(ours.square().sum(), (q, k, v))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(our_grads, their_grads, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "shapes",
    [
        ((5, 4), (7, 4), (7, 3)),
        ((3, 5, 4), (3, 7, 4), (3, 7, 3)),
        ((1, 5, 4), (3, 7, 4), (1, 7, 3)),
        ((2, 3, 5, 4), (1, 3, 7, 4), (2, 3, 7, 4)),
        ((2, 3, 5, 4), (2, 1, 7, 4), (2, 1, 7, 4)),
        ((2, 3, 5, 4), (2, 1, 7, 4), (2, 3, 7, 4)),
        ((2, 1, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4)),
        ((2, 3, 5, 4), (3, 7, 4), (3, 7, 4)),
        ((2, 1, 3, 5, 4), (1, 2, 3, 7, 4), (2, 2, 3, 7, 4)),
    ],
    ids=str,
)
def test_shapes_that_torch_takes(shapes, kernels):
    q, k, v = (torch.randn(s, requires_grad=True) for s in shapes)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        theirs = torchs(q, k, v)
        their_grads = torch.autograd.grad(theirs.square().sum(), (q, k, v))
    ours = scaled_dot_product_attention(q, k, v)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs)
    our_grads = torch.autograd.grad(ours.square().sum(), (q, k, v))
    torch.testing.assert_close(our_grads, their_grads, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", [(6, 2, 2), (6, 3, 2), (6, 1, 3), (4, 4, 4)], ids=str)
def test_grouped_heads(heads, kernels):
    hq, hk, hv = heads
    q, k, v = torch.randn(2, hq, 5, 4), torch.randn(2, hk, 7, 4), torch.randn(2, hv, 7, 4)
    expected = torchs(q, k.repeat_interleave(hq // hk, 1), v.repeat_interleave(hq // hv, 1))
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v, enable_gqa=True), expected)


def test_output_has_the_querys_memory_order(kernels):
    x = torch.randn(2, 50, 3, 16).transpose(1, 2)
    assert scaled_dot_product_attention(x, x, x).transpose(1, 2).is_contiguous()
    x = torch.randn(50, 2, 3, 16).permute(1, 2, 0, 3)
    assert scaled_dot_product_attention(x, x, x).permute(2, 0, 1, 3).is_contiguous()
    y = x.contiguous()
    assert scaled_dot_product_attention(y, x, x).is_contiguous()


def test_strided_offset_and_expanded_views(kernels):
    packed = torch.randn(2, 33, 3, 4, 16)
    q, k, v = (t.transpose(1, 2) for t in packed.unbind(2))
    expected = torchs(q.contiguous(), k.contiguous(), v.contiguous())
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v), expected)
    q, k, v = torch.randn(1, 1, 20, 9), torch.randn(1, 1, 9, 20).mT, torch.randn(1, 1, 41, 9)[:, :, 1::2]
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v), torchs(q, k.contiguous(), v.contiguous()))
    wide = k.expand(3, 2, -1, -1)
    expected = torchs(q.expand(3, 2, -1, -1).contiguous(), wide.contiguous(), v.expand(3, 2, -1, -1).contiguous())
    torch.testing.assert_close(
        scaled_dot_product_attention(q.expand(3, 2, -1, -1), wide, v.expand(3, 2, -1, -1)), expected
    )


def test_expanded_gradient(kernels):
    q, k, v = _qkv(sq=20, dtype=torch.float32, grad=True)
    ours = torch.autograd.grad(scaled_dot_product_attention(q, k, v).sum(), (q, k, v))
    theirs = torch.autograd.grad(torchs(q, k, v).sum(), (q, k, v))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_rows_without_keys_are_zero_and_have_no_gradient(isa):
    q, k, v = _qkv(sq=20, sk=33, dtype=torch.float32, grad=True)
    mask = torch.ones(20, 33, dtype=torch.bool)
    mask[7] = False
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert torch.equal(out[:, :, 7], torch.zeros_like(out[:, :, 7]))
    grads = torch.autograd.grad(out.square().sum() + out[:, :, 7].sum(), (q, k, v))
    assert torch.equal(grads[0][:, :, 7], torch.zeros_like(grads[0][:, :, 7]))
    assert all(bool(g.isfinite().all()) for g in grads)


def test_no_keys_at_all(kernels):
    q, k, v = _qkv(sk=0, dtype=torch.float32, grad=True)
    out = scaled_dot_product_attention(q, k, v)
    assert torch.equal(out, torch.zeros_like(q))
    assert torch.equal(torch.autograd.grad(out.sum(), q)[0], torch.zeros_like(q))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["query", "key", "value"])
def test_nan_and_infinity_as_torchs(value, where, isa):
    q, k, v = _qkv(sq=20, sk=300, e=8, dtype=torch.float32)
    {"query": q, "key": k, "value": v}[where][0, 1, 3, 2] = value
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        theirs = torchs(q, k, v)
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v), theirs, equal_nan=True)


def _gradients(q, k, v, g, scale, causal=False, dropout=None):
    out, stats = attention(q, k, v, None, dropout, causal, scale, 0.3 if dropout is not None else 0.0)
    p = 0.0 if dropout is None else 0.3
    return out, *attention_bwd(g, q, k, v, None, dropout, out, stats, causal, scale, p, False)[:3]


# Tiles of 16 rows by 16 columns, steps of 32 elements, slabs of 32 queries, blocks of 96 queries and of 256 keys.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "sq, sk, e, ev",
    [(31, 33, 31, 17), (33, 31, 33, 15), (97, 65, 20, 12), (113, 257, 65, 40), (200, 300, 128, 64), (5, 40, 24, 16)],
)
@pytest.mark.parametrize("causal", [False, True])
def test_sizes_around_tiles(sq, sk, e, ev, causal, dtype, kernels):
    q, k, v = (t.to(dtype) for t in _qkv(1, 2, sq, sk, e, ev, dtype=torch.float32))
    k, v = k[:, :1], v[:, :1]
    g = torch.randn(1, 2, sq, ev).to(dtype)
    rng = torch.tensor([11, 12])
    for dropout in (None, rng):
        ours = _gradients(q, k, v, g, 0.2, causal, dropout)
        with dlperf.backend("reference"):
            truth = _gradients(*(t.double() for t in (q, k, v, g)), 0.2, causal, dropout)
            theirs = _gradients(q, k, v, g, 0.2, causal, dropout)
        for a, true, baseline in zip(ours, truth, theirs, strict=True):
            assert_matches(a, true, baseline=baseline, reduction=2 * sk + 2 * sq)


# Where float32 can't be cut into parts of bfloat16 (gemm_tiles.h): too large, no number, all of a factor too small.
@pytest.mark.parametrize("where", ["query", "key", "value", "gradient"])
@pytest.mark.parametrize("value", [2.0**61, math.inf, math.nan, 1e-40])
def test_magnitudes_beyond_parts(value, where, isa):
    q, k, v = _qkv(1, 2, 40, 70, 32, dtype=torch.float32)
    g = torch.randn_like(q)
    {"query": q, "key": k, "value": v, "gradient": g}[where][0, 1, 3, 2] = value
    ours = _gradients(q, k, v, g, 0.25)
    truth = [t.double().requires_grad_() for t in (q, k, v)]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        out = torchs(*truth, scale=0.25)
    if where != "gradient":
        torch.testing.assert_close(ours[0], out.float(), equal_nan=True)
    if where == "key" and value == 2.0**61:  # its gradients are dS's rounding errors times that
        assert all(bool(t.isfinite().all()) for t in ours)
    elif math.isfinite(value):
        for a, b in zip(ours[1:], torch.autograd.grad(out, truth, g.double()), strict=True):
            assert_matches(a, b, reduction=400)
    else:
        cpu.C.set_isa_cap("scalar")
        for a, b in zip(ours[1:], _gradients(q, k, v, g, 0.25)[1:], strict=True):
            torch.testing.assert_close(a, b, equal_nan=True, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("magnitude", [1e-36, 1e-32, 1e-28, 1e-20, 1e17])
@pytest.mark.parametrize("where", ["value", "gradient"])
def test_small_and_large_factors(magnitude, where, isa):
    q, k, v = _qkv(1, 1, 40, 70, 32, dtype=torch.float32)
    g = torch.randn_like(q)
    {"value": v, "gradient": g}[where].mul_(magnitude)
    ours = _gradients(q, k, v, g, 0.25)
    doubles = [t.double().requires_grad_() for t in (q, k, v)]
    truth = torchs(*doubles, scale=0.25)
    assert_matches(ours[0], truth, reduction=400)
    for a, b in zip(ours[1:], torch.autograd.grad(truth, doubles, g.double()), strict=True):
        assert_matches(a, b, reduction=800)


def test_large_scores_do_not_overflow(isa):
    q, k, v = _qkv(sq=20, sk=300, e=8, dtype=torch.float32, grad=True)
    out = scaled_dot_product_attention(q * 1e3, k * 1e2, v)
    truth = scaled_dot_product_attention(q.double() * 1e3, k.double() * 1e2, v.double())
    assert bool(out.isfinite().all())
    torch.testing.assert_close(out.double(), truth, rtol=1e-3, atol=1e-3)


def test_shifting_the_mask_changes_nothing(isa):
    q, k, v = _qkv(sq=30, sk=300, e=16, dtype=torch.float32)
    mask = torch.randn(30, 300)
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v, attn_mask=mask + 4), out, rtol=1e-4, atol=1e-5)


def test_results_do_not_depend_on_timing(kernels):
    q, k, v = _qkv(b=1, h=1, sq=500, sk=700, e=16, dtype=torch.float32, grad=True)

    def run():
        out = scaled_dot_product_attention(q, k, v, is_causal=True)
        return out, *torch.autograd.grad(out.square().sum(), (q, k, v))

    first = run()
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


@pytest.mark.parametrize("threads", [1, 3])
def test_any_thread_count(threads, kernels):
    q, k, v = _qkv(b=1, h=2, sq=300, sk=600, e=16, dtype=torch.float32, grad=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = scaled_dot_product_attention(q, k, v)
        grads = torch.autograd.grad(out.square().sum(), (q, k, v))
    finally:
        torch.set_num_threads(before)
    doubles = [t.detach().double().requires_grad_() for t in (q, k, v)]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        truth = torchs(*doubles)
    assert_matches(out, truth, reduction=600)
    for ours, true in zip(grads, torch.autograd.grad(truth.square().sum(), doubles), strict=True):
        assert_matches(ours, true, reduction=1200)


def test_memory_is_linear_in_the_sequence(kernels):
    def bytes_of(s):
        strides = (s * 64, s * 64, 64)
        shape = cpu.C.AttentionShape(*(1, 1, 1, s, s, 64, 64), *(strides,) * 4, (0, 0, 0, 0), 0, 0, False, 0.125, 0.0)
        grad = cpu.C.AttentionGradShape(shape, *(strides,) * 4)
        return cpu.C.attention_forward_bytes(shape, 2), cpu.C.attention_backward_bytes(grad, 2)

    for short, long in zip(bytes_of(4096), bytes_of(65536), strict=True):
        assert long <= 16 * short
        assert long <= 16 * 65536 * 64 * 4


def test_gradcheck():
    q, k, v = _qkv(sq=3, sk=4, e=3, ev=2, grad=True)
    mask = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(scaled_dot_product_attention, (q, k, v, mask))
    assert torch.autograd.gradgradcheck(scaled_dot_product_attention, (q, k, v, mask))
    assert torch.autograd.gradcheck(lambda *t: scaled_dot_product_attention(*t, is_causal=True), (q, k, v))


def test_statistics_are_the_logarithm_of_the_sum(isa):
    q, k, v = _qkv(sq=20, sk=300, e=8, dtype=torch.float32)
    _, stats = attention(q, k, v, None, None, False, 0.5, 0.0)
    torch.testing.assert_close(stats.sum(-1), torch.logsumexp(0.5 * q @ k.mT, -1))


def test_mask_gradient_only_where_asked(kernels):
    q, k, v = _qkv(sq=5, sk=7, dtype=torch.float32)
    mask = torch.randn(1, 1, 5, 7)
    out, stats = attention(q, k, v, mask, None, False, 0.5, 0.0)
    *_, gm = attention_bwd(out, q, k, v, mask, None, out, stats, False, 0.5, 0.0, False)
    assert gm.shape == (0,)


def _dropped(p, sq=40, sk=50, seed=3):
    """Which entries of the softmax stay, read off the operator: equal probabilities, values that count keys."""
    q = torch.zeros(2, 3, sq, 8)
    out, _ = attention(
        q, torch.zeros(2, 3, sk, 8), torch.eye(sk).expand(2, 3, sk, sk), None, torch.tensor([seed, 5]), False, 1.0, p
    )
    return out * sk


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_right_share_and_scales_it(p, isa):
    kept = _dropped(p)
    torch.testing.assert_close(kept[kept != 0], torch.full_like(kept[kept != 0], 1 / (1 - p)))
    share = (kept != 0).float().mean().item()
    assert abs(share - (1 - p)) < 4 * math.sqrt(p * (1 - p) / kept.numel())
    with dlperf.backend("reference"):
        torch.testing.assert_close(kept, _dropped(p))


def test_dropout_everything_and_nothing(kernels):
    q, k, v = _qkv(dtype=torch.float32, grad=True)
    out = scaled_dot_product_attention(q, k, v, dropout_p=1.0)
    assert torch.equal(out, torch.zeros_like(q))
    assert all(not g.any() for g in torch.autograd.grad(out.sum(), (q, k, v)))


def test_dropout_differs_by_seed_and_follows_manual_seed(kernels):
    assert not torch.equal(_dropped(0.5, seed=3), _dropped(0.5, seed=4))
    q, k, v = _qkv(sq=30, sk=70, dtype=torch.float32)
    torch.manual_seed(7)
    first = scaled_dot_product_attention(q, k, v, dropout_p=0.3)
    second = scaled_dot_product_attention(q, k, v, dropout_p=0.3)
    torch.manual_seed(7)
    assert torch.equal(scaled_dot_product_attention(q, k, v, dropout_p=0.3), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("sk", [40, 301])
def test_dropout_gradients_see_the_same_draw(sk, isa):
    q, k, v = _qkv(b=2, h=4, sq=130, sk=sk, e=16, dtype=torch.float32, grad=True)
    k, v = (t[:, :2].detach().requires_grad_() for t in (k, v))
    rng = torch.tensor([2**61 + 3, 2**60 + 1])

    def run(name, *tensors):
        with dlperf.backend(name):
            out, _ = attention(*tensors, None, rng, True, 0.25, 0.3)
            return out, *torch.autograd.grad(out.square().sum(), tensors)

    doubles = [t.detach().double().requires_grad_() for t in (q, k, v)]
    for ours, truth in zip(run("cpu", q, k, v), run("reference", *doubles), strict=True):
        assert_matches(ours, truth, reduction=1200)


def test_dropout_gradcheck():
    q, k, v = _qkv(sq=3, sk=4, e=3, ev=2, grad=True)
    rng = torch.tensor([1, 2])
    assert torch.autograd.gradcheck(lambda *t: attention(*t, None, rng, False, 0.5, 0.4)[0], (q, k, v))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole(dynamic, kernels):
    def step(q, k, v, mask):
        return scaled_dot_product_attention(q, k, v, attn_mask=mask).square().sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for sk in (7, 9):
        q, k, v = _qkv(sk=sk, dtype=torch.float32, grad=True)
        mask = torch.randn(5, sk)
        ours = torch.autograd.grad(compiled(q, k, v, mask), (q, k, v))
        torch.testing.assert_close(ours, torch.autograd.grad(step(q, k, v, mask), (q, k, v)))


def test_autocast(kernels):
    q, k, v = _qkv(sq=20, sk=33, dtype=torch.float32, grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = scaled_dot_product_attention(q, k, v, attn_mask=torch.zeros(20, 33))
    assert out.dtype is torch.bfloat16
    assert torch.autograd.grad(out.float().sum(), q)[0].dtype is torch.float32


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap():
    q, k, v = _qkv(dtype=torch.float32)
    ours = torch.func.vmap(scaled_dot_product_attention)(q[:, None], k[:, None], v[:, None])
    torch.testing.assert_close(ours[:, 0], scaled_dot_product_attention(q, k, v))


_X = torch.zeros(2, 4, 5, 8)


@pytest.mark.parametrize(
    "args, kwargs, error, match",
    [
        ((1, _X, _X), {}, TypeError, "'query'"),
        ((_X, _X.double(), _X), {}, RuntimeError, "one dtype"),
        ((_X.long(), _X.long(), _X.long()), {}, RuntimeError, "'query'"),
        ((_X, _X[..., :4], _X), {}, RuntimeError, "one head dimension"),
        ((_X, _X, _X[:, :, :3]), {}, RuntimeError, "one sequence length"),
        ((_X, _X[:, :2], _X[:, :2]), {}, RuntimeError, "heads"),
        ((_X, _X[:, :3], _X[:, :3]), {"enable_gqa": True}, RuntimeError, "must divide"),
        ((_X, _X[:, :0], _X[:, :0]), {"enable_gqa": True}, RuntimeError, "must divide"),
        ((_X, torch.zeros(3, 4, 5, 8), _X), {}, RuntimeError, "batch"),
        ((_X[0, 0, 0], _X, _X), {}, RuntimeError, "two or more dimensions"),
        ((_X, _X, _X), {"dropout_p": 1.5}, RuntimeError, "'dropout_p'"),
        ((_X, _X, _X), {"dropout_p": -0.5}, RuntimeError, "'dropout_p'"),
        ((_X, _X, _X), {"attn_mask": torch.zeros(5, 5, dtype=torch.int32)}, RuntimeError, "'attn_mask'"),
        ((_X, _X, _X), {"attn_mask": torch.zeros(5, 5, dtype=torch.float64)}, RuntimeError, "'attn_mask'"),
        ((_X, _X, _X), {"attn_mask": torch.zeros(3, 5)}, RuntimeError, "broadcast"),
        ((_X, _X, _X), {"attn_mask": torch.zeros(1, 2, 4, 5, 5)}, RuntimeError, "broadcast"),
        ((_X, _X, _X), {"attn_mask": torch.zeros(5)}, IndexError, "'attn_mask'"),
        ((_X, _X, _X), {"attn_mask": True}, TypeError, "'attn_mask'"),
    ],
)
def test_refuses(args, kwargs, error, match):
    with pytest.raises(error, match=match):
        scaled_dot_product_attention(*args, **kwargs)
