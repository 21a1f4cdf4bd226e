"""The CUDA C++ kernels on the emulator against float64: rests of every tile, all layouts, gradients."""

import pytest
import torch
import torch.nn.functional as theirs

import dlperf
from dlperf.backends import cuda as backend
from dlperf.backends.cuda._library import capability
from dlperf.diffusion import functional as diffusion
from dlperf.nn import functional as F
from dlperf.ops import dropout as random_ops
from dlperf.testing.compare import assert_matches

from .tools import HALVES, LAST, check, tensor


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("m, n, k", [(5, 8, 8), (129, 72, 72), (64, 264, 520), (9, 16, 4104)])
def test_linear(m, n, k, dtype):
    x, w, b = tensor(m, k, dtype=dtype), tensor(n, k, dtype=dtype, scale=k**-0.5), tensor(n, dtype=dtype)
    check(F.linear, theirs.linear, (x, w, b), k)


@pytest.mark.parametrize("kind", ["relu", "silu", "gelu", "gelu_tanh"])
def test_linear_with_its_whole_epilogue(kind):
    x, w, b, r = tensor(70, 64), tensor(40, 64, scale=0.125), tensor(40), tensor(70, 40)
    own = {"relu": theirs.relu, "silu": theirs.silu, "gelu": theirs.gelu}
    own["gelu_tanh"] = lambda z: theirs.gelu(z, approximate="tanh")
    with torch.no_grad():
        y = F.linear(x, w, b, residual=r, activation=kind)
        truth = own[kind](theirs.linear(x.double(), w.double(), b.double()) + r.double())
        baseline = own[kind](theirs.linear(x, w, b) + r)
    assert_matches(y, truth, baseline=baseline, reduction=64)


# 264 rows: three tiles, which clusters take two at a time
@pytest.mark.parametrize("m", [136, 264])
@pytest.mark.parametrize("a_across", [False, True])
@pytest.mark.parametrize("b_across", [False, True])
def test_products_of_any_layout(a_across, b_across, m):
    a = tensor(3, 72, m).mT.detach() if a_across else tensor(3, m, 72).detach()
    b = tensor(3, 72, 200).detach() if b_across else tensor(3, 200, 72).mT.detach()
    added = tensor(3, m, 200).detach()
    with backend_calls() as calls:
        c = torch.ops.dlperf.bmm(a, b, None, added, 0.5, 2.0, "none")
    assert calls == [("bmm", "cuda")]
    truth = 2.0 * (a.double() @ b.double()) + 0.5 * added.double()
    baseline = torch.baddbmm(added, a, b, beta=0.5, alpha=2.0)
    assert_matches(c, truth, baseline=baseline, reduction=72)


# Nine tiles on four processors: the ninth in three parts. Three clusters of two tiles on two pairs: the third in two.
@pytest.mark.parametrize("m, n, k", [(264, 72, 2056), (136, 200, 4104)])
def test_products_whose_last_tiles_are_split(m, n, k):
    a, b, bias, added = (tensor(*size).detach() for size in ((3, m, k), (3, k, n), (n,), (3, m, n)))
    c = torch.ops.dlperf.bmm(a, b, bias, added, 0.5, 0.1, "relu")
    baseline = (torch.baddbmm(added, a, b, beta=0.5, alpha=0.1) + bias).relu()
    truth = (0.1 * (a.double() @ b.double()) + bias.double() + 0.5 * added.double()).relu()
    assert_matches(c, truth, baseline=baseline, reduction=k)


def backend_calls():
    from dlperf import backends

    return backends.trace()


CONVOLUTIONS = [
    # n, c, h, w, k, taps, stride, padding, dilation
    (2, 16, 7, 9, 24, 3, 1, 1, 1),
    (1, 72, 6, 5, 40, 3, 2, 1, 1),
    (2, 8, 9, 8, 136, 2, 3, 0, 2),
    (1, 40, 6, 6, 8, 1, 2, 0, 1),
    (1, 24, 5, 5, 16, 1, 1, 0, 1),
    (9, 64, 16, 16, 64, 3, 1, 1, 1),  # large enough for im2col copies
    (32, 8, 20, 20, 8, 1, 2, 0, 1),  # the weight's gradient a sum of parts
    (1, 8, 7, 7, 520, 3, 2, 1, 1),  # and one phase of the input's, beside phases that are not
]
if capability(None) == 90:
    CONVOLUTIONS.append((2, 144, 16, 15, 512, 2, 1, 1, 1))  # and wide enough for clusters


