"""optimize(mode="inference"): a plan never gives another result than the model."""

import collections
import copy
import dataclasses
import io
import threading

import pytest
import torch
from torch import nn

import dlperf
from dlperf.nn import functional as F
from dlperf.optimize.engine import MOST_CAPTURES
from dlperf.optimize.inference import InferenceModel
from dlperf.optimize.plan import Plan
from dlperf.optimize.structure import flatten_result
from dlperf.optimize.watch import Versions

from .helpers import Call
from .inference import check, lively, plan_of, reason, small_resnet

# --- the plan ---------------------------------------------------------------------------------------------------------


def test_a_complete_model_is_captured_for_any_batch():
    model = small_resnet()
    fast = check(model, torch.randn(4, 3, 8, 8))
    assert isinstance(plan_of(fast), Plan)
    for batch in (2, 7, 1):
        x = torch.randn(batch, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    assert sum(map(len, fast._engine.programs.values())) == 2, "one capture for batches, one for a batch of one"


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_the_memory_format_is_the_callers(format):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    x = torch.randn(2, 3, 6, 6).to(memory_format=format)
    fast = check(model, x)
    with torch.no_grad():
        assert fast(x).stride() == model(x).stride()


def test_results_do_not_live_in_the_arena():
    fast = check(small_resnet(), x := torch.randn(2, 3, 8, 8))
    first = fast(x)
    kept = first.clone()
    fast(torch.randn(2, 3, 8, 8))
    assert torch.equal(first, kept)
    first.zero_()
    torch.testing.assert_close(fast(x), kept)


def test_no_step_reads_memory_that_another_call_left():
    """The arena is filled with NaN between calls."""
    fast = check(small_resnet(), x := torch.randn(2, 3, 8, 8))
    plan = plan_of(fast)
    expected = fast(x)
    for run in plan._idle:
        run.__defaults__[0].fill_(255)
    torch.testing.assert_close(fast(x), expected, rtol=0, atol=0)


def test_four_threads_at_once():
    model = lively(small_resnet())
    fast = dlperf.optimize(model, mode="inference")
    inputs = [torch.randn(2 + i % 2, 3, 8, 8) for i in range(4)]
    with torch.no_grad():
        expected = [model(x) for x in inputs]
    failures = []

    def work(i):
        for _ in range(20):
            if not torch.allclose(fast(inputs[i]), expected[i], rtol=1e-4, atol=1e-5):
                failures.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


def test_outputs_that_alias_the_input_still_do():
    model = Call(lambda self, x: (x, x.transpose(0, 1), x.clone(), self.conv(x)), conv=nn.Conv2d(3, 3, 1))
    fast = check(model, x := torch.randn(2, 3, 4, 4))
    assert isinstance(plan_of(fast), Plan)
    same, view, fresh, _ = fast(x)
    same[0, 0, 0, 0] = 7
    assert x[0, 0, 0, 0] == 7 and view[0, 0, 0, 0] == 7 and fresh[0, 0, 0, 0] != 7


def test_a_returned_constant_is_made_anew():
    fast = check(Call(lambda self, x: (x + 1, self.w * 2), w=nn.Parameter(torch.ones(3))), x := torch.ones(3))
    fast(x)[1].zero_()
    assert torch.equal(fast(x)[1], torch.full((3,), 2.0))


def test_a_returned_parameter_is_the_parameter():
    fast = check(Call(lambda self, x: (x + self.w, self.w), w=nn.Parameter(torch.ones(3))), x := torch.ones(3))
    assert fast(x)[1].data_ptr() == fast.w.data_ptr()


# --- structure of inputs and outputs ------------------------------------------------------------------------------


@dataclasses.dataclass
class Output:
    sample: torch.Tensor
    extra: dict


class OrderedOutput(collections.OrderedDict):
    """Like the ordered dictionaries with attributes that model libraries return."""

    def __init__(self, **fields):
        super().__init__(fields)
        self.__dict__.update(fields)


Pair = collections.namedtuple("Pair", "first second")


@pytest.mark.parametrize(
    "build",
    [
        lambda y: {"a": y, "b": [y + 1, (y, None, 3)]},
        lambda y: Output(y, {"name": "n", "double": y * 2}),
        lambda y: OrderedOutput(sample=y),
        lambda y: Pair(y, y + 1),
        lambda y: torch.max(y, dim=1),
        lambda y: (y, y),
    ],
    ids=["dict", "dataclass", "ordered", "namedtuple", "structseq", "twice"],
)
def test_result_structures(build):
    model = Call(lambda self, x: build(self.fc(x)), fc=nn.Linear(4, 4)).eval()
    fast = dlperf.optimize(model, mode="inference")
    x = torch.randn(3, 4)
    with torch.no_grad():
        expected = model(x)
    for _ in range(2):
        result = fast(x)
        mine, theirs = [], []
        assert flatten_result(result, mine) == flatten_result(expected, theirs)
        torch.testing.assert_close(mine, theirs)
    assert isinstance(plan_of(fast), Plan)


def test_keywords_containers_and_constants():
    def forward(self, x, scale=1.0, flag=False, extra=None):
        y = self.fc(x) * scale + (1 if flag else 0)
        return y if extra is None else y + extra["bias"][0]

    model = Call(forward, fc=nn.Linear(4, 4)).eval()
    fast = dlperf.optimize(model, mode="inference")
    x = torch.randn(3, 4)
    calls = [{}, {"scale": 2.0}, {"flag": True}, {"extra": {"bias": [torch.randn(4)]}}, {"scale": 2.0, "flag": True}]
    for kwargs in calls * 2:
        with torch.no_grad():
            torch.testing.assert_close(fast(x, **kwargs), model(x, **kwargs))
    assert all(isinstance(p, Plan) for p in fast._engine.plans.values())
    assert len(fast._engine.plans) == len(calls)


def test_numbers_that_always_change_end_the_captures():
    fast = dlperf.optimize(Call(lambda self, x, t: x * t), mode="inference")
    x = torch.ones(3)
    for t in range(MOST_CAPTURES + 3):
        assert torch.equal(fast(x, t), x * t)
    plans = list(fast._engine.plans.values())
    assert sum(isinstance(p, Plan) for p in plans) == MOST_CAPTURES
    assert "as tensors" in plans[-1].reason


# --- what is not captured -------------------------------------------------------------------------------------------


def test_data_dependent_control_flow():
    fast = dlperf.optimize(Call(lambda self, x: self.a(x) if x.sum() > 0 else -x, a=nn.Linear(4, 4)), mode="inference")
    for x in (torch.ones(2, 4), -torch.ones(2, 4)) * 2:
        torch.testing.assert_close(fast(x), fast.a(x) if x.sum() > 0 else -x)
    assert "torch.export failed" in reason(fast)


def test_sizes_that_depend_on_the_data():
    model = Call(lambda self, x: x[x > 0] * 2)
    fast = dlperf.optimize(model, mode="inference")
    for _ in range(3):
        x = torch.randn(9)
        assert torch.equal(fast(x), model(x))


def test_a_model_that_writes_into_its_input():
    fast = dlperf.optimize(Call(lambda self, x: x.add_(1) * 2), mode="inference")
    x = torch.zeros(3)
    for n in (1, 2, 3):
        assert torch.equal(fast(x), torch.full((3,), 2.0 * n)) and torch.equal(x, torch.full((3,), float(n)))
    assert "input" in reason(fast)


def test_a_model_that_writes_into_a_dictionary_it_is_given():
    def forward(self, given):
        given["y"] = given["x"] * 2
        return given["y"] + 1

    fast = dlperf.optimize(Call(forward), mode="inference")
    for _ in range(2):
        given = {"x": torch.ones(2)}
        assert torch.equal(fast(given), torch.full((2,), 3.0)) and torch.equal(given["y"], torch.full((2,), 2.0))


def test_a_model_that_changes_a_buffer():
    model = Call(lambda self, x: x + self.count.add_(1))
    model.register_buffer("count", torch.zeros(1))
    fast = dlperf.optimize(model, mode="inference")
    assert [fast(torch.zeros(1)).item() for _ in range(3)] == [1, 2, 3]
    assert model.count == 0, "the snapshot is its own"


def test_a_model_that_counts_its_calls():
    def forward(self, x):
        self.calls += 1
        return x * self.calls

    model = Call(forward)
    model.calls = 0
    fast = dlperf.optimize(model, mode="inference")
    assert [fast(torch.ones(1)).item() for _ in range(3)] == [1, 2, 3]
    assert "'calls'" in reason(fast)


def test_random_numbers_are_drawn_anew():
    model = Call(lambda self, x: x + torch.randn_like(x))
    fast = dlperf.optimize(model, mode="inference")
    x = torch.zeros(100)
    fast(x)
    torch.manual_seed(5)
    a, b = fast(x), fast(x)
    torch.manual_seed(5)
    assert not torch.equal(a, b) and torch.equal(model(x), a)


def test_hooks_are_run():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    fast = check(model, x := torch.randn(2, 4))
    seen = []
    handle = fast[0].register_forward_hook(lambda module, args, out: seen.append(out))
    fast(x)
    assert len(seen) == 1 and "0 has a hook" in reason(fast)
    handle.remove()
    fast(x)
    assert len(seen) == 1 and isinstance(plan_of(fast), Plan)


def test_parametrized_models_run_layer_by_layer():
    fast = check(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))), torch.randn(2, 4))
    assert "parametrized" in reason(fast)


