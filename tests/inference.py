"""What the tests of optimize(mode=\"inference\") share."""

import torch
import torch.nn.functional as TF
from torch import nn

import dlperf
from dlperf.optimize import passes
from dlperf.optimize.capture import capture
from dlperf.optimize.engine import Fallback
from dlperf.optimize.plan import Plan

from .helpers import Call


def small_resnet():
    """Two convolutions with batch norm and a shortcut, pooling, a classifier."""

    def forward(self, x):
        y = TF.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return self.fc(self.drop(TF.adaptive_avg_pool2d(TF.relu_(y), 1).flatten(1)))

    return Call(
        forward,
        conv1=nn.Conv2d(3, 8, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(8),
        conv2=nn.Conv2d(8, 8, 3, padding=1),
        bn2=nn.BatchNorm2d(8),
        shortcut=nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, affine=False)),
        drop=nn.Dropout(0.5),
        fc=nn.Linear(8, 5),
    )


def lively(model):
    """Statistics and scales as after training: the fresh ones would hide a wrong fold."""
    for m in model.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
            if m.affine:
                nn.init.normal_(m.weight)
                nn.init.normal_(m.bias)
    return model.eval()


def captured(model, *inputs, run=passes.INFERENCE):
    model = lively(model)
    program = capture(model, inputs, {}, list(inputs))
    with torch.no_grad():
        program.notes = passes.run(program.graph, run)
        expected = model(*inputs)
        plan = Plan(program, list(inputs), [expected])
        torch.testing.assert_close(plan(list(inputs))[0], expected, rtol=1e-4, atol=1e-5)
    return program


def plan_of(model) -> Plan | Fallback:
    (plan,) = model._engine.plans.values()
    return plan


def reason(model) -> str:
    plan = plan_of(model)
    assert isinstance(plan, Fallback), "the call was captured"
    return plan.reason


def check(model, *args, tolerance=1e-4, **kwargs):
    """Optimizes, calls twice (capture, then plan), compares with the model; returns the optimized model."""
    lively(model)
    fast = dlperf.optimize(model, mode="inference")
    with torch.no_grad():
        expected = model(*args, **kwargs)
    for _ in range(2):
        torch.testing.assert_close(fast(*args, **kwargs), expected, rtol=tolerance, atol=1e-5)
    return fast
