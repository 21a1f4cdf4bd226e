"""Training steps and inference of the benchmark's models run on dlperf's kernels alone: no aten operator computes."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import dlperf
from dlperf.backends import cpu
from dlperf.benchmarks.models.resnet import resnet18, resnet50
from dlperf.benchmarks.models.unet import Attention, ResnetBlock, unet_digits
from dlperf.benchmarks.models.vit import vit_tiny

# What torch may still do: allocate, view, bookkeep and accumulate gradients.
_NAMES = """
    empty empty_like empty_strided new_empty new_empty_strided resize_ set_ view view_as reshape _reshape_alias
    flatten unflatten detach as_strided t transpose permute movedim unsqueeze squeeze expand slice select unbind
    alias to lift_fresh contiguous ones_like fill_ is_nonzero item _local_scalar_dense _unsafe_view result_type
    is_same_size promote_types
"""
NOT_COMPUTE = {f"aten::{name}" for name in _NAMES.split()}


# Concatenating, padding and laying out anew: bytes move, nothing is computed.
_MOVES = "cat stack narrow pad constant_pad_nd clone copy_ split split_with_sizes zeros zero_ detach_ select_backward"
MOVES = {f"aten::{name}" for name in _MOVES.split()}


def _computing(run) -> dict[str, int]:
    """aten operators that compute, with their calls. num_batches_tracked += 1 is the only add allowed."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as trace:
        run()
    found = {}
    for event in trace.events():
        if not event.name.startswith("aten::") or event.name in NOT_COMPUTE:
            continue
        scalar = all(len(shape) == 0 for shape in event.input_shapes or [[]])
        if event.name in ("aten::add_", "aten::add") and scalar:
            continue
        found[event.name] = found.get(event.name, 0) + 1
    return found


@pytest.fixture(autouse=True)
def _needs_kernels():
    if cpu.available() is not None:
        pytest.skip(cpu.available())
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("build", [resnet18, resnet50], ids=["resnet18", "resnet50"])
@pytest.mark.parametrize("mode", ["inference", "train"])
def test_no_aten_operator_computes(build, mode):
    model = build(nn=dlperf.nn, num_classes=10).to(memory_format=torch.channels_last).train(mode == "train")
    x = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    target = torch.tensor([1, 2])

    def run():
        if mode == "inference":
            with torch.no_grad():
                model(x)
        else:
            dlperf.nn.functional.cross_entropy(model(x), target).backward()

    run()
    model.zero_grad(set_to_none=True)
    # Where a residual branch leaves, the autograd engine itself sums the two gradients.
    joins = sum(type(m).__name__ in ("BasicBlock", "Bottleneck") for m in model.modules())
    assert _computing(run) == ({} if mode == "inference" else {"aten::add_": joins})


def _vit():
    x, target = torch.randn(2, 3, 64, 64), torch.tensor([1, 2])
    model = vit_tiny(dlperf.nn, img_size=64, num_classes=10)
    loss = dlperf.nn.functional.cross_entropy
    return model, (x,), lambda y: loss(y, target).backward(), 2 * len(model.blocks)


def _unet():
    model = unet_digits(dlperf.nn)
    blocks = sum(isinstance(m, ResnetBlock) for m in model.modules())
    attentions = sum(isinstance(m, Attention) for m in model.modules())
    skips = sum(len(block.resnets) for block in model.up_blocks)
    # One join for each residual, two where q, k and v leave, and what every block but one adds to the timestep's.
    joins = blocks + 3 * attentions + blocks - 1 + skips
    return model, (torch.randn(2, 1, 8, 8), torch.tensor([1, 999])), lambda y: y.backward(torch.ones_like(y)), joins


@pytest.mark.parametrize("make", [_vit, _unet], ids=["vit", "unet"])
@pytest.mark.parametrize("mode", ["inference", "train"])
def test_transformer_and_unet_only_move_bytes_in_aten(make, mode):
    model, (x, *rest), backward, joins = make()
    model.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)

    def run():
        if mode == "inference":
            with torch.no_grad():
                model(x, *rest)
        else:
            backward(model(x, *rest))

    run()
    model.zero_grad(set_to_none=True)
    found = {name: calls for name, calls in _computing(run).items() if name not in MOVES}
    sums = found.pop("aten::add_", 0) + found.pop("aten::add", 0)
    assert found == {}
    assert sums == (0 if mode == "inference" else joins)
