import math

import pytest
import torch

import dlperf
from dlperf.backends.cpu import matmul as cpu_matmul
from dlperf.nn import functional as F
from dlperf.testing.compare import assert_matches
from tests.family import check_case, parametrize


@parametrize("matmul")
def test_case(case, dtype, isa):
    check_case(case, dtype, "cpu")


@parametrize("matmul")
def test_reference(case, dtype):
    check_case(case, dtype, "reference")


def _doubles(*shapes, grad=True):
    return [torch.randn(shape, dtype=torch.float64, requires_grad=grad) for shape in shapes]


# name -> (dlperf's function, torch's, shapes)
SECOND_OPINIONS = {
    "linear": (F.linear, torch.nn.functional.linear, [(2, 3, 4), (5, 4), (5,)]),
    "linear-scalar-bias": (F.linear, torch.nn.functional.linear, [(3, 4), (5, 4), ()]),
    "linear-matrix-bias": (F.linear, torch.nn.functional.linear, [(2, 3, 4), (5, 4), (3, 5)]),
    "linear-vector-weight": (F.linear, torch.nn.functional.linear, [(2, 3, 4), (4,)]),
    "mm": (F.mm, torch.mm, [(3, 4), (4, 5)]),
    "bmm": (F.bmm, torch.bmm, [(2, 3, 4), (2, 4, 5)]),
    "dot": (F.matmul, torch.matmul, [(4,), (4,)]),
    "matrix-vector": (F.matmul, torch.matmul, [(3, 4), (4,)]),
    "vector-matrix": (F.matmul, torch.matmul, [(4,), (4, 5)]),
    "batch-vector": (F.matmul, torch.matmul, [(2, 6, 3, 4), (4,)]),
    "vector-batch": (F.matmul, torch.matmul, [(4,), (2, 4, 5)]),
    "matrix-batch": (F.matmul, torch.matmul, [(3, 4), (2, 4, 5)]),
    "broadcast": (F.matmul, torch.matmul, [(2, 1, 3, 4), (6, 4, 5)]),
    "addmm": (F.addmm, torch.addmm, [(5,), (3, 4), (4, 5)]),
    "addmm-scalar": (F.addmm, torch.addmm, [(), (3, 4), (4, 5)]),
    "baddbmm": (F.baddbmm, torch.baddbmm, [(3, 1), (2, 3, 4), (2, 4, 5)]),
}


@pytest.mark.parametrize("ours, theirs, shapes", SECOND_OPINIONS.values(), ids=SECOND_OPINIONS)
def test_reference_is_torchs(ours, theirs, shapes):
    tensors = _doubles(*shapes)
    y, expected = ours(*tensors), theirs(*tensors)
    torch.testing.assert_close(y, expected)
    gy = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, tensors, gy), torch.autograd.grad(expected, tensors, gy))


@pytest.mark.parametrize("beta, alpha", [(0.5, -2), (0, 1), (3, 0.25)])
def test_factors_are_torchs(beta, alpha):
    input, a, b = _doubles((3, 1), (3, 4), (4, 5))
    torch.testing.assert_close(
        F.addmm(input, a, b, beta=beta, alpha=alpha), torch.addmm(input, a, b, beta=beta, alpha=alpha)
    )


@pytest.mark.parametrize("activation", [None, "relu", "gelu_tanh"])
def test_gradients(activation):
    x, w, b, r = _doubles((2, 3, 4), (5, 4), (5,), (2, 3, 5))

    def linear(x, w, b, r):
        return F.linear(x, w, b, residual=r, activation=activation)

    def matmul(x, w, b, r):
        return F.matmul(x, w.t()[None], bias=b, residual=r, activation=activation)

    def addmm(r, x, w):
        return F.baddbmm(r, x, w.t().expand(2, 4, 5), beta=0.5, alpha=2, activation=activation)

    for function, arguments in ((linear, (x, w, b, r)), (matmul, (x, w, b, r)), (addmm, (r, x, w))):
        assert torch.autograd.gradcheck(function, arguments)
        assert torch.autograd.gradgradcheck(function, arguments)


