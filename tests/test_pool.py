import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlperf import nn
from dlperf.nn import functional as F
from tests.family import check_case, parametrize

torch_F = torch.nn.functional
LAST = torch.channels_last


@parametrize("pool")
def test_case(case, dtype, isa):
    check_case(case, dtype, "cpu")


@parametrize("pool")
def test_reference(case, dtype):
    check_case(case, dtype, "reference")


def _double(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


POOLS = {
    "max": lambda f, x: f.max_pool2d(x, 3, 2, 1),
    "max-dilated": lambda f, x: f.max_pool2d(x, 2, 1, 1, 2),
    "average": lambda f, x: f.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "average-ceil": lambda f, x: f.avg_pool2d(x, (2, 3), (3, 2), (1, 0), True),
    "adaptive-average": lambda f, x: f.adaptive_avg_pool2d(x, (2, 3)),
    "adaptive-max": lambda f, x: f.adaptive_max_pool2d(x, (2, 3)),
    "max-lines": lambda f, x: f.max_pool1d(x.flatten(2), 3, 2),
    "average-lines": lambda f, x: f.avg_pool1d(x.flatten(2), 3, 2, 1),
}


@pytest.mark.parametrize("name", POOLS)
def test_reference_is_torchs(name):
    x = _double(2, 3, 5, 7)
    y, expected = POOLS[name](F, x), POOLS[name](torch_F, x)
    assert torch.equal(y, expected)
    gy = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, x, gy), torch.autograd.grad(expected, x, gy))


@pytest.mark.parametrize("name", POOLS)
def test_gradients(name):
    def pool(x):
        return POOLS[name](F, x)

    x = torch.randperm(2 * 2 * 4 * 5).double().view(2, 2, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(pool, x)
    assert torch.autograd.gradgradcheck(pool, x)


def _ties(shape):
    """Few different values, NaN and infinities among them."""
    values = torch.tensor([0.0, -0.0, 1.0, 2.0, float("nan"), float("inf"), -float("inf"), -float("inf")])
    return values[torch.randint(0, 8, shape)]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("adaptive", [False, True])
def test_indices_are_torchs(isa, last, adaptive):
    for shape in ((2, 3, 9, 40), (2, 20, 8, 8), (1, 64, 7, 33)):
        x = _ties(shape)
        x = x.contiguous(memory_format=LAST) if last else x
        if adaptive:
            ours, theirs = (f.adaptive_max_pool2d(x, (3, 5), return_indices=True) for f in (F, torch_F))
        else:
            ours, theirs = (f.max_pool2d(x, 3, 2, 1, return_indices=True) for f in (F, torch_F))
        torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=0, equal_nan=True)
        assert torch.equal(ours[1], theirs[1]) and ours[1].stride() == theirs[1].stride()


def test_indices_of_lines_are_torchs(kernels):
    x = torch.randn(2, 5, 40)
    for ours, theirs in zip(
        F.max_pool1d(x, 3, 2, 1, return_indices=True), torch_F.max_pool1d(x, 3, 2, 1, return_indices=True), strict=True
    ):
        assert torch.equal(ours, theirs)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 12), st.integers(1, 40)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padded=st.booleans(),
    ceil_mode=st.booleans(),
    last=st.booleans(),
)
def test_any_window(size, kernel, stride, dilation, padded, ceil_mode, last):
    x = torch.randn(size).contiguous(memory_format=LAST if last else torch.contiguous_format)
    padding = tuple(k // 2 for k in kernel) if padded else 0
    for ours, theirs in (
        (
            lambda: F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode),
            lambda: torch_F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode),
        ),
        (
            lambda: F.avg_pool2d(x, kernel, stride, padding, ceil_mode, not padded),
            lambda: torch_F.avg_pool2d(x, kernel, stride, padding, ceil_mode, not padded),
        ),
    ):
        try:
            expected = theirs()
        except RuntimeError:
            with pytest.raises(RuntimeError):
                ours()
            continue
        y = ours()
        assert y.stride() == expected.stride()
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 8, 6, 8), (2, 1, 6, 8), (2, 8, 1, 1)])
@pytest.mark.parametrize("kernel", [1, (1, 1)])
def test_memory_format_is_torchs(kernels, shape, kernel):
    x = torch.randn(shape)
    for t in (x, x.contiguous(memory_format=LAST), torch.randn(*shape[:3], shape[3] * 2)[..., ::2]):
        for pool in (
            lambda f, x: f.max_pool2d(x, kernel),
            lambda f, x: f.avg_pool2d(x, kernel),
            lambda f, x: f.adaptive_avg_pool2d(x, kernel),
        ):
            leaf = t.detach().clone(memory_format=torch.preserve_format).requires_grad_()
            y, expected = pool(F, leaf), pool(torch_F, leaf)
            assert y.stride() == expected.stride()
            torch.testing.assert_close(y, expected)
            (gx,) = torch.autograd.grad(y.sum(), leaf)
            torch.testing.assert_close(gx, torch.autograd.grad(expected.sum(), leaf)[0])


