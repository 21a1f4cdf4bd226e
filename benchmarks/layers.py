"""The layers of a model with their shapes, operations and bytes, found by running it on the meta device."""

import math
from dataclasses import dataclass
from functools import cache, lru_cache, partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from .models import find

CONFIG_FIELDS = {
    "conv2d": ("in_channels", "out_channels", "kernel_size", "stride", "padding", "groups"),
    "batch_norm": ("num_features",),
    "max_pool": ("kernel_size", "stride", "padding"),
    "avg_pool": ("output_size",),
    "linear": ("in_features", "out_features"),
    "layer_norm": ("normalized_shape",),
    "group_norm": ("num_groups", "num_channels"),
    "attention": (),
}
KINDS = {
    torch.nn.Conv2d: "conv2d",
    torch.nn.BatchNorm2d: "batch_norm",
    torch.nn.MaxPool2d: "max_pool",
    torch.nn.AdaptiveAvgPool2d: "avg_pool",
    torch.nn.Linear: "linear",
    torch.nn.LayerNorm: "layer_norm",
    torch.nn.GroupNorm: "group_norm",
}


@dataclass(frozen=True)
class Layer:
    """What two layers must share to be the same benchmark."""

    kind: str
    input: tuple[int, ...]  # of attention [3, N, heads, S, D]: queries, keys and values
    output: tuple[int, ...]
    config: tuple  # values of CONFIG_FIELDS[kind]
    epilogue: str = ""  # what follows a norm at once: "", "relu", "add+relu" or "silu"
    is_first: bool = False  # its input needs no gradient: the picture, or what comes from a table

    @property
    def options(self) -> dict:
        return dict(zip(CONFIG_FIELDS[self.kind], self.config, strict=True))

    @property
    def weights(self) -> int:
        """Elements of the parameters that it reads."""
        o = self.options
        if self.kind == "conv2d":
            return o["out_channels"] * o["in_channels"] // o["groups"] * math.prod(o["kernel_size"])
        if self.kind == "linear":
            return (o["in_features"] + 1) * o["out_features"]
        if self.kind == "layer_norm":
            return 2 * math.prod(o["normalized_shape"])
        return 4 * o["num_features"] if self.kind == "batch_norm" else 2 * o.get("num_channels", 0)

    def flops(self, backward: bool = False) -> int:
        """A multiply-add is two. Backward of a product is two products, one for each factor."""
        o = self.options
        if self.kind == "conv2d":
            forward = 2 * math.prod(self.output) * o["in_channels"] // o["groups"] * math.prod(o["kernel_size"])
        elif self.kind == "linear":
            forward = 2 * math.prod(self.output) * o["in_features"]
        elif self.kind == "attention":
            forward = 4 * math.prod(self.output) * self.input[-2]
        else:
            return 0  # bound by memory: counted in bytes
        return forward * (1 if self.is_first else 2) if backward else forward

    def bytes(self, itemsize: int, backward: bool = False) -> int:
        """Every operand read once, every result written once: what no implementation can go below."""
        x, y = math.prod(self.input), math.prod(self.output)
        residual = y if self.epilogue == "add+relu" else 0
        if not backward:
            return itemsize * (x + self.weights + residual + y)
        saved = 0 if self.kind.endswith("_pool") else x + y if self.kind == "attention" else x
        relu = y if self.epilogue.endswith("relu") else 0  # which of its outputs were positive
        grad_input = 0 if self.is_first else x
        return itemsize * (y + saved + relu + 2 * self.weights + grad_input + residual)

    @property
    def label(self) -> str:
        """Such as `conv2d 3x3/2 64>128 56x56`."""
        o, spatial = self.options, "x".join(map(str, self.input[2:]))
        if self.kind == "conv2d":
            stride = f"/{o['stride'][0]}" if o["stride"][0] > 1 else ""
            kernel = "x".join(map(str, o["kernel_size"]))
            return f"conv {kernel}{stride} {o['in_channels']}>{o['out_channels']} {spatial}"
        if self.kind == "batch_norm":
            return " + ".join(["bn", *self.epilogue.split("+")]).rstrip(" +") + f" {o['num_features']} {spatial}"
        if self.kind == "linear":
            rows = math.prod(self.input[:-1])
            return f"linear {o['in_features']}>{o['out_features']}" + (f" {rows} rows" if len(self.input) > 2 else "")
        if self.kind == "layer_norm":
            return f"layer norm {math.prod(self.input[:-1])}x{self.input[-1]}"
        if self.kind == "group_norm":
            return " + ".join(["gn", *filter(None, [self.epilogue])]) + f" {o['num_channels']} {spatial}"
        if self.kind == "attention":
            return f"attention {self.input[2]} heads {self.input[3]}x{self.input[4]}"
        return f"{self.kind.replace('_', ' ')} {self.input[1]} {spatial}"