def test_an_input_that_requires_a_gradient_gets_one():
    model = small_resnet()
    fast = check(model, torch.randn(2, 3, 8, 8))
    x, y = (torch.ones(2, 3, 8, 8, requires_grad=True) for _ in range(2))
    fast(x).square().sum().backward()
    model(y).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-3, atol=1e-4)
    assert not fast(x.detach()).requires_grad


@pytest.mark.parametrize("first", [True, False])
def test_inference_mode_and_no_grad_take_turns(first):
    model = lively(small_resnet())
    fast = dlperf.optimize(model, mode="inference")
    for inside in (first, not first, first, not first):
        with torch.inference_mode(inside), torch.no_grad():
            x = torch.randn(2, 3, 8, 8)
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    assert isinstance(plan_of(fast), Plan)


def test_autocast_is_followed():
    model = nn.Sequential(nn.Linear(8, 8)).eval()
    fast = dlperf.optimize(model, mode="inference")
    x = torch.randn(2, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fast(x).dtype is torch.bfloat16
    assert fast(x).dtype is torch.float32


def test_transforms_and_compilation_go_through():
    model = nn.Sequential(nn.Linear(4, 4), nn.SiLU()).eval()
    fast = dlperf.optimize(model, mode="inference")
    x = torch.randn(5, 4)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.func.vmap(fast)(x), expected)
        torch.testing.assert_close(torch.compile(fast, backend="eager")(x), expected)


