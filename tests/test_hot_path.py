"""ResNet's training step and inference run on dlperf's kernels alone: no aten operator computes."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import dlperf
from dlperf.backends import cpu
from dlperf.benchmarks.models.resnet import resnet18, resnet50

# What torch may still do: allocate, view, bookkeep and accumulate gradients.
_NAMES = """
    empty empty_like empty_strided new_empty new_empty_strided resize_ set_ view view_as reshape _reshape_alias
    flatten unflatten detach as_strided t transpose permute movedim unsqueeze squeeze expand slice select unbind
    alias to lift_fresh contiguous ones_like fill_ is_nonzero item _local_scalar_dense _unsafe_view result_type
    is_same_size promote_types
"""
NOT_COMPUTE = {f"aten::{name}" for name in _NAMES.split()}


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
