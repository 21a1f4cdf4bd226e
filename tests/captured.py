"""What the tests of captured training steps share."""

import copy

import torch
from torch import nn
from torch.nn import functional as TF

import dlperf
from dlperf.optimize.captured import CapturedStep
from dlperf.optimize.engine import Fallback
from dlperf.optimize.training import training_of


class Block(nn.Module):
    """Convolution, batch norm, residual and ReLU in place, as ResNet's own code writes them."""

    def __init__(self, channels=16, inplace=True):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=inplace)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        Block(),
        Block(inplace=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


class Perceptron(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(12, 32), nn.Linear(32, 4)
        self.dropout, self.scale = nn.Dropout(dropout), 1.0

    def forward(self, x):
        return self.second(self.dropout(TF.gelu(self.first(x)))) * self.scale


class Attends(nn.Module):
    """Query, key and value from one product, as vision transformers have them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.qkv, self.out = nn.LayerNorm(24), nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 4, 6)).permute(2, 0, 3, 1, 4).unbind(0)
        y = TF.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).flatten(2))


def both(model):
    """The model with captured steps, and one of the same weights that runs layer by layer."""
    model = model.train()
    return dlperf.optimize(copy.deepcopy(model)), dlperf.optimize(copy.deepcopy(model), capture=False)


def gradients(model, *inputs, seed=0, loss=lambda y: (y.float() ** 2).mean()):
    torch.manual_seed(seed)
    model.zero_grad(set_to_none=True)
    result = model(*inputs)
    loss(result).backward()
    return result.detach().clone(), [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def settle(model, *inputs, **options):
    """Two calls of a kind: the second runs from plans."""
    for _ in range(2):
        gradients(model, *inputs, **options)
    return model


def captured(model) -> list[CapturedStep]:
    return [s for s in training_of(model).steps.values() if isinstance(s, CapturedStep)]


def reasons(model) -> list[str]:
    training = training_of(model)
    return [s.reason for s in training.steps.values() if isinstance(s, Fallback)] + list(training.uncaptured)


def assert_same(mine, theirs, tolerance=0.0):
    for a, b in zip([mine[0], *mine[1]], [theirs[0], *theirs[1]], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype is b.dtype and a.shape == b.shape
            assert (a.double() - b.double()).norm() <= tolerance * b.double().norm()


X = torch.randn(4, 12, generator=torch.Generator().manual_seed(1))


PICTURES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
