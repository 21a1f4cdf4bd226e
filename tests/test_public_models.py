"""Models that other people wrote, unmodified, with random weights: outputs, gradients, state, in both modes."""

import copy

import pytest
import torch

import dlperf
from dlperf.benchmarks.public_models import MODELS, Missing, build, leaves, loss
from dlperf.optimize.engine import Fallback

# The share of multiply-adds that dlperf's kernels have to serve in inference.
SHARE = 0.9


@pytest.fixture(params=MODELS)
def made(request):
    """(model in eval mode, args, kwargs)"""
    try:
        return build(request.param)
    except Missing as reason:
        pytest.skip(str(reason))


def assert_near(actual, expected, bound):
    actual, expected = leaves(actual), leaves(expected)
    assert len(actual) == len(expected)
    for mine, theirs in zip(actual, expected, strict=True):
        assert mine.shape == theirs.shape and mine.dtype is theirs.dtype
        if theirs.is_floating_point():
            assert (mine - theirs).abs().max() <= bound * theirs.abs().max().clamp_min(1e-6)
        else:
            assert torch.equal(mine, theirs)


def test_inference(made):
    model, args, kwargs = made
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        expected = model(*args, **kwargs)
    fast = dlperf.optimize(model, mode="inference")
    for _ in range(2):
        result = fast(*args, **kwargs)
        assert type(result) is type(expected)
        assert_near(result, expected, 1e-4)
    assert list(fast.state_dict()) == list(state)
    assert all(torch.equal(a, b) for a, b in zip(fast.state_dict().values(), state.values(), strict=True))
    (plan,) = fast._engine.plans.values()
    assert not isinstance(plan, Fallback), plan.reason
    (call,) = dlperf.report(fast).calls
    if dlperf.backends.cpu.available() is None:
        assert call.share >= SHARE, [w for w in plan.work if w.served_by == "torch" and w.multiply_adds]


def test_training(made):
    model, args, kwargs = made
    twin = copy.deepcopy(model)
    fast = dlperf.optimize(model)
    assert list(fast.state_dict()) == list(twin.state_dict())
    result, expected = fast(*args, **kwargs), twin(*args, **kwargs)
    assert_near(result, expected, 1e-4)

    loss(result).backward()
    loss(expected).backward()
    # By norms: where rounding turns a unit's sign, a ReLU passes another element of the gradient.
    largest = max(p.grad.norm() for p in twin.parameters() if p.grad is not None)
    for (name, mine), theirs in zip(fast.named_parameters(), twin.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), name
        if theirs.grad is not None:
            assert (mine.grad - theirs.grad).norm() <= 5e-3 * theirs.grad.norm() + 1e-5 * largest, name
