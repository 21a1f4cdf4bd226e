"""Training steps that run as plans: what makes them stale."""

import copy
import pickle

import pytest
import torch
from torch import nn

import dlperf
from dlperf.optimize.training import training_of

from .captured import (
    PICTURES,
    Perceptron,
    X,
    assert_same,
    both,
    captured,
    convolutional,
    gradients,
    reasons,
    settle,
)

pytestmark = pytest.mark.skipif(not dlperf.backends.cpu.C, reason="the CPU kernels are not built")


def change_in_place(model):
    with torch.no_grad():
        model.first.weight.mul_(2)


def change_data(model):
    model.first.weight.data = model.first.weight.data * 2


def change_through_numpy(model):
    model.first.weight.detach().numpy()[:] *= 2


def replace_parameter(model):
    model.first.weight = nn.Parameter(model.first.weight.detach() * 2)


def change_attribute(model):
    model.scale = 2.0


def replace_layer(model):
    model.second = dlperf.nn.Linear(32, 4, bias=False)
    nn.init.constant_(model.second.weight, 0.1)


def freeze(model):
    model.first.weight.requires_grad_(False)


def load(model):
    model.load_state_dict({k: v * 2 for k, v in model.state_dict().items()})


def hook(model):
    model.first.register_forward_hook(lambda module, args, y: y * 2)


def in_another_dtype(model):
    model.to(torch.bfloat16)


@pytest.mark.parametrize(
    "change",
    [
        *(change_in_place, change_data, change_through_numpy, replace_parameter, change_attribute, replace_layer),
        *(freeze, load, hook, in_another_dtype),
    ],
)
def test_changes_are_seen(change):
    mine, theirs = both(Perceptron())
    settle(mine, X)
    assert captured(mine)
    for m in (mine, theirs):
        change(m)
    x = X.to(mine.first.weight.dtype)
    for _ in range(3):
        assert_same(gradients(mine, x), gradients(theirs, x))


def test_a_parameter_written_before_the_backward_pass_is_an_error():
    mine, _ = both(Perceptron())
    settle(mine, X)
    y = mine(X).sum()
    with torch.no_grad():
        mine.second.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_evaluation_and_no_grad_run_by_layers():
    mine, theirs = both(convolutional())
    settle(mine, PICTURES)
    settle(theirs, PICTURES)
    before = len(training_of(mine).steps)
    with torch.no_grad():
        mine(PICTURES), theirs(PICTURES)
    for m in (mine, theirs):
        m.eval()
    assert torch.allclose(mine(PICTURES), theirs(PICTURES), rtol=1e-5, atol=1e-6)
    assert len(training_of(mine).steps) == before
    mine.train()
    assert torch.isfinite(gradients(mine, PICTURES)[0]).all() and captured(mine)


def test_frozen_batch_norm_stays_frozen():
    mine, theirs = both(convolutional())
    for m in (mine, theirs):
        m[1].bn1.eval()
    for _ in range(3):
        pair = [gradients(m, PICTURES) for m in (mine, theirs)]
    assert captured(mine), reasons(mine)
    assert_same(*pair, tolerance=1e-5)
    assert int(mine[1].bn1.num_batches_tracked) == 0


def test_other_sizes_are_other_kinds():
    mine, theirs = both(Perceptron())
    for rows in (4, 3, 4, 3, 4, 3):
        assert_same(gradients(mine, X[:rows]), gradients(theirs, X[:rows]))
    assert len(captured(mine)) == 2


def test_copies_and_pickles_begin_anew():
    mine, theirs = both(Perceptron())
    settle(mine, X)
    for copied in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine)), copy.copy(mine)):
        assert isinstance(copied, Perceptron) and type(copied).__name__ == "Perceptron"
        for _ in range(3):
            assert_same(gradients(copied, X), gradients(theirs, X))
        assert captured(copied) and training_of(copied) is not training_of(mine)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    snapshot = dlperf.optimize(mine, mode="inference")
    assert torch.allclose(snapshot(X), theirs.eval()(X), rtol=1e-5, atol=1e-6)


def test_an_attribute_that_changes_at_every_call_is_reported():
    mine, _ = both(Perceptron())
    for i in range(3):
        mine.scale = float(i)
        gradients(mine, X)
    assert not captured(mine) and any("had changed" in r for r in reasons(mine))
