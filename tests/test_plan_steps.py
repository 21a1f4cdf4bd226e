"""Plans' own steps: sequences of kernels, concatenation, padding, upsampling; what they are next to torch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import dlperf
from dlperf.backends import cpu
from dlperf.optimize.plan import Plan

from .helpers import Call
from .inference import plan_of

LAST = torch.channels_last
needs_kernels = pytest.mark.skipif(cpu.C is None, reason="dlperf._C is not built")


def check(model, *inputs):
    """The plan against torch's layers, twice: its memory is used again. Gives the plan."""
    optimized = dlperf.optimize(model.eval(), mode="inference")
    with torch.no_grad():
        wanted = model(*inputs)
        for _ in range(3):
            torch.testing.assert_close(optimized(*inputs), wanted, rtol=1e-4, atol=1e-4)
    assert optimized(*inputs).stride() == wanted.stride()
    plan = plan_of(optimized)
    assert isinstance(plan, Plan), plan.reason
    return plan


@needs_kernels
def test_a_sequence_runs_its_steps_in_order():
    C = cpu.C
    a, b, y = torch.randn(1000), torch.randn(1000), torch.empty(1000)
    out = torch.empty(2, 1000)
    sequence = C.Sequence()
    sequence.append("add", 0, 1000, a.data_ptr(), b.data_ptr(), 2.0, False, y.data_ptr())
    sequence.append("multiply", 0, 1000, y.data_ptr(), a.data_ptr(), C.slot_address(0, 4000))
    sequence(out.data_ptr())
    torch.testing.assert_close(out[1], (a + 2 * b) * a)
    other = torch.zeros(2, 1000)
    sequence(other.data_ptr())
    torch.testing.assert_close(other[1], out[1])
    assert not other[0].any()


@needs_kernels
@pytest.mark.parametrize(
    ("name", "args", "error"),
    [("no_such_kernel", (), ValueError), ("add", (0, 1000), TypeError), ("multiply", (0, 1, "x", 0, 0), RuntimeError)],
)
def test_a_sequence_refuses_what_it_cannot_call(name, args, error):
    with pytest.raises(error):
        cpu.C.Sequence().append(name, *args)


@needs_kernels
def test_a_slot_must_fit():
    for slot, offset in ((1 << 15, 0), (0, 1 << 48)):
        with pytest.raises(IndexError):
            cpu.C.slot_address(slot, offset)


@needs_kernels
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("count", [1, 2, 4, 5])
@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1])
def test_concatenation(batch, count, dim):
    convolutions = nn.ModuleList(nn.Conv2d(3, 4, 3, padding=1) for _ in range(count))
    model = Call(lambda self, x: torch.cat([c(x) for c in self.convolutions], dim), convolutions=convolutions)
    check(model, torch.randn(batch, 3, 9, 7))
    check(model, torch.randn(batch, 3, 9, 7).contiguous(memory_format=LAST))


@needs_kernels
def test_concatenation_is_a_step_of_a_sequence():
    model = Call(
        lambda self, x: self.b(torch.cat([self.a(x), self.a(x).relu()], 1)), a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(16, 4, 1)
    )
    assert "'concatenate'" in check(model, torch.randn(2, 3, 16, 16)).source


@needs_kernels
def test_views_that_stand_for_other_values_are_not_copied_as_they_lie():
    model = Call(lambda self, x: F.pad(torch.complex(self.a(x), x).conj().imag, (1, 1)), a=nn.Linear(4, 4))
    assert "'pad'" not in check(model, torch.randn(3, 4)).source


@needs_kernels
def test_large_concatenations_are_split_among_threads():
    model = Call(lambda self, x: torch.cat([self.a(x), self.b(x)], 1) + 1, a=nn.Conv2d(4, 40, 1), b=nn.Conv2d(4, 24, 1))
    check(model, torch.randn(2, 4, 64, 64))
    wide = Call(lambda self, x: torch.cat([self.a(x), self.a(x) * 2], 0) + 1, a=nn.Linear(64, 30_001))
    check(wide, torch.randn(1, 64))


