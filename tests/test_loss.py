import pytest
import torch

from dlperf import nn
from dlperf.nn import functional as F
from tests.family import check_case, parametrize

torch_F = torch.nn.functional
PAIRS = ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy_with_logits", "kl_div"]


@parametrize("loss")
def test_case(case, dtype, isa):
    check_case(case, dtype, "cpu")


@parametrize("loss")
def test_reference(case, dtype):
    check_case(case, dtype, "reference")


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.filterwarnings("ignore:reduction")  # torch's own, about the mean of kl_div
def test_is_torchs(name, reduction, isa):
    x, t = torch.randn(4, 9) * 3, torch.rand(4, 9)
    t[0, :3] = 0.0
    ours, theirs = ([v.clone().requires_grad_() for v in (x, t)] for _ in range(2))
    y = getattr(F, name)(*ours, reduction=reduction)
    expected = getattr(torch_F, name)(*theirs, reduction=reduction)
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours[0].grad, theirs[0].grad)
    # torch has infinity where a target of 0 meets the logarithm in kl_div's own gradient.
    kept = theirs[1].grad.isfinite()
    torch.testing.assert_close(ours[1].grad[kept], theirs[1].grad[kept])


@pytest.mark.parametrize("name", PAIRS)
def test_gradients(name):
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    t = torch.rand(3, 4, dtype=torch.float64) + 0.05
    t.requires_grad_()
    assert torch.autograd.gradcheck(getattr(F, name), (x, t))
    assert torch.autograd.gradgradcheck(getattr(F, name), (x, t))


def test_weights_are_torchs():
    x, t, w = torch.randn(4, 5), torch.rand(4, 5), torch.rand(4, 5) + 0.1
    for name in ("mse_loss", "l1_loss", "huber_loss", "binary_cross_entropy_with_logits"):
        for reduction in ("none", "mean", "sum"):
            ours = getattr(F, name)(x, t, weight=w, reduction=reduction)
            torch.testing.assert_close(ours, getattr(torch_F, name)(x, t, weight=w, reduction=reduction))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_pos_weight_is_torchs(reduction, weighted):
    x, t, pos = torch.randn(4, 5) * 20, torch.rand(4, 5), torch.rand(5) + 0.5
    w = torch.rand(4, 1) + 0.1 if weighted else None
    ours, theirs = ([v.clone().requires_grad_() for v in (x, t)] for _ in range(2))
    y = F.binary_cross_entropy_with_logits(*ours, w, pos_weight=pos, reduction=reduction)
    expected = torch_F.binary_cross_entropy_with_logits(*theirs, w, pos_weight=pos, reduction=reduction)
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    expected.sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_mixed_dtypes_and_broadcast(kernels):
    x, t = torch.randn(3, 4), torch.rand(1, 4).bfloat16()
    with pytest.warns(UserWarning, match="'target'.*broadcast"):
        loss = F.l1_loss(x, t)
    torch.testing.assert_close(loss, (x - t.float()).abs().mean())


@pytest.mark.parametrize("name", PAIRS)
def test_extreme_logits(name, isa):
    x = torch.tensor([1e4, -1e4, 100.0, -100.0, 0.0, float("inf"), -float("inf"), float("nan")])
    t = torch.tensor([1.0, 0.0, 0.5, 0.5, 1.0, 0.0, 1.0, 0.5])
    ours, theirs = getattr(F, name)(x, t, reduction="none"), getattr(torch_F, name)(x, t, reduction="none")
    torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_empty_mean_is_nan(kernels):
    assert F.mse_loss(torch.ones(0, 3), torch.ones(0, 3)).isnan()


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_nll_is_torchs(isa, reduction, weighted):
    x, t = torch.randn(5, 7, 3), torch.randint(0, 7, (5, 3))
    t[1, 1] = -100
    w = torch.rand(7) + 0.1 if weighted else None
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = F.nll_loss(ours, t, w, reduction=reduction), torch_F.nll_loss(theirs, t, w, reduction=reduction)
    torch.testing.assert_close(y, expected)
    y.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_nll_of_one_sample_and_of_none(kernels):
    x = torch.randn(4)
    torch.testing.assert_close(F.nll_loss(x, torch.tensor(2)), -x[2])
    assert F.nll_loss(torch.randn(2, 3), torch.tensor([-100, -100])).isnan()


def test_nll_gradients():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    t, w = torch.tensor([0, 2, 1, 1]), torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    for reduction in ("none", "mean", "sum"):
        assert torch.autograd.gradcheck(lambda x, r=reduction: F.nll_loss(x, t, w, reduction=r), x)
        assert torch.autograd.gradgradcheck(lambda x, r=reduction: F.nll_loss(x, t, w, reduction=r), x)


def test_float32_under_autocast(kernels):
    x, t = torch.randn(3, 4).bfloat16(), torch.randn(3, 4).bfloat16()
    with torch.autocast("cpu"):
        loss = F.mse_loss(x, t)
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, torch_F.mse_loss(x.float(), t.float()))


def test_layers_are_torchs_with_dlperfs_kernels(kernels):
    x, t = torch.randn(3, 4, requires_grad=True), torch.rand(3, 4)
    for name, args in (("MSELoss", ()), ("L1Loss", ("sum",)), ("HuberLoss", ("none", 0.5)), ("SmoothL1Loss", ())):
        kwargs = dict(zip(("reduction", "delta"), args, strict=False))
        torch.testing.assert_close(getattr(nn, name)(**kwargs)(x, t), getattr(torch.nn, name)(**kwargs)(x, t))


X = torch.ones(3, 4)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: F.mse_loss(X, X[:2]), RuntimeError, r"'target'.*\(2, 4\)"),
        (lambda: F.mse_loss(X.long(), X.long()), RuntimeError, "'input'"),
        (lambda: F.mse_loss(X, X, reduction="max"), ValueError, "'reduction'"),
        (lambda: F.l1_loss(X, 3.0), TypeError, "'target'"),
        (lambda: F.smooth_l1_loss(X, X, beta=-1), RuntimeError, "'beta'"),
        (lambda: F.huber_loss(X, X, delta=0), RuntimeError, "'delta'"),
        (lambda: F.mse_loss(X, X, weight=X[:1]), ValueError, "'weight'"),
        (lambda: F.binary_cross_entropy_with_logits(X, X[:1]), ValueError, "'target'"),
        (lambda: F.nll_loss(X, torch.tensor([0, 1, 4])), IndexError, "4"),
        (lambda: F.nll_loss(X, torch.tensor([0, 1])), ValueError, "'target'"),
        (lambda: F.nll_loss(X, torch.tensor([0.0, 1.0, 2.0])), RuntimeError, "'target'"),
        (lambda: F.nll_loss(X, torch.tensor([0, 1, 2]), torch.ones(3)), RuntimeError, "'weight'"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