def test_no_indices_without_a_gradient(kernels):
    from dlperf.ops.pool import max_pool

    y, indices = max_pool(torch.randn(1, 3, 4, 4), (2, 2, 2, 2, 0, 0, 1, 1), (2, 2), False)
    assert y.shape == (1, 3, 2, 2) and indices.numel() == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_integers_as_torch(dtype):
    x = torch.randint(0, 100, (2, 3, 6, 6)).to(dtype)
    assert torch.equal(F.max_pool2d(x, 2), torch_F.max_pool2d(x, 2))
    if dtype is torch.int64:
        assert torch.equal(F.avg_pool2d(x, 2), torch_F.avg_pool2d(x, 2))


def test_scalars_and_sequences_of_one(kernels):
    x = torch.randn(2, 3, 8, 8)
    for kernel in (2, [2], (2, 2), torch.tensor(2)):
        assert torch.equal(F.max_pool2d(x, kernel, stride=[]), torch_F.max_pool2d(x, 2))
    assert torch.equal(F.max_pool1d(x[0], (2,)), torch_F.max_pool1d(x[0], 2))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("last", [False, True])
def test_gradients_at_any_number_of_threads(isa, threads, last):
    x = torch.randn(3, 70, 20, 30).contiguous(memory_format=LAST if last else torch.contiguous_format)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for dtype in (torch.float32, torch.bfloat16):
            leaf = x.to(dtype).requires_grad_()
            for pool in (POOLS["max"], POOLS["average"], POOLS["adaptive-average"]):
                y = pool(F, leaf)
                first, second = (torch.autograd.grad(y, leaf, y.detach(), retain_graph=True)[0] for _ in range(2))
                assert torch.equal(first, second)
                double = leaf.detach().double().requires_grad_()
                (expected,) = torch.autograd.grad(pool(torch_F, double), double, y.detach().double())
                tolerance = 1e-2 if dtype is torch.bfloat16 else 1e-5
                torch.testing.assert_close(first.double(), expected, rtol=tolerance, atol=tolerance)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", POOLS)
def test_compiles_whole(name, dynamic):
    torch._dynamo.reset()
    x = torch.randn(2, 3, 6, 8, requires_grad=True)
    compiled = torch.compile(lambda x: POOLS[name](F, x), fullgraph=True, backend="aot_eager", dynamic=dynamic)
    y, expected = compiled(x), POOLS[name](F, x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), x)[0] for out in (y, expected)))


def test_layer_gives_indices():
    x = torch.randn(2, 3, 8, 8)
    y, indices = nn.MaxPool2d(2, return_indices=True)(x)
    restored = nn.MaxUnpool2d(2)(y, indices)
    torch.testing.assert_close(restored.sum((2, 3)), y.sum((2, 3)))