@dataclass(frozen=True)
class Use:
    """A distinct layer, the name of its first occurrence, and how often the model runs it."""

    layer: Layer
    name: str
    repeats: int


class _BatchNorm2d(torch.nn.BatchNorm2d):
    """Notes the epilogue that a model would have fused into it."""

    def forward(self, x, activation=None, residual=None):
        self.epilogue = "+".join([*(["add"] if residual is not None else []), *([activation] if activation else [])])
        return super().forward(x)


class _GroupNorm(torch.nn.GroupNorm):
    """The same."""

    activation = None

    def __init__(self, *args, activation=None):
        super().__init__(*args)
        self.activation = self.epilogue = activation


class _Recorder:
    """torch.nn, but for the norms that take (and note) the fused arguments."""

    BatchNorm2d, GroupNorm = _BatchNorm2d, _GroupNorm

    def __getattr__(self, name):
        return getattr(torch.nn, name)


@cache
def _argument_shapes(name: str) -> list[tuple]:
    """Of one sample: (shape, dtype) of each of the model's arguments."""
    return [(t.shape[1:], t.dtype) for t in find(name).inputs(1)[0]]


@lru_cache(maxsize=64)
def model_layers(name: str, batch: int) -> list[tuple[str, Layer]]:
    """Every layer that computes, with its dotted name, in the order in which they run."""
    shapes = _argument_shapes(name)
    with torch.device("meta"):
        model = find(name).build(_Recorder())
        arguments = [torch.empty(batch, *shape, dtype=dtype) for shape, dtype in shapes]
    found = []

    def hook(module, inputs, output, name):
        kind = next(kind for cls, kind in KINDS.items() if isinstance(module, cls))
        config = tuple(getattr(module, f) for f in CONFIG_FIELDS[kind])
        if kind == "max_pool":
            config = tuple((v, v) if isinstance(v, int) else v for v in config)
        epilogue, first = getattr(module, "epilogue", None) or "", not inputs[0].requires_grad
        found.append((name, Layer(kind, tuple(inputs[0].shape), tuple(output.shape), config, epilogue, first)))

    def attend(q, k, v, path):
        found.append((path, Layer("attention", (3, *q.shape), tuple(q.shape), ())))
        return q

    for path, module in model.named_modules():
        if isinstance(module, tuple(KINDS)):
            module.register_forward_hook(lambda m, i, o, path=path: hook(m, i, o, path))
        if hasattr(module, "attend"):
            module.attend = partial(attend, path=f"{path}.attend")
    model(*arguments)
    return found


def distinct(layers: list[tuple[str, Layer]]) -> list[Use]:
    first, count = {}, {}
    for name, layer in layers:
        first.setdefault(layer, name)
        count[layer] = count.get(layer, 0) + 1
    return [Use(layer, name, count[layer]) for layer, name in first.items()]


def model_cost(name: str, batch: int, mode: str, itemsize: int) -> tuple[int, int]:
    """(operations, bytes) of one inference or of one training step's forward and backward."""
    if find(name).public:
        flops, elements = public_cost(name)
        return batch * flops, itemsize * (batch * elements[0] + elements[1])
    flops = moved = 0
    for _, layer in model_layers(name, batch):
        for backward in (False, True) if mode == "train" else (False,):
            flops += layer.flops(backward)
            moved += layer.bytes(itemsize, backward)
    return flops, moved


@cache
def public_cost(name: str) -> tuple[int, tuple[int, int]]:
    """Inference on one sample: operations as torch counts them; elements that layers read and write, and parameters."""
    model = find(name).build(torch.nn).eval()  # not on the meta device: some look at their masks' values
    moved = 0

    def count(module, inputs, output):
        nonlocal moved
        outputs = output if isinstance(output, tuple) else (output,)
        moved += sum(t.numel() for t in (*inputs, *outputs) if isinstance(t, torch.Tensor))

    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    # oneDNN's LSTM is one operator, which the counter does not know; without it, it is products.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        model(*find(name).inputs(1)[0])
    return counter.get_total_flops(), (moved, sum(p.numel() for p in model.parameters()))
