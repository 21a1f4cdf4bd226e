"""Every family under odd values and addresses, other threads and processes, and parameters changed in any way."""

import copy
import threading

import pytest
import torch

import dlperf
from dlperf.backends import cpu
from dlperf.testing.cases import FAMILIES, Maker
from dlperf.testing.run import _call, _clone, _public, _to_double

from .test_nn import SAMPLES

pytestmark = pytest.mark.skipif(cpu.available() is not None, reason="the CPU kernels are not built")

VALUES = {"nan": float("nan"), "inf": float("inf"), "-inf": -float("inf"), "denormal": 3e-40}


def _made(case, dtype=torch.float32):
    args, kwargs = case.make(Maker(dtype))
    return tuple(_clone(a) for a in args), {k: _clone(v) for k, v in kwargs.items()}


def _bits(case, args, kwargs) -> list[torch.Tensor]:
    """Everything that the CPU kernels compute for the case: outputs, gradients, state."""
    outputs, gradients, state, _ = _call(case, args, kwargs, "cpu", case.gradients)
    return [t.detach() for t in (*outputs, *gradients, *state) if t is not None]


def _same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    """Equal bit for bit, NaN included."""
    return len(a) == len(b) and all(
        torch.equal(x.nan_to_num(7.0), y.nan_to_num(7.0)) for x, y in zip(a, b, strict=True)
    )


def _cases(family: str, dtype=torch.float32):
    return [case for case in FAMILIES[family] if dtype in case.dtypes]


# --- values ------------------------------------------------------------------------------------------


