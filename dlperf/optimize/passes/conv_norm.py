"""A convolution and the batch norm in training behind it become one call: it may gather the statistics on the way."""

from __future__ import annotations

import inspect

from torch import fx

from ...nn import functional as F
from ._graph import call, erase_unused, is_call, only_user, replace, shape
from .epilogue import writes_between

_CONV, _NORM = inspect.signature(F.conv2d), inspect.signature(F.batch_norm)


def _given(signature: inspect.Signature, node: fx.Node) -> dict:
    bound = signature.bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    return bound.arguments


def gather_statistics(graph: fx.Graph) -> int:
    fused = 0
    for norm in list(graph.nodes):
        if not is_call(norm, F.batch_norm):
            continue
        n = _given(_NORM, norm)
        conv = n["input"]
        if n["training"] is not True or n["moments"] is not None or not is_call(conv, F.conv2d):
            continue
        c = _given(_CONV, conv)
        plain = c["bias"] is None and c["residual"] is None and c["activation"] is None
        size = shape(c["input"])
        if not plain or size is None or len(size) != 4 or only_user(conv) is not norm or writes_between(conv, norm):
            continue
        tensors = (c["input"], c["weight"], n["running_mean"], n["running_var"], n["weight"], n["bias"])
        numbers = (c["stride"], c["padding"], c["dilation"], c["groups"], n["momentum"], n["eps"])
        options = {name: n[name] for name in ("residual", "activation") if n[name] is not None}
        replace(norm, call(graph, norm, F.conv2d_batch_norm, (*tensors, *numbers), options, like=norm))
        erase_unused(conv)
        fused += 1
    return fused