def test_complex_gradients():
    a = torch.randn(3, 4, dtype=torch.complex128, requires_grad=True)
    b = torch.randn(4, 5, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(F.mm, (a, b.detach().conj().requires_grad_()))
    assert torch.autograd.gradcheck(F.matmul, (a[None], b[None]))


def test_integers_are_multiplied_as_torch_does():
    a, b = torch.randint(-9, 9, (3, 4)), torch.randint(-9, 9, (4, 5))
    assert torch.equal(F.matmul(a, b), a @ b)
    assert torch.equal(F.addmm(a[:, :1], a, b, beta=2, alpha=3), torch.addmm(a[:, :1], a, b, beta=2, alpha=3))


def test_double_backward_through_the_kernels(kernels):
    def second(dtype):
        torch.manual_seed(0)
        x = torch.randn(6, 40, dtype=torch.float64).to(dtype).requires_grad_()
        w = torch.randn(70, 40, dtype=torch.float64).to(dtype).requires_grad_()
        b = torch.randn(70, dtype=torch.float64).to(dtype).requires_grad_()
        y = F.linear(x, w, b, activation="relu")
        gx, gw, gb = torch.autograd.grad(y.square().sum(), (x, w, b), create_graph=True)
        return torch.autograd.grad((gx.square().sum() + gw.sum() + gb.square().sum()), (x, w, b))

    single = second(torch.float32)
    with dlperf.backend("reference"):
        double = second(torch.float64)
    for name, got, truth in zip("xwb", single, double, strict=True):
        assert_matches(got, truth, reduction=70 * 40, what=name)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_nan_and_infinity_spread_as_in_torch(kernels, isa, value, where):
    operands = [torch.randn(7, 33), torch.randn(18, 33)]
    operands[where][3, 5] = value
    y, expected = F.linear(*operands), torch.nn.functional.linear(*operands)
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.isinf(), expected.isinf())
    assert torch.equal(F.linear(*operands, activation="relu").isnan(), torch.relu(expected).isnan())


def test_beta_zero_does_not_read_the_input(kernels):
    y = F.addmm(torch.full((5,), math.nan), torch.ones(3, 4), torch.ones(4, 5), beta=0)
    assert torch.equal(y, torch.full((3, 5), 4.0))


def test_alpha_zero_does_not_read_the_operands(kernels):
    y = F.addmm(torch.ones(5), torch.full((3, 4), math.nan), torch.ones(4, 5), alpha=0)
    assert torch.equal(y, torch.ones(3, 5))


def test_batches_that_do_not_merge(kernels):
    """Walked in place where they are few, copied where they are many."""
    for batch in (3, cpu_matmul._MOST_CALLS + 1):
        a = torch.randn(4, batch, 2, 3).permute(1, 0, 2, 3)
        b = torch.randn(1, 4, 3, 5).expand(batch, 4, 3, 5)
        r = torch.randn(batch, 1, 1, 5).expand(batch, 4, 2, 5)
        torch.testing.assert_close(F.matmul(a, b, residual=r), a @ b + r)


def test_negative_views_are_resolved():
    x = torch.randn(4, 6, dtype=torch.complex64).conj().imag
    w = torch.randn(5, 6)
    assert x.is_neg()
    torch.testing.assert_close(F.linear(x, w), torch.nn.functional.linear(x.resolve_neg(), w))


def test_overlapping_windows():
    x = torch.randn(20).unfold(0, 6, 2)
    w = torch.randn(5, 6)
    torch.testing.assert_close(F.linear(x, w), torch.nn.functional.linear(x, w))


def _changed_by_data(layer):
    layer.weight.data.mul_(2)


def _changed_by_numpy(layer):
    layer.weight.detach().numpy()[:] *= 2


def _changed_by_a_fused_optimizer(layer):
    torch.optim.SGD(layer.parameters(), lr=0.1, fused=True).step()