# --- the wrapper ------------------------------------------------------------------------------------------------------


def test_optimize_leaves_the_model_alone():
    model = small_resnet().train()
    before = copy.deepcopy(model.state_dict())
    types = [type(m) for m in model.modules()]
    fast = dlperf.optimize(model, mode="inference")
    fast(torch.randn(2, 3, 8, 8))
    assert [type(m) for m in model.modules()] == types and all(m.training for m in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    nn.init.zeros_(model.fc.weight)
    assert fast.fc.weight.abs().sum() > 0


def test_state_dict_is_the_models():
    model = lively(small_resnet())
    fast = check(model, torch.randn(2, 3, 8, 8))
    state = fast.state_dict()
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))
    assert [n for n, _ in fast.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert [n for n, _ in fast.named_modules()] == [n for n, _ in model.named_modules()]
    model.load_state_dict(state, strict=True)


@pytest.mark.parametrize("how", ["load_state_dict", "to", "in place", "assignment", "submodule", "replan"])
def test_new_weights_are_seen(how):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
    fast = check(model, x := torch.randn(3, 4))
    other = lively(copy.deepcopy(model))
    nn.init.normal_(other[0].weight)
    if how == "load_state_dict":
        fast.load_state_dict(other.state_dict())
    elif how == "to":
        fast.to(torch.float64)
        fast.load_state_dict(other.double().state_dict())
        x = x.double()
    elif how == "in place":
        with torch.no_grad():
            for p, q in zip(
                (*fast.parameters(), *fast.buffers()), (*other.parameters(), *other.buffers()), strict=True
            ):
                p.copy_(q)
    elif how == "assignment":
        fast[0].weight, fast[1] = other[0].weight, other[1]
    elif how == "submodule":
        for i in (0, 1):
            setattr(fast.wrapped, str(i), other[i])
    else:
        for p, q in zip((*fast.parameters(), *fast.buffers()), (*other.parameters(), *other.buffers()), strict=True):
            p.data = q.data
        fast.replan()
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(fast(x), other(x))


def test_a_write_into_any_of_many_tensors_is_seen():
    tensors = tuple(torch.zeros(2) for _ in range(40))
    versions = Versions(tensors, [t._cdata for t in tensors])
    for tensor in tensors:
        assert versions.unchanged()
        tensor.add_(1)
        assert not versions.unchanged()
        versions.remember()
    assert versions.unchanged()


def test_attributes_reach_the_model():
    model = small_resnet()
    model.config = {"width": 8}
    fast = dlperf.optimize(model, mode="inference")
    assert fast.config is not None and fast.config["width"] == 8 and isinstance(fast.fc, nn.Linear)
    fast.flag = 3
    assert fast.flag == 3 and not hasattr(model, "flag") and "flag" in dir(fast)
    with pytest.raises(AttributeError, match="nothing"):
        _ = fast.nothing
    assert isinstance(fast, nn.Module) and fast.eval() is fast and not fast.training


def test_training_it_is_refused():
    with pytest.raises(RuntimeError, match="mode='train'"):
        dlperf.optimize(nn.Linear(2, 2), mode="inference").train()


def test_bfloat16_casts_inputs_and_returns_bfloat16():
    model = lively(small_resnet())
    fast = dlperf.optimize(model, mode="inference", dtype=torch.bfloat16)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = model(x)
    for _ in range(2):
        y = fast(x)
        assert y.dtype is torch.bfloat16
        assert (y.float() - expected).abs().max() < 0.05 * expected.abs().max()
    assert isinstance(plan_of(fast), Plan) and fast.fc.weight.dtype is torch.bfloat16
    assert fast.float()(x).dtype is torch.float32


def test_bfloat16_of_what_is_not_captured():
    fast = dlperf.optimize(
        Call(lambda self, x: {"y": x.double().add_(1)[x > -9]}), mode="inference", dtype=torch.bfloat16
    )
    assert fast(torch.zeros(2))["y"].dtype is torch.bfloat16


def test_it_pickles_and_copies():
    model = nn.Sequential(nn.Linear(3, 3), nn.SiLU()).eval()
    fast = check(model, x := torch.randn(2, 3))
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    for twin in (torch.load(file, weights_only=False), copy.deepcopy(fast)):
        assert isinstance(twin, InferenceModel) and twin.wrapped is not fast.wrapped
        assert torch.equal(twin(x), fast(x))


def test_a_pinned_backend_is_followed():
    fast = check(nn.Sequential(nn.Linear(4, 4), nn.SiLU()), x := torch.randn(2, 4))
    with dlperf.backend("reference"), dlperf.backends.trace() as traced:
        fast(x)
        traced.clear()
        fast(x)
    assert traced and {backend for _, backend in traced} == {"reference"}


def test_report_tells_what_runs():
    fast = check(small_resnet(), torch.randn(2, 3, 8, 8))
    (call,) = dlperf.report(fast).calls
    assert call.reason == "" and call.fused["fold_batch_norm"] == 3 and call.steps > 0
    assert call.inputs == "float32[2, 3, 8, 8]"
    if dlperf.backends.cpu.available() is None and "conv2d" in F.__all__:
        assert call.share == 1
    report = dlperf.report(dlperf.optimize(Call(lambda self, x: x[x > 0]), mode="inference"), torch.ones(3))
    assert "layer by layer, because" in str(report)


@pytest.mark.parametrize("dtype", [torch.int64, "bfloat16"])
def test_a_dtype_that_is_none_is_refused(dtype):
    with pytest.raises(TypeError, match="'dtype'"):
        dlperf.optimize(nn.Linear(2, 2), mode="inference", dtype=dtype)


def test_a_dtype_for_training_is_refused():
    with pytest.raises(ValueError, match="autocast"):
        dlperf.optimize(nn.Linear(2, 2), dtype=torch.bfloat16)