@pytest.mark.parametrize("n, c, h, w, k, taps, stride, padding, dilation", CONVOLUTIONS)
def test_convolution(n, c, h, w, k, taps, stride, padding, dilation):
    x = tensor(n, c, h, w, last=True)
    weight, bias = tensor(k, c, taps, taps, scale=(c * taps * taps) ** -0.5, last=True), tensor(k)

    def call(f):
        return lambda x, weight, bias: f.conv2d(x, weight, bias, stride, padding, dilation)

    check(call(F), call(theirs), (x, weight, bias), c * taps * taps)


def test_convolution_with_its_whole_epilogue():
    x, weight, bias, r = (
        tensor(2, 16, 6, 6, last=True),
        tensor(24, 16, 3, 3),
        tensor(24),
        tensor(2, 24, 6, 6, last=True),
    )
    with torch.no_grad():
        y = F.conv2d(x, weight, bias, padding=1, residual=r, activation="relu")
        truth = (theirs.conv2d(x.double(), weight.double(), bias.double(), padding=1) + r.double()).relu()
        baseline = (theirs.conv2d(x, weight, bias, padding=1) + r).relu()
    assert_matches(y, truth, baseline=baseline, reduction=144)


def test_transposed_convolution():
    x, weight, bias = tensor(2, 16, 5, 4, last=True), tensor(16, 24, 3, 3, scale=0.1), tensor(24)

    def call(f):
        return lambda x, weight, bias: f.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1)

    check(call(F), call(theirs), (x, weight, bias), 64)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("d, heads, kv_heads, queries, keys, causal", [
    (64, 2, 2, 70, 380, False),
    (64, 1, 1, 150, 150, True),
    (128, 2, 1, 33, 129, False),
    (128, 1, 1, 130, 40, True),
    (128, 1, 1, 40, 700, False),
])  # fmt: skip
def test_attention(d, heads, kv_heads, queries, keys, causal, dtype):
    q, k, v = (tensor(1, h, s, d, dtype=dtype) for h, s in ((heads, queries), (kv_heads, keys), (kv_heads, keys)))

    def call(f):
        return lambda q, k, v: f.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=heads != kv_heads)

    check(call(F), call(theirs), (q, k, v), max(queries, keys))


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("rows, columns", [(3, 8), (21, 264), (9, 768), (5, 1032), (2, 4104)])
def test_layer_norm(rows, columns, dtype):
    x, w, b = (tensor(*size, dtype=dtype) for size in ((rows, columns), (columns,), (columns,)))
    check(*(lambda x, w, b, f=f: f.layer_norm(x, (columns,), w, b) for f in (F, theirs)), (x, w, b), columns)


def test_rms_norm():
    x, w = tensor(11, 264, dtype=torch.float32), tensor(264, dtype=torch.float32)
    check(*(lambda x, w, f=f: f.rms_norm(x, (264,), w) for f in (F, theirs)), (x, w), 264)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n, c, h, w", [(2, 8, 3, 5), (3, 72, 5, 7), (1, 264, 4, 4)])
def test_batch_norm_with_residual_and_relu(n, c, h, w, dtype):
    x, r = (tensor(n, c, h, w, dtype=dtype, last=True) for _ in "xr")
    weight, bias = tensor(c, dtype=dtype), tensor(c, dtype=dtype)

    def ours(x, weight, bias, r):
        return F.batch_norm(x, None, None, weight, bias, True, residual=r, activation="relu")

    def own(x, weight, bias, r):
        return theirs.relu(theirs.batch_norm(x, None, None, weight, bias, True) + r)

    check(ours, own, (x, weight, bias, r), n * h * w)


def test_running_statistics_and_evaluation():
    x, mean, var = tensor(4, 16, 3, 3, dtype=torch.float32, last=True).detach(), torch.zeros(16), torch.ones(16)
    own_mean, own_var = mean.clone(), var.clone()
    F.batch_norm(x, mean, var, training=True)
    theirs.batch_norm(x, own_mean, own_var, training=True)
    torch.testing.assert_close((mean, var), (own_mean, own_var))
    torch.testing.assert_close(F.batch_norm(x, mean, var), theirs.batch_norm(x, mean, var))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("c, groups", [(8, 2), (24, 3), (64, 32), (264, 1)])