def image(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


@pytest.mark.parametrize(
    "call",
    [
        lambda f: f.max_pool2d(image(4, 4), 2),
        lambda f: f.max_pool2d(image(1, 1, 1, 4, 4), 2),
        lambda f: f.max_pool2d(image(2, 3, 8, 8), 0),
        lambda f: f.max_pool2d(image(2, 3, 8, 8), -1),
        lambda f: f.max_pool2d(image(2, 3, 8, 8), [2, 2, 2]),
        lambda f: f.max_pool2d(image(2, 3, 8, 8), "a"),
        lambda f: f.max_pool2d(image(2, 3, 8, 8), 2.5),
        lambda f: f.max_pool2d(image(2, 3, 8, 8), None),
        lambda f: f.max_pool2d(image(2, 3, 8, 8), True),
        lambda f: f.max_pool2d(image(2, 3, 8, 8), 2, 0),
        lambda f: f.max_pool2d(image(2, 3, 8, 8), 2, -1),
        lambda f: f.max_pool2d(image(2, 3, 8, 8), 2, 2, 2),
        lambda f: f.max_pool2d(image(2, 3, 8, 8), 2, 2, -1),
        lambda f: f.max_pool2d(image(2, 3, 8, 8), 2, 2, "same"),
        lambda f: f.max_pool2d(image(2, 3, 8, 8), 2, 2, 0, 0),
        lambda f: f.max_pool2d(image(2, 3, 8, 8), 9),
        lambda f: f.max_pool2d(image(2, 0, 8, 8), 2),
        lambda f: f.max_pool2d(image(2, 3, 0, 8), 2),
        lambda f: f.max_pool2d(image(1, 1, 4, 4, dtype=torch.bool), 2),
        lambda f: f.max_pool2d(image(1, 1, 4, 4, dtype=torch.complex64), 2),
        lambda f: f.max_pool2d([1.0], 2),
        lambda f: f.avg_pool2d(image(1, 1, 1, 4, 4), 2),
        lambda f: f.avg_pool2d(image(2, 3, 8, 8), 0),
        lambda f: f.avg_pool2d(image(2, 3, 8, 8), 2, 2, 2),
        lambda f: f.avg_pool2d(image(2, 3, 8, 8), 9),
        lambda f: f.avg_pool2d(image(2, 3, 8, 8), 2, divisor_override=0),
        lambda f: f.avg_pool2d(image(2, 3, 8, 8), 2, divisor_override=1.5),
        lambda f: f.avg_pool2d(image(1, 1, 4, 4, dtype=torch.uint8), 2),
        lambda f: f.avg_pool2d(image(2, 0, 8, 8), 2),
        lambda f: f.max_pool1d(image(4), 2),
        lambda f: f.max_pool1d(image(1, 3, 4, 4), 2),
        lambda f: f.max_pool1d(image(2, 3, 4), [2, 2]),
        lambda f: f.max_pool1d(image(2, 3, 4), 5),
        lambda f: f.max_pool1d(image(2, 3, 4), "a"),
        lambda f: f.max_pool1d(image(2, 3, 4, dtype=torch.int64), 2),
        lambda f: f.avg_pool1d(image(4), 2),
        lambda f: f.avg_pool1d(image(2, 3, 4), [2, 2]),
        lambda f: f.avg_pool1d(image(2, 3, 0), 2),
        lambda f: f.adaptive_avg_pool2d(image(4, 4), 2),
        lambda f: f.adaptive_avg_pool2d(image(2, 3, 8, 8), -1),
        lambda f: f.adaptive_avg_pool2d(image(2, 3, 8, 8), [2]),
        lambda f: f.adaptive_avg_pool2d(image(2, 3, 8, 8), "a"),
        lambda f: f.adaptive_avg_pool2d(image(2, 3, 8, 8), 2.5),
        lambda f: f.adaptive_avg_pool2d(image(2, 3, 8, 8), None),
        lambda f: f.adaptive_avg_pool2d(image(2, 3, 0, 8), 2),
        lambda f: f.adaptive_avg_pool2d(image(1, 1, 4, 4, dtype=torch.int64), 2),
        lambda f: f.adaptive_max_pool2d(image(2, 0, 4, 4), 2),
        lambda f: f.adaptive_max_pool2d(image(2, 3, 8, 8), -1),
        lambda f: f.adaptive_avg_pool1d(image(4), 2),
        lambda f: f.adaptive_avg_pool1d(image(2, 3, 4), None),
        lambda f: f.adaptive_avg_pool1d(image(2, 3, 4), (2, 2)),
        lambda f: f.adaptive_max_pool1d(image(2, 3, 0), 2),
    ],
)
def test_bad_input_raises_what_torch_raises(call):
    with pytest.raises(Exception) as theirs:
        call(torch_F)
    with pytest.raises(type(theirs.value), match=r"(input|kernel_size|stride|padding|dilation|divisor|output_size)"):
        call(F)


@pytest.mark.parametrize(
    "call",
    [
        lambda f: f.max_pool2d(image(0, 3, 4, 4), 2),
        lambda f: f.avg_pool2d(image(0, 3, 4, 4), 2),
        lambda f: f.adaptive_avg_pool2d(image(2, 0, 4, 4), 2),
        lambda f: f.adaptive_avg_pool2d(image(2, 3, 4, 4), 0),
        lambda f: f.adaptive_max_pool2d(image(2, 3, 4, 4), (0, 2)),
        lambda f: f.adaptive_avg_pool1d(image(2, 3, 4), 0),
    ],
)
def test_empty_results(call):
    y, expected = call(F), call(torch_F)
    assert y.shape == expected.shape and y.numel() == 0


@pytest.mark.slow
def test_more_than_int32_elements(kernels):
    """Over 2^31 elements: offsets are 64 bits wide."""
    x = torch.zeros(2, 1, 33000, 33000, dtype=torch.bfloat16)
    x[1, 0, -1, -1] = 3.0
    y = F.max_pool2d(x, 1000, 1000)
    assert y.shape == (2, 1, 33, 33)
    assert y[1, 0, -1, -1] == 3.0 and y.float().sum() == 3.0
