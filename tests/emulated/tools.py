"""What the emulated tests share: random tensors, and a call's result and gradients against float64."""

import torch

from dlperf.testing.compare import assert_matches

HALVES = (torch.bfloat16, torch.float16)
LAST = torch.channels_last


def tensor(*size, dtype=torch.bfloat16, scale=1.0, last=False):
    x = (torch.randn(size) * scale).to(dtype)
    return (x.to(memory_format=LAST) if last else x).requires_grad_()


def check(ours, own, inputs, reduction):
    """Output and gradients of ours(*inputs) against float64, with torch's own as the baseline."""
    inputs = [x for x in inputs if x is not None]
    doubles = [x.detach().double().requires_grad_() for x in inputs]
    y, baseline, truth = ours(*inputs), own(*inputs), own(*doubles)
    assert y.dtype is inputs[0].dtype
    assert_matches(y, truth, baseline=baseline, reduction=reduction)
    g = torch.randn(y.shape)
    found = torch.autograd.grad(y, inputs, g.to(y.dtype))
    base = torch.autograd.grad(baseline, inputs, g.to(y.dtype))
    right = torch.autograd.grad(truth, doubles, g.to(y.dtype).double())
    for a, b, c in zip(found, base, right, strict=True):
        assert_matches(a, c, baseline=b, reduction=max(reduction, g[0].numel()))