def test_group_norm_with_silu(c, groups, dtype):
    x, weight, bias = tensor(3, c, 5, 6, dtype=dtype, last=True), tensor(c, dtype=dtype), tensor(c, dtype=dtype)

    def ours(x, weight, bias):
        return F.group_norm(x, groups, weight, bias, activation="silu")

    def own(x, weight, bias):
        return theirs.silu(theirs.group_norm(x, groups, weight, bias))

    check(ours, own, (x, weight, bias), 30 * c // groups)


def test_statistics_of_values_far_from_zero():
    x = (torch.randn(2, 16, 20, 20) + 1e4).to(memory_format=LAST)
    y = F.batch_norm(x, None, None, training=True)
    truth = theirs.batch_norm(x.double(), None, None, training=True)
    assert_matches(y, truth, baseline=theirs.batch_norm(x, None, None, training=True), reduction=800)


@pytest.mark.parametrize("n", [1, 8, 1003])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_dropout_draws_the_words_of_the_cpu_backend(n, dtype):
    x, pair = torch.randn(n).to(dtype), torch.tensor([2**40 + 5, -3])
    for p in (0.0, 0.3, 1.0):
        found = random_ops.dropout_op(x, pair, p)
        with dlperf.backend("reference"):
            assert torch.equal(found, random_ops.dropout_op(x, pair, p))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_diffusion_step(last, dtype):
    x, m, u = (tensor(3, 4, 6, 6, dtype=dtype, last=last).detach() for _ in "xmu")
    options = {"alpha_bar": 0.5, "alpha_bar_prev": 0.52, "clip_range": 1.0, "uncond": u, "guidance_scale": 2.0}
    for noise in ({"seed": 11, "step": 3, "first_sample": 5}, {"noise": x.flip(0)}):
        found = diffusion.ddpm_step(m, x, **options, **noise)
        with dlperf.backend("reference"):
            truth = diffusion.ddpm_step(m, x, **options, **noise)
        tolerance = 2e-5 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(found, truth, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("velocity", [False, True])
def test_add_noise(velocity):
    x, z = torch.randn(3, 8), torch.randn(3, 8)
    table, steps = torch.linspace(0.9, 0.1, 10, dtype=torch.float64), torch.tensor([0, 9, 4])
    found = torch.ops.dlperf.add_noise(x, z, table, steps, velocity)
    with dlperf.backend("reference"):
        torch.testing.assert_close(found, torch.ops.dlperf.add_noise(x, z, table, steps, velocity))
    assert torch.ops.dlperf.add_noise(x, z, table, torch.tensor([0, 10, 4]), velocity)[1].isnan().all()


def test_what_is_declined_says_why():
    aligned = torch.randn(16, 64, dtype=torch.bfloat16)
    shifted = torch.randn(16 * 64 + 1, dtype=torch.bfloat16)[1:].view(16, 64)
    image = torch.randn(8, 3, 8, 8).bfloat16()
    for call, reason in (
        (lambda: F.linear(shifted, aligned), "multiple of 16 bytes"),
        (lambda: F.linear(aligned, aligned[:3]), "out_features is 3"),
        (lambda: F.linear(aligned.float(), aligned.float()), "not float32"),
        (lambda: F.linear(aligned, aligned, activation="mish"), "not mish"),
        (lambda: F.conv2d(image, image), "input_channels is 3"),
        (lambda: F.layer_norm(torch.randn(2, 8200), (8200,)), "at most 8192"),
        (lambda: F.group_norm(torch.randn(2, 16, 4, 4), 2), "not channels last"),
        (lambda: F.relu(torch.randn(8, dtype=torch.float64)), "no float64"),
    ):
        with torch.no_grad(), pytest.raises(dlperf.BackendError, match=reason):
            call()


def test_a_failed_launch_names_the_kernel_and_the_next_backend_takes_over(monkeypatch):
    from dlperf import backends

    def refuse(*args):
        raise backend.C.LaunchError("gemm on 1 x 8 x 8 x 8: out of resources")

    monkeypatch.setattr(backend.C, "gemm", refuse)
    monkeypatch.setattr(backend, "_failed", {})
    monkeypatch.setitem(backends.ORDER, "cpu", ("cuda", "reference"))
    x = torch.randn(8, 8, dtype=torch.bfloat16)
    with pytest.raises(dlperf.BackendError, match="gemm on 1 x 8 x 8 x 8"):
        F.linear(x, x)
    with dlperf.backend("auto"), backends.trace() as calls:
        y = F.linear(x, x)
    assert torch.equal(y, theirs.linear(x, x)) or torch.allclose(y.float(), theirs.linear(x, x).float(), atol=0.1)
    assert calls[-1] == ("linear", "reference")
    assert "out of resources" in backend.why_not("linear", x, x, None, None, "none")


def test_the_emulator_is_on():
    assert backend.EMULATED
