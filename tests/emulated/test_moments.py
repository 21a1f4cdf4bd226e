"""Batch norm's statistics from the convolution before it: gathered in the epilogue by both kernels, joined in one step
and in two, and taken from the result where the reduction is split or depthwise."""

import pytest
import torch
import torch.nn.functional as theirs

from dlperf.backends import cuda as backend
from dlperf.backends import trace
from dlperf.backends.cuda import products
from dlperf.nn import functional as F
from dlperf.testing.compare import assert_matches

from .tools import HALVES, check, tensor

CASES = [
    # n, c, h, w, k, taps, stride, padding, groups, gathered
    (2, 16, 9, 11, 72, 3, 1, 1, 1, True),
    (9, 64, 16, 16, 64, 3, 1, 1, 1, True),  # large enough for im2col copies
    (5, 64, 9, 10, 264, 1, 1, 0, 1, True),  # a product of matrices, with rests on both sides
    (3, 32, 7, 7, 24, 1, 2, 0, 1, True),
    (1, 128, 4, 4, 8, 3, 1, 1, 1, False),
    (2, 24, 5, 5, 24, 3, 1, 1, 24, False),
]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("n, c, h, w, k, taps, stride, padding, groups, gathered", CASES)
def test_moments(n, c, h, w, k, taps, stride, padding, groups, gathered, dtype):
    x = tensor(n, c, h, w, dtype=dtype, last=True).detach() + 0.5
    weight = tensor(k, c // groups, taps, taps, dtype=dtype, scale=(c * taps * taps) ** -0.5).detach()
    numbers = ([stride] * 2, [padding] * 2, [1, 1], groups)
    y, mean, var = torch.ops.dlperf.conv2d_moments(x, weight, *numbers)
    baseline = theirs.conv2d(x, weight, None, *numbers)
    truth = theirs.conv2d(x.double(), weight.double(), None, *numbers)
    assert_matches(y, truth, baseline=baseline, reduction=c * taps * taps)
    wide = y.double()  # the moments are of the values as they are stored
    torch.testing.assert_close(mean.double(), wide.mean((0, 2, 3)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(var.double(), wide.var((0, 2, 3), correction=0), atol=1e-6, rtol=1e-5)
    assert (products._moment_rows(x, weight, y, *numbers) > 0) == gathered


def test_many_entries_are_joined_in_two_steps():
    rows, columns, step = 1000, 40, 3
    x = torch.randn(rows, columns) * 2 + 30
    size = backend.C.moments_workspace(rows, columns, step)
    entries = -(-rows // step)
    moments = torch.full((size,), float("nan"))
    for i, part in enumerate(x.split(step)):
        moments[i * columns : (i + 1) * columns] = part.mean(0)
        moments[(entries + i) * columns : (entries + i + 1) * columns] = (part - part.mean(0)).square().sum(0)
    mean, var = torch.empty(columns), torch.empty(columns)
    device = backend.C.Device(90, 3, 0)
    backend.C.join_moments(device, moments.data_ptr(), rows, columns, step, mean.data_ptr(), var.data_ptr())
    torch.testing.assert_close(mean, x.double().mean(0).float())
    torch.testing.assert_close(var, x.double().var(0, correction=0).float(), rtol=1e-5, atol=1e-6)


def test_convolution_and_batch_norm_with_their_gradients():
    x, weight = tensor(2, 16, 6, 7, last=True), tensor(24, 16, 3, 3, scale=0.1)
    a, b, r = tensor(24), tensor(24), tensor(2, 24, 6, 7, last=True)

    def ours(x, weight, a, b, r):
        return F.conv2d_batch_norm(x, weight, None, None, a, b, padding=1, residual=r, activation="relu")

    def own(x, weight, a, b, r):
        return theirs.relu(theirs.batch_norm(theirs.conv2d(x, weight, padding=1), None, None, a, b, True) + r)

    with trace() as calls:
        check(ours, own, (x, weight, a, b, r), 144)
    assert {backend for _, backend in calls} == {"cuda"}
    assert [op for op, _ in calls][:2] == ["conv2d_moments", "batch_norm_given"]