@needs_kernels
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("pad", [(0, 1, 0, 1), (1, 2, 3, 4), (2, 0), (0, 0, 1, 0), (0, 0, 0, 0, 1, 1), (-1, 0, 1, 1)])
def test_padding_images(batch, pad):
    model = Call(lambda self, x: self.b(F.pad(self.a(x), pad)[:, :4]), a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1))
    source = check(model, torch.randn(batch, 3, 9, 7)).source
    assert ("'pad'" in source) == (len(pad) <= 4 and min(pad) >= 0)
    check(model, torch.randn(batch, 3, 9, 7).contiguous(memory_format=LAST))


@needs_kernels
@pytest.mark.parametrize("pad", [(0, 0, 1, 0), (3, 1), (1, 1, 2, 2)])
def test_padding_sequences(pad):
    model = Call(lambda self, x: self.b(F.pad(self.a(x), pad).mean(1)), a=nn.Linear(5, 6), b=nn.Identity())
    assert "'pad'" in check(model, torch.randn(2, 7, 5)).source


@needs_kernels
@pytest.mark.parametrize("options", [{"value": 1.5}, {"mode": "reflect"}, {"mode": "replicate"}])
def test_other_padding_is_torchs(options):
    model = Call(lambda self, x: self.a(F.pad(self.a(x), (1, 1, 1, 1), **options)), a=nn.Conv2d(3, 3, 1))
    assert "'pad'" not in check(model, torch.randn(2, 3, 9, 7)).source


@needs_kernels
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_upsampling_is_a_step_and_keeps_its_tables(mode):
    model = Call(
        lambda self, x: self.b(F.interpolate(self.a(x), scale_factor=2, mode=mode)),
        a=nn.Conv2d(3, 4, 1),
        b=nn.Conv2d(4, 4, 1),
    )
    plan = check(model, torch.randn(2, 3, 9, 7))
    assert "'upsample_forward'" in plan.source


@needs_kernels
@pytest.mark.parametrize("batch", [1, 2])
def test_images_of_one_channel_stay_channels_last_inside(batch):
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.Flatten()
    )
    source = check(model, torch.randn(batch, 1, 12, 12)).source
    assert "'transpose'" not in source.partition("def run")[0].partition("'group_norm_forward'")[0]


@needs_kernels
def test_replaced_modules_and_hooks_are_noticed():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    optimized = dlperf.optimize(model, mode="inference")
    x = torch.randn(2, 4)
    optimized(x)
    plans = optimized._engine.plans
    optimized(x)
    assert optimized._engine.plans is plans
    seen = []
    handle = optimized.wrapped[1].register_forward_hook(lambda *a: seen.append(1))
    optimized(x)
    assert seen
    handle.remove()
    optimized.wrapped[0].weight = nn.Parameter(torch.zeros(4, 4))
    torch.testing.assert_close(optimized(x), optimized.wrapped(x))
    del optimized.wrapped._modules["1"]
    torch.testing.assert_close(optimized(x), optimized.wrapped(x))


@needs_kernels
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, LAST], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_factor_for_each_channel(swapped, memory_format):
    """Squeeze and excitation (Hu et al. 2018); in channels_last a step of its own."""

    def scaled(self, x):
        y = self.first(x)
        s = torch.sigmoid(self.gate(self.squeeze(y)))
        return s * y if swapped else y * s

    model = Call(scaled, first=nn.Conv2d(8, 24, 3), squeeze=nn.AdaptiveAvgPool2d(1), gate=nn.Conv2d(24, 24, 1))
    plan = check(model, torch.randn(3, 8, 9, 7).contiguous(memory_format=memory_format))
    assert ("'multiply_rows'" in plan.source) or memory_format is not LAST


class _WeighsByInput(torch.nn.Module):
    """A product whose weight the model computes."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)

    def forward(self, x):
        return torch.nn.functional.linear(x, self.layer(x))


def test_computed_weights_are_not_taken_for_constants():
    model = _WeighsByInput().eval()
    optimized = dlperf.optimize(model, mode="inference")
    for i in range(4):
        x = torch.randn(8, 8, generator=torch.Generator().manual_seed(i))
        assert torch.allclose(optimized(x), model(x), rtol=1e-4, atol=1e-5)
