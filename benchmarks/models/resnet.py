"""ResNet (He et al. 2015, arXiv:1512.03385), the stride on the 3x3 convolution of a bottleneck ("v1.5").

Written once over an `nn` namespace: torch.nn, dlperf.nn, or anything that mirrors them. Parameters and
buffers carry torchvision's names and shapes, so its checkpoints load.
"""

import torch

from .fusion import fuses_epilogue


class _Block(torch.nn.Module):
    def __init__(self, nn):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.fused = fuses_epilogue(nn.BatchNorm2d)

    def norm_relu(self, norm, x, residual=None):
        """relu(norm(x) + residual): one pass over memory where the layer fuses it."""
        if self.fused:
            return norm(x, activation="relu", residual=residual)
        x = norm(x)
        if residual is not None:
            x += residual
        return self.relu(x)


class BasicBlock(_Block):
    expansion = 1

    def __init__(self, nn, inplanes: int, planes: int, stride: int = 1):
        super().__init__(nn)
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = projection(nn, inplanes, planes, stride)

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.norm_relu(self.bn1, self.conv1(x))
        return self.norm_relu(self.bn2, self.conv2(out), identity)


class Bottleneck(_Block):
    expansion = 4

    def __init__(self, nn, inplanes: int, planes: int, stride: int = 1):
        super().__init__(nn)
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.downsample = projection(nn, inplanes, planes * self.expansion, stride)

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.norm_relu(self.bn1, self.conv1(x))
        out = self.norm_relu(self.bn2, self.conv2(out))
        return self.norm_relu(self.bn3, self.conv3(out), identity)


def projection(nn, inplanes: int, planes: int, stride: int):
    """The shortcut's 1x1 convolution where shapes differ, else None."""
    if stride == 1 and inplanes == planes:
        return None
    return nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))


class ResNet(_Block):
    """[N, 3, H, W] to [N, num_classes] scores.

    `stem="imagenet"` is the 7x7 convolution of stride 2 and the max pool; `stem="small"` a 3x3 convolution,
    for pictures of a few pixels.
    """

    def __init__(self, nn, block, depths, num_classes=1000, width=64, in_channels=3, stem="imagenet"):
        super().__init__(nn)
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = len(depths)
        inplanes = width
        for stage, depth in enumerate(depths):
            planes = width * 2**stage
            blocks = []
            for i in range(depth):
                blocks.append(block(nn, inplanes, planes, stride=2 if stage > 0 and i == 0 else 1))
                inplanes = planes * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inplanes, num_classes)
        self.reset_parameters()

    def reset_parameters(self):
        for module in self.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = self.maxpool(self.norm_relu(self.bn1, self.conv1(x)))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet18(nn=torch.nn, num_classes=1000):
    return ResNet(nn, BasicBlock, (2, 2, 2, 2), num_classes)


def resnet34(nn=torch.nn, num_classes=1000):
    return ResNet(nn, BasicBlock, (3, 4, 6, 3), num_classes)


def resnet50(nn=torch.nn, num_classes=1000):
    return ResNet(nn, Bottleneck, (3, 4, 6, 3), num_classes)


def resnet101(nn=torch.nn, num_classes=1000):
    return ResNet(nn, Bottleneck, (3, 4, 23, 3), num_classes)


def resnet152(nn=torch.nn, num_classes=1000):
    return ResNet(nn, Bottleneck, (3, 8, 36, 3), num_classes)


def resnet_digits(nn=torch.nn, num_classes=10):
    """Three blocks for 8x8 grey pictures: 78 thousand parameters."""
    return ResNet(nn, BasicBlock, (1, 1, 1), num_classes, width=16, in_channels=1, stem="small")