@pytest.mark.parametrize("change", [_changed_by_data, _changed_by_numpy, _changed_by_a_fused_optimizer])
@pytest.mark.parametrize("kind, shape", [("Linear", (3, 6)), ("Conv2d", (2, 6, 5, 5))])
def test_a_changed_weight_is_seen(change, kind, shape):
    arguments = (6, 5) if kind == "Linear" else (6, 5, 3)
    layer = getattr(dlperf.nn, kind)(*arguments)
    x = torch.randn(shape)
    layer(x).sum().backward()
    change(layer)
    with torch.no_grad():
        expected = getattr(torch.nn, kind).forward(layer, x)
    torch.testing.assert_close(layer(x).detach(), expected)


def test_autocast():
    x, w, b, r = torch.randn(3, 8), torch.randn(5, 8, requires_grad=True), torch.randn(5), torch.randn(3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        results = [
            F.linear(x, w, b, residual=r),
            F.matmul(x, w.t()),
            F.bmm(x[None], w.t()[None]),
            F.addmm(b, x, w.t()),
            F.baddbmm(r[None], x[None], w.t()[None]),
        ]
        untouched = F.linear(x.double(), w.double())
    assert [y.dtype for y in results] == [torch.bfloat16] * 5
    assert untouched.dtype is torch.float64
    results[0].sum().backward()
    assert w.grad.dtype is torch.float32


def test_compiles_whole_with_a_dynamic_batch():
    def step(x, w, b):
        y = F.linear(x, w, b, activation="relu")
        return F.matmul(y.unflatten(0, (-1, 2)).mT, y.unflatten(0, (-1, 2))).sum((0, 2))

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    w, b = torch.randn(5, 8, requires_grad=True), torch.randn(5, requires_grad=True)
    for batch in (4, 6, 10):
        x = torch.randn(batch, 8, requires_grad=True)
        y, expected = compiled(x, w, b), step(x, w, b)
        torch.testing.assert_close(y, expected)
        gy = torch.randn_like(y)
        torch.testing.assert_close(torch.autograd.grad(y, (x, w, b), gy), torch.autograd.grad(expected, (x, w, b), gy))


def test_compiles_with_inductor():
    x, w = torch.randn(3, 8), torch.randn(5, 8, requires_grad=True)
    compiled = torch.compile(lambda x, w: F.linear(x, w, activation="gelu"), fullgraph=True)
    torch.testing.assert_close(compiled(x, w), torch.nn.functional.gelu(torch.nn.functional.linear(x, w)))


@pytest.mark.parametrize("activation", [None, "silu"])
def test_function_transforms(activation):
    x, w, b = torch.randn(4, 3, 8), torch.randn(5, 8), torch.randn(5)

    def loss(w, x, b):
        return F.linear(x, w, b, activation=activation).square().sum()

    def expected(w, x, b):
        y = torch.nn.functional.linear(x, w, b)
        return (torch.nn.functional.silu(y) if activation else y).square().sum()

    for transform in (
        torch.func.grad,
        lambda f: torch.func.vmap(f, in_dims=(None, 0, None)),
        lambda f: torch.func.vmap(torch.func.grad(f), in_dims=(None, 0, None)),
        lambda f: torch.func.grad(lambda *a: torch.func.vmap(f, in_dims=(None, 0, None))(*a).sum()),
    ):
        torch.testing.assert_close(transform(loss)(w, x, b), transform(expected)(w, x, b), rtol=1e-4, atol=1e-4)


def test_meta_tensors_give_shapes():
    y = F.linear(torch.empty(2, 3, 4, device="meta"), torch.empty(5, 4, device="meta"))
    assert y.shape == (2, 3, 5) and y.device.type == "meta"


M = torch.ones(3, 4)
# what -> (dlperf's call, torch's call, part of the message)
BAD_INPUT = {
    "features": (F.linear, torch.nn.functional.linear, (M, torch.ones(5, 3)), {}, "'input' to have 3 features"),
    "scalar": (F.linear, torch.nn.functional.linear, (torch.tensor(1.0), M), {}, "'input'"),
    "weight rank": (F.linear, torch.nn.functional.linear, (M, torch.ones(2, 5, 4)), {}, "'weight'"),
    "vector weight with bias": (F.linear, torch.nn.functional.linear, (M, M[0], M[0]), {}, "'bias'"),
    "bias": (F.linear, torch.nn.functional.linear, (M, M, torch.ones(4)), {}, "'bias' to broadcast"),
    "dtype": (F.linear, torch.nn.functional.linear, (M, M.double()), {}, "'weight' to have the dtype of 'input'"),
    "bias dtype": (F.linear, torch.nn.functional.linear, (M, M, M[:, 0].double()), {}, "'bias'"),
    "no tensor": (F.linear, torch.nn.functional.linear, (M, 3), {}, "'weight' must be Tensor"),
    "bias no tensor": (F.linear, torch.nn.functional.linear, (M, M, 3), {}, "'bias' must be Tensor"),
    "bool": (F.linear, torch.nn.functional.linear, (M.bool(), M.bool()), {}, "Bool"),
    "matmul scalar": (F.matmul, torch.matmul, (M, torch.tensor(1.0)), {}, "'other'"),
    "matmul inner": (F.matmul, torch.matmul, (M, M), {}, r"'other'.*\(3, 4\)"),
    "matmul vector": (F.matmul, torch.matmul, (M, torch.ones(3)), {}, "'other'"),
    "matmul batch": (F.matmul, torch.matmul, (torch.ones(2, 3, 4), torch.ones(3, 4, 5)), {}, "batch dimensions"),
    "mm rank": (F.mm, torch.mm, (M[None], M.t()), {}, "'input' to have 2 dimensions"),
    "mm inner": (F.mm, torch.mm, (M, M), {}, r"'mat2' to have the shape \(4, 4\)"),
    "bmm rank": (F.bmm, torch.bmm, (M, M), {}, "'input' to have 3 dimensions"),
    "bmm batch": (
        F.bmm,
        torch.bmm,
        (torch.ones(2, 3, 4), torch.ones(1, 4, 5)),
        {},
        r"'mat2' to have the shape \(2, 4, 5\)",
    ),
    "addmm input": (F.addmm, torch.addmm, (torch.ones(3), M, M.t().repeat(1, 2)), {}, "'input' to broadcast"),
    "addmm input rank": (F.addmm, torch.addmm, (torch.ones(1, 3, 3), M, M.t()), {}, "'input' to broadcast"),
    "addmm dtype": (F.addmm, torch.addmm, (torch.ones(3).double(), M, M.t()), {}, "'input'"),
    "addmm alpha": (F.addmm, torch.addmm, (torch.ones(3), M, M.t()), {"alpha": "2"}, "'alpha' must be Number"),
}


@pytest.mark.parametrize("ours, theirs, args, kwargs, message", BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input(ours, theirs, args, kwargs, message):
    with pytest.raises(Exception) as expected:
        theirs(*args, **kwargs)
    with pytest.raises(expected.type, match=message):
        ours(*args, **kwargs)


def test_bad_epilogues():
    with pytest.raises(ValueError, match="'activation' to be None or one of none, relu"):
        F.linear(M, M, activation="swish")
    with pytest.raises(ValueError, match="'activation'"):
        F.matmul(M, M.t(), activation="leaky_relu")
    with pytest.raises(RuntimeError, match=r"'residual' to have the output's shape \(3, 3\)"):
        F.linear(M, M, residual=M)
    with pytest.raises(TypeError, match="'residual' must be Tensor"):
        F.linear(M, M, residual=1)
    with pytest.raises(RuntimeError, match="'bias' to have the shape"):
        F.matmul(M, M.t(), bias=torch.ones(1))
    with pytest.raises(RuntimeError, match="one device"):
        F.linear(M, M.to("meta"))
