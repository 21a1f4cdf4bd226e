"""Depthwise convolution: each width that has a template, what has none, and rests of strips and of channels."""

import pytest
import torch
import torch.nn.functional as theirs

import dlperf
from dlperf.nn import functional as F
from dlperf.testing.compare import assert_matches

from .tools import HALVES, check, tensor

GEOMETRIES = [
    # n, c, h, w, taps, stride, padding, dilation
    (2, 24, 5, 9, 3, 1, 1, 1),
    (1, 144, 7, 6, 3, 2, 1, 1),
    (2, 8, 6, 10, 5, 1, 2, 1),
    (1, 72, 8, 7, 7, 1, 3, 1),
    (1, 16, 9, 11, 3, 1, 2, 2),
    (1, 16, 9, 8, 5, 2, 2, 1),
    (1, 8, 5, 5, 1, 3, 0, 1),
    (3, 8, 1, 1, 3, 1, 1, 1),
]


@pytest.mark.parametrize("n, c, h, w, taps, stride, padding, dilation", GEOMETRIES)
def test_depthwise(n, c, h, w, taps, stride, padding, dilation):
    x, weight, bias = tensor(n, c, h, w, last=True), tensor(c, 1, taps, taps, scale=1 / taps), tensor(c)

    def call(f):
        return lambda x, weight, bias: f.conv2d(x, weight, bias, stride, padding, dilation, c)

    check(call(F), call(theirs), (x, weight, bias), taps * taps)


@pytest.mark.parametrize("dtype", HALVES)
def test_depthwise_of_rectangles_and_both_dtypes(dtype):
    x, weight = tensor(2, 40, 6, 13, dtype=dtype, last=True), tensor(40, 1, 3, 5, dtype=dtype, scale=0.3)
    calls = [lambda x, weight, f=f: f.conv2d(x, weight, None, (2, 1), (0, 2), groups=40) for f in (F, theirs)]
    check(*calls, (x, weight), 15)


def test_depthwise_with_its_whole_epilogue():
    x, weight, bias, r = tensor(1, 16, 5, 6, last=True), tensor(16, 1, 3, 3), tensor(16), tensor(1, 16, 5, 6, last=True)
    with torch.no_grad():
        y = F.conv2d(x, weight, bias, padding=1, groups=16, residual=r, activation="silu")
        own = [
            theirs.silu(theirs.conv2d(*t[:3], padding=1, groups=16) + t[3])
            for t in ((x, weight, bias, r), [t.double() for t in (x, weight, bias, r)])
        ]
    assert_matches(y, own[1], baseline=own[0], reduction=9)


def test_transposed_depthwise():
    x, weight, bias = tensor(2, 16, 5, 4, last=True), tensor(16, 1, 3, 3, scale=0.3), tensor(16)

    def call(f):
        return lambda x, weight, bias: f.conv_transpose2d(x, weight, bias, 2, 1, 1, groups=16)

    check(call(F), call(theirs), (x, weight, bias), 9)


def test_groups_that_are_neither_one_nor_the_channels_are_declined():
    x, weight = torch.randn(1, 16, 5, 5).bfloat16(), torch.randn(16, 4, 3, 3).bfloat16()
    with pytest.raises(dlperf.BackendError, match="not 4 groups"):
        F.conv2d(x, weight, groups=4)
    with pytest.raises(dlperf.BackendError, match="225 taps"):
        F.conv2d(torch.randn(1, 8, 20, 20).bfloat16(), torch.randn(8, 1, 15, 15).bfloat16(), groups=8)
