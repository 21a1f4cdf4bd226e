import pytest
import torch
import torch.nn.functional as TF

import dlperf
from dlperf.nn import functional as F
from tests.family import check_case, parametrize


@parametrize("cross_entropy")
def test_case(case, dtype, isa):
    check_case(case, dtype, "cpu")


@parametrize("cross_entropy")
def test_reference(case, dtype):
    check_case(case, dtype, "reference")


def test_gradients_to_second_order():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 3, -100])
    weight = torch.rand(4, dtype=torch.float64)

    def numbers(x):
        return F.cross_entropy(x, target, weight, label_smoothing=0.1)

    assert torch.autograd.gradcheck(numbers, x)
    assert torch.autograd.gradgradcheck(numbers, x)
    probabilities = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)

    def soft(x, p):
        return F.cross_entropy(x, p, weight, reduction="sum", label_smoothing=0.2)

    assert torch.autograd.gradcheck(soft, (x, probabilities))
    assert torch.autograd.gradgradcheck(soft, (x, probabilities))


def test_every_target_ignored_is_nan_as_torchs(kernels):
    x, target = torch.randn(3, 4), torch.full((3,), -100)
    assert F.cross_entropy(x, target).isnan() and TF.cross_entropy(x, target).isnan()
    assert F.cross_entropy(x, target, reduction="sum") == TF.cross_entropy(x, target, reduction="sum")


def test_large_logits_do_not_overflow(kernels, isa):
    x = torch.tensor([[1000.0, -1000.0, 0.0], [-1e30, 1e30, 0.0]])
    target = torch.tensor([0, 2])
    torch.testing.assert_close(F.cross_entropy(x, target), TF.cross_entropy(x, target))


def test_channels_last_logits():
    x = torch.randn(2, 5, 4, 3).to(memory_format=torch.channels_last).requires_grad_()
    target = torch.randint(0, 5, (2, 4, 3))
    ours, theirs = F.cross_entropy(x, target), TF.cross_entropy(x, target)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*[torch.autograd.grad(v, x)[0] for v in (ours, theirs)])


def test_autocast_computes_in_float32():
    x, target = torch.randn(4, 6, dtype=torch.bfloat16), torch.randint(0, 6, (4,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert F.cross_entropy(x, target).dtype is torch.float32


def test_compiles_whole():
    layer = dlperf.nn.CrossEntropyLoss(label_smoothing=0.1)
    x, target = torch.randn(4, 6, requires_grad=True), torch.randint(0, 6, (4,))
    compiled = torch.compile(layer, fullgraph=True)
    torch.testing.assert_close(compiled(x, target), layer(x, target))
    gx = [torch.autograd.grad(f(x, target), x)[0] for f in (compiled, layer)]
    torch.testing.assert_close(*gx)


X, T = torch.zeros(3, 4), torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    "call",
    [
        lambda f: f(X, torch.tensor([0, 1, 4])),
        lambda f: f(X, torch.tensor([0, 1, -1])),
        lambda f: f(X, torch.tensor([0, 1])),
        lambda f: f(X, T, weight=torch.ones(3)),
        lambda f: f(X, T, reduction="median"),
        lambda f: f(X, T, label_smoothing=1.5),
        lambda f: f(X, torch.ones(3, 5)),
        lambda f: f(X, torch.ones(3, 4), ignore_index=1),
        lambda f: f(X.long(), T),
        lambda f: f(torch.zeros(2, 3, 4), torch.zeros(2, 5, dtype=torch.int64)),
        lambda f: f(X, T.int()),
    ],
)
def test_bad_input_raises_what_torch_raises(call):
    with pytest.raises(Exception) as theirs:
        call(TF.cross_entropy)
    with pytest.raises(theirs.type) as ours:
        call(F.cross_entropy)
    assert len(str(ours.value)) > 10
