"""Replaces torch's operators by dlperf's functions of the same meaning.

One table for aten operators, one for the functions that Dynamo records. A name that ``dlperf.nn.functional`` does not
have, or an argument that it does not take, leaves torch's node in place.
"""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as TF
from torch import fx

from ...nn import functional as F
from ._graph import arguments, aten, call, is_call, only_user, replace, shape, value

# --- aten: (function, arguments by schema name -> (args, kwargs), or None to leave the node) ---------------------


def _in_order(*names):
    return lambda given: (tuple(given[n] for n in names), {})


def _unary(given):
    return (given["self"],), {}


def _batch_norm(given):
    if given["training"]:
        return None
    names = ("input", "running_mean", "running_var", "weight", "bias")
    return (*(given[n] for n in names), False, given["momentum"], given["eps"]), {}


def _attention(given):
    keyword = {k: given[k] for k in ("scale", "enable_gqa") if given.get(k)}
    return tuple(given[n] for n in ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")), keyword


def _addmm(given):
    keyword = {k: given[k] for k in ("beta", "alpha") if given[k] != 1}
    return (given["self"], given["mat1"], given["mat2"]), keyword


def _baddbmm(given):
    keyword = {k: given[k] for k in ("beta", "alpha") if given[k] != 1}
    return (given["self"], given["batch1"], given["batch2"]), keyword


def _softmax(given):
    return (given["self"], given["dim"]), ({"dtype": given["dtype"]} if given.get("dtype") else {})


def _gelu(given):
    return (given["self"],), {"approximate": given["approximate"]}


def _mean(given):
    x, dims = given["self"], given["dim"]
    rank = len(shape(x) or ())
    if rank != 4 or not dims or {d % 4 for d in dims} != {2, 3} or given["dtype"] is not None or not given["keepdim"]:
        return None
    return (x, 1), {}


def _nearest(given):
    keyword = {"size": given["output_size"], "scale_factor": given["scale_factors"], "mode": "nearest"}
    return (given["input"],), {k: v for k, v in keyword.items() if v is not None}


def _bilinear(given):
    _, keyword = _nearest(given)
    return (given["input"],), {**keyword, "mode": "bilinear", "align_corners": given["align_corners"]}


_CONVOLUTION = _in_order("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = _in_order("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")

FROM_ATEN = {
    aten.conv1d.default: ("conv1d", _CONVOLUTION),
    aten.conv1d.padding: ("conv1d", _CONVOLUTION),
    aten.conv2d.default: ("conv2d", _CONVOLUTION),
    aten.conv2d.padding: ("conv2d", _CONVOLUTION),
    aten.conv_transpose1d.default: ("conv_transpose1d", _TRANSPOSED),
    aten.conv_transpose2d.input: ("conv_transpose2d", _TRANSPOSED),
    aten.linear.default: ("linear", _in_order("input", "weight", "bias")),
    aten.matmul.default: ("matmul", _in_order("self", "other")),
    aten.mm.default: ("mm", _in_order("self", "mat2")),
    aten.bmm.default: ("bmm", _in_order("self", "mat2")),
    aten.addmm.default: ("addmm", _addmm),
    aten.baddbmm.default: ("baddbmm", _baddbmm),
    aten.scaled_dot_product_attention.default: ("scaled_dot_product_attention", _attention),
    aten.batch_norm.default: ("batch_norm", _batch_norm),
    aten.layer_norm.default: ("layer_norm", _in_order("input", "normalized_shape", "weight", "bias", "eps")),
    aten.rms_norm.default: ("rms_norm", _in_order("input", "normalized_shape", "weight", "eps")),
    aten.group_norm.default: ("group_norm", _in_order("input", "num_groups", "weight", "bias", "eps")),
    aten.softmax.int: ("softmax", _softmax),
    aten.max_pool2d.default: (
        "max_pool2d",
        _in_order("self", "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    ),
    aten.avg_pool2d.default: (
        "avg_pool2d",
        _in_order("self", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    aten.adaptive_avg_pool2d.default: ("adaptive_avg_pool2d", _in_order("self", "output_size")),
    aten.mean.dim: ("adaptive_avg_pool2d", _mean),
    aten.upsample_nearest2d.vec: ("interpolate", _nearest),
    aten.upsample_bilinear2d.vec: ("interpolate", _bilinear),
    aten.pixel_shuffle.default: ("pixel_shuffle", _in_order("self", "upscale_factor")),
    aten.embedding.default: ("embedding", _in_order("indices", "weight")),
    aten.glu.default: ("glu", _in_order("self", "dim")),
    aten.relu.default: ("relu", _unary),
    aten.relu6.default: ("relu6", _unary),
    aten.leaky_relu.default: ("leaky_relu", _in_order("self", "negative_slope")),
    aten.gelu.default: ("gelu", _gelu),
    aten.silu.default: ("silu", _unary),
    aten.sigmoid.default: ("sigmoid", _unary),
    aten.tanh.default: ("tanh", _unary),
    aten.hardsigmoid.default: ("hardsigmoid", _unary),
    aten.hardswish.default: ("hardswish", _unary),
    aten.mish.default: ("mish", _unary),
}

# --- Dynamo's graphs: torch's own functions, by dlperf's name; arguments carry over --------------------------------

FROM_TORCH = {
    torch.conv1d: "conv1d",
    torch.conv2d: "conv2d",
    torch.conv_transpose1d: "conv_transpose1d",
    torch.conv_transpose2d: "conv_transpose2d",
    torch._C._nn.linear: "linear",
    torch.matmul: "matmul",
    operator.matmul: "matmul",
    torch.bmm: "bmm",
    torch.mm: "mm",
    torch.addmm: "addmm",
    torch.baddbmm: "baddbmm",
    torch._C._nn.scaled_dot_product_attention: "scaled_dot_product_attention",
    torch._C._nn.gelu: "gelu",
    torch.sigmoid: "sigmoid",
    torch.tanh: "tanh",
    torch.relu: "relu",
    torch.softmax: "softmax",
    **{
        getattr(TF, name): name
        for name in (
            "adaptive_avg_pool2d",
            "avg_pool2d",
            "batch_norm",
            "cross_entropy",
            "embedding",
            "glu",
            "group_norm",
            "hardsigmoid",
            "hardswish",
            "layer_norm",
            "leaky_relu",
            "max_pool2d",
            "mish",
            "pixel_shuffle",
            "relu",
            "relu6",
            "rms_norm",
            "sigmoid",
            "silu",
            "softmax",
            "tanh",
        )
    },
}


def has(name: str) -> bool:
    """Whether dlperf has the function: what it lacks falls through to torch's."""
    return name in F.__all__


def lower_aten(graph: fx.Graph) -> int:
    lowered = 0
    for node in list(graph.nodes):
        name, build = FROM_ATEN.get(node.target, (None, None)) if node.op == "call_function" else (None, None)
        if name is None or not has(name) or not _floating(node):
            continue
        built = build(arguments(node))
        if built is not None:
            replace(node, call(graph, node, getattr(F, name), *built, like=node))
            lowered += 1
    return lowered


def lower_torch_functions(graph: fx.Graph) -> int:
    lowered = 0
    for node in list(graph.nodes):
        name = FROM_TORCH.get(node.target) if node.op == "call_function" else None
        if name is None or not has(name) or not _floating(node):
            continue
        kwargs = dict(node.kwargs)
        if kwargs.pop("inplace", False) and not _fresh_and_unshared(node):
            continue
        if name == "softmax":
            kwargs = {k: v for k, v in kwargs.items() if not k.startswith("_") and v is not None}
        replace(node, call(graph, node, getattr(F, name), node.args, kwargs, like=node))
        lowered += 1
    return lowered


def _fresh_and_unshared(node: fx.Node) -> bool:
    """An in-place operator on a result that nothing else reads is as good as one that makes a new tensor."""
    source, reader = node.args[0], node
    while is_call(source, operator.iadd) and only_user(source) is reader:
        source, reader = source.args[0], source
    return is_call(source, *_MAKE_NEW) and only_user(source) is reader


_NEW = ("conv1d", "conv2d", "linear", "batch_norm", "layer_norm", "group_norm")
_MAKE_NEW = {operator.add, *(t for t, name in FROM_TORCH.items() if name in _NEW), *(getattr(F, name) for name in _NEW)}


def _floating(node: fx.Node) -> bool:
    """dlperf's kernels are for floating results; of the rest torch knows more."""
    example = value(node)
    return isinstance(example, torch.Tensor) and example.is_floating_point()


# --- expressions that are one activation ----------------------------------------------------------------------------


def recognise_activations(graph: fx.Graph) -> int:
    """x * sigmoid(x) is silu; GPT-2's product of powers is gelu with tanh."""
    found = 0
    for node in list(graph.nodes):
        if not is_call(node, aten.mul.Tensor):
            continue
        for a, b in (node.args, node.args[::-1]):
            if is_call(b, aten.sigmoid.default) and b.args[0] is a:
                replace(node, call(graph, node, aten.silu.default, (a,), like=node))
            elif _is_half_of(a) and _is_one_plus_tanh(b, a.args[0]):
                replace(node, call(graph, node, aten.gelu.default, (a.args[0],), {"approximate": "tanh"}, like=node))
            else:
                continue
            found += 1
            break
    graph.eliminate_dead_code()
    return found


def _is_half_of(node) -> bool:
    return is_call(node, aten.mul.Tensor) and node.args[1] == 0.5


def _is_one_plus_tanh(node, x) -> bool:
    """1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))"""
    if not (is_call(node, aten.add.Tensor) and node.args[1] == 1.0 and is_call(node.args[0], aten.tanh.default)):
        return False
    scaled = node.args[0].args[0]
    if not (is_call(scaled, aten.mul.Tensor) and isinstance(scaled.args[1], float)):
        return False
    if abs(scaled.args[1] - 0.7978845608028654) > 1e-7 or not is_call(scaled.args[0], aten.add.Tensor):
        return False
    first, cubed = scaled.args[0].args
    if first is not x or not (is_call(cubed, aten.mul.Tensor) and cubed.args[1] == 0.044715):
        return False
    power = cubed.args[0]
    return is_call(power, aten.pow.Tensor_Scalar) and power.args[0] is x and power.args[1] == 3.0