def _plant(tensor: torch.Tensor, value: float):
    """Puts the value in the middle of the first sample; where views overlap, wherever that is."""
    with torch.no_grad():
        first = tensor[0] if tensor.dim() else tensor
        index = tuple(n // 2 for n in first.shape)
        (first[index] if index else first).fill_(value)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("family", FAMILIES)
def test_not_finite_values_go_where_torchs_go(family, value):
    for case in _cases(family):
        args, kwargs = _made(case)
        x = next((a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point() and a.numel()), None)
        if x is None or any(s == 0 for s in x.stride()):
            continue
        x.requires_grad_(False)
        _plant(x, VALUES[value])
        # In float64: torch's float32 gelu makes NaN of infinity on some processors.
        again = tuple(_to_double(a) for a in args), {k: _to_double(v) for k, v in kwargs.items()}
        with torch.no_grad():
            got, _, _, _ = _call(case, args, kwargs, "cpu", False)
            want, _, _, _ = _call(case, *again, "reference", False)
        for a, b in zip(got, want, strict=True):
            if not a.is_floating_point():
                continue
            assert torch.equal(a.isnan(), b.isnan()), f"{case}: NaN elsewhere"
            assert torch.equal(a.isinf(), b.isinf()), f"{case}: infinities elsewhere"
            assert torch.equal(a[a.isinf()], b[b.isinf()].float()), f"{case}: an infinity of the other sign"


@pytest.mark.parametrize("family", FAMILIES)
def test_denormal_inputs_are_not_taken_for_zero(family):
    for case in _cases(family):
        args, kwargs = _made(case)
        x = next((a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point() and a.numel()), None)
        if x is None or any(s == 0 for s in x.stride()):
            continue
        x.requires_grad_(False).mul_(1e-39)
        again = tuple(_clone(a) for a in args), {k: _clone(v) for k, v in kwargs.items()}
        with torch.no_grad():
            got, _, _, _ = _call(case, args, kwargs, "cpu", False)
            want, _, _, _ = _call(case, *again, "reference", False)
        for a, b in zip(got, want, strict=True):
            if a.is_floating_point() and b.numel() and b.isfinite().all():
                assert (a - b).abs().max() <= 1e-3 * b.abs().max(), case


# --- addresses, runs, threads ------------------------------------------------------------------------


def _shifted(value):
    """The same values one element further on in memory."""
    if not isinstance(value, torch.Tensor) or any(s == 0 for s in value.stride()):
        return value
    storage = value.detach().as_strided((value.untyped_storage().nbytes() // value.element_size(),), (1,), 0)
    moved = torch.empty(storage.numel() + 1, dtype=value.dtype)
    moved[1:].copy_(storage)
    moved = moved.as_strided(value.shape, value.stride(), value.storage_offset() + 1)
    assert torch.equal(moved, value.detach()) or value.is_floating_point()
    return moved.requires_grad_(value.requires_grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["f32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_bits_whatever_the_alignment_and_in_every_run(family, dtype):
    for case in _cases(family, dtype):
        args, kwargs = _made(case, dtype)
        first = _bits(case, *_made(case, dtype))
        assert _same(first, _bits(case, *_made(case, dtype))), f"{case}: another run gives other bits"
        moved = tuple(map(_shifted, args)), {k: _shifted(v) for k, v in kwargs.items()}
        assert _same(first, _bits(case, *moved)), f"{case}: another alignment gives other bits"


@pytest.mark.parametrize("family", FAMILIES)
def test_four_threads_give_the_bits_of_one(family):
    switches = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn
    before = [switch.fp32_precision for switch in switches]
    cases = _cases(family)
    expected = [_bits(case, *_made(case)) for case in cases]
    wrong = []

    def work(start: int):
        for i in range(len(cases)):
            n = (i + start * len(cases) // 4) % len(cases)
            try:
                if not _same(expected[n], _bits(cases[n], *_made(cases[n]))):
                    wrong.append(str(cases[n]))
            except Exception as error:  # a thread's exception is seen by nobody else
                wrong.append(f"{cases[n]}: {error!r}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a thread hangs"
    assert wrong == []
    assert [switch.fp32_precision for switch in switches] == before, "a check left the process' switches changed"


# --- forked workers ----------------------------------------------------------------------------------

NETWORKS = {
    "winograd": lambda: torch.nn.Sequential(
        torch.nn.Conv2d(32, 48, 3, padding=1), torch.nn.BatchNorm2d(48), torch.nn.ReLU()
    ),
    "transformer": lambda: torch.nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True),
    "norms": lambda: torch.nn.Sequential(torch.nn.GroupNorm(4, 32), torch.nn.SiLU(), torch.nn.AvgPool2d(2)),
    "lstm": lambda: torch.nn.LSTM(32, 24, batch_first=True),
}
INPUTS = {name: (32, 20, 20) if name in ("winograd", "norms") else (12, 32) for name in NETWORKS}


class _Worked(torch.utils.data.Dataset):
    """A forward and a backward pass in the worker, and one of a plan made before the fork."""

    def __init__(self, name: str):
        torch.manual_seed(0)
        network = NETWORKS[name]()
        self.trained = dlperf.optimize(copy.deepcopy(network))
        self.plan = dlperf.optimize(network.eval(), mode="inference")
        self.size = INPUTS[name]

    def __len__(self):
        return 4

    def __getitem__(self, i):
        x = torch.randn(2, *self.size, generator=torch.Generator().manual_seed(i))
        with torch.no_grad():
            planned = self.plan(x)
        x = x.clone().requires_grad_()
        y = self.trained(x)
        y = y[0] if isinstance(y, tuple) else y
        y.square().sum().backward()
        return (planned[0] if isinstance(planned, tuple) else planned), y.detach(), x.grad


@pytest.mark.parametrize("name", NETWORKS)
def test_forked_workers_train_and_infer(name):
    dataset = _Worked(name)
    expected = [torch.stack(parts) for parts in zip(*(dataset[i] for i in range(4)), strict=True)]
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=100
    )
    for got, want in zip(map(torch.cat, zip(*loader, strict=True)), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)  # one thread sums in another order


# --- parameters changed in any way -------------------------------------------------------------------


def _fused(optimizer, **options):
    def change(layer):
        parameters = [p for p in layer.parameters() if p.requires_grad]
        for p in parameters:
            p.grad = torch.ones_like(p)
        optimizer(parameters, lr=0.1, **options).step()

    return change


def _each(change):
    def apply(layer):
        for tensor in (*layer.parameters(), *layer.buffers()):
            if tensor.is_floating_point():
                change(tensor)

    return apply


def _scaled(layer, assign: bool):
    state = {k: v * 1.25 if v.is_floating_point() else v.clone() for k, v in layer.state_dict().items()}
    layer.load_state_dict(state, assign=assign)


def _through_a_vector(layer):
    vector = torch.nn.utils.parameters_to_vector(layer.parameters()).detach()
    torch.nn.utils.vector_to_parameters(vector * 1.25, layer.parameters())


def _assign_data(tensor):
    tensor.data = tensor.data * 1.25


def _write_through_numpy(tensor):
    tensor.detach().numpy()[...] *= 1.25


def _write_in_place(tensor):
    with torch.no_grad():
        tensor.mul_(1.25)


CHANGES = {
    "data in place": _each(lambda tensor: tensor.data.mul_(1.25)),
    "data assigned": _each(_assign_data),
    "numpy": _each(_write_through_numpy),
    "no_grad": _each(_write_in_place),
    "fused SGD": _fused(torch.optim.SGD, fused=True),
    "fused AdamW": _fused(torch.optim.AdamW, fused=True),
    "foreach Adam": _fused(torch.optim.Adam, foreach=True),
    "load_state_dict": lambda layer: _scaled(layer, False),
    "load_state_dict, assigned": lambda layer: _scaled(layer, True),
    "vector_to_parameters": _through_a_vector,
}
LARGE = {
    "Winograd": (lambda: torch.nn.Conv2d(64, 64, 3, padding=1), lambda: torch.randn(4, 64, 16, 16)),
    "large product": (lambda: torch.nn.Linear(512, 384), lambda: torch.randn(200, 512)),
}
CHANGED = LARGE | {
    layer.__name__: (lambda layer=layer, args=args: layer(*args), make)
    for layer, (args, make) in SAMPLES.items()
    if any(True for _ in layer(*args).parameters())
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", CHANGED)
def test_no_changed_parameter_is_served_stale(name, training):
    build, make = CHANGED[name]
    inputs = make()
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    for how, change in CHANGES.items():
        torch.manual_seed(0)
        theirs = build()
        for module in theirs.modules():
            if hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.0
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        ours = dlperf.optimize(copy.deepcopy(theirs)).train(training)
        theirs.train(training)
        for _ in range(2):
            before = _first(ours(*inputs))
        change(ours)
        theirs.load_state_dict(ours.state_dict())
        after, expected = _first(ours(*inputs)), _first(theirs(*inputs))
        assert not torch.equal(after, before), f"{how}: nothing changed"
        torch.testing.assert_close(after, expected, rtol=1e-3, atol=1e-4, msg=lambda text, how=how: f"{how}: {text}")


def _first(output) -> torch.Tensor:
    return (output[0] if isinstance(output, tuple) else output).detach().clone()


def test_every_public_function_of_the_cases_exists():
    """The tests above would pass over a family whose functions they can't find."""
    for cases in FAMILIES.values():
        assert cases
        assert all(callable(_public(case.function)) for case in cases)
