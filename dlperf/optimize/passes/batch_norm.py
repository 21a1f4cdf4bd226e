"""Folds what scales and shifts each channel into the weights before it, in float64."""

from __future__ import annotations

import torch
from torch import fx

from ._graph import (
    add_constant,
    arguments,
    aten,
    call,
    constant,
    is_call,
    is_constant_or_none,
    only_user,
    replace,
    shape,
)

_CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
_LINEAR = aten.linear.default


def fold_batch_norm(graph: fx.Graph) -> int:
    """gamma (conv(x) - mean) / sqrt(var + eps) + beta is a convolution: w' = s w, b' = s (b - mean) + beta."""
    folded = 0
    for node in list(graph.nodes):
        if not is_call(node, aten.batch_norm.default):
            continue
        given = arguments(node)
        source = given["input"]
        if not _scalable(source, node) or not all(
            is_constant_or_none(given[k]) for k in ("weight", "bias", "running_mean", "running_var")
        ):
            continue
        if is_call(source, _LINEAR) and len(shape(source)) != 2:
            continue
        mean, var = constant(given["running_mean"]).double(), constant(given["running_var"]).double()
        scale = (var + given["eps"]).rsqrt()
        if given["weight"] is not None:
            scale = scale * constant(given["weight"]).double()
        shift = -mean * scale
        if given["bias"] is not None:
            shift = shift + constant(given["bias"]).double()
        _rescale(graph, source, node, scale, shift)
        folded += 1
    graph.eliminate_dead_code()
    return folded


def fold_channel_scale(graph: fx.Graph) -> int:
    """A product with a constant per channel (layer scale), through transpositions of the result."""
    folded = 0
    for node in list(graph.nodes):
        if not is_call(node, aten.mul.Tensor):
            continue
        for source, factor in (node.args, node.args[::-1]):
            found = _scaled_producer(source, factor, node)
            if found is None:
                continue
            producer, scale = found
            scaled = _rescale(graph, producer, producer, scale.double(), None)
            replace(node, scaled if source is producer else source)
            folded += 1
            break
    graph.eliminate_dead_code()
    return folded


def _scaled_producer(source, factor, user):
    """The linear or convolution under ``source`` and its channels' factors, where ``factor`` is no more than that."""
    scale = constant(factor)
    if scale is None or not isinstance(source, fx.Node) or shape(source) is None or scale.dtype is not _dtype(source):
        return None
    rank = len(shape(source))
    if scale.dim() > rank:
        return None
    sizes = [1] * (rank - scale.dim()) + list(scale.shape)
    dim = _channel_dim(sizes)
    while dim is not None and is_call(source, aten.permute.default, aten.transpose.int) and only_user(source) is user:
        if is_call(source, aten.permute.default):
            dim = source.args[1][dim] % rank
        else:
            a, b = (d % rank for d in source.args[1:])
            dim = {a: b, b: a}.get(dim, dim)
        source, user = source.args[0], source
    if dim is None or not _scalable(source, user):
        return None
    channel = rank - 1 if is_call(source, _LINEAR) else 1
    if dim != channel or scale.numel() != constant(source.args[1]).shape[0]:
        return None
    return source, scale.reshape(-1)


def _channel_dim(sizes: list[int]) -> int | None:
    long = [d for d, n in enumerate(sizes) if n != 1]
    return long[0] if len(long) == 1 else None


def _dtype(node):
    return node.meta["val"].dtype


def _scalable(source, user) -> bool:
    if not is_call(source, _LINEAR, *_CONVOLUTIONS) or only_user(source) is not user:
        return False
    given = arguments(source)
    weight = constant(given["weight"])
    return weight is not None and weight.is_floating_point() and is_constant_or_none(given["bias"])


def _rescale(
    graph: fx.Graph, source: fx.Node, end: fx.Node, scale: torch.Tensor, shift: torch.Tensor | None
) -> fx.Node:
    """source * scale + shift as new weights, in the place of ``end``."""
    given = arguments(source)
    weight, bias = constant(given["weight"]), constant(given["bias"])
    new_weight = (weight.double() * scale.reshape(-1, *[1] * (weight.dim() - 1))).to(weight.dtype)
    new_bias = shift
    if bias is not None:
        new_bias = bias.double() * scale + (0 if shift is None else shift)
    args = list(source.args) + [None] * (3 - len(source.args))
    args[1] = add_constant(graph, new_weight.contiguous(memory_format=_format(weight)), f"{source.name}_weight")
    args[2] = None if new_bias is None else add_constant(graph, new_bias.to(weight.dtype), f"{source.name}_bias")
    new = call(graph, source, source.target, tuple(args), dict(source.kwargs), like=source)
    replace(end, new)
    return new


def _format(weight: torch.Tensor) -> torch.memory_format:
    nhwc = weight.dim() == 4 and not weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if nhwc else torch.contiguous_format
