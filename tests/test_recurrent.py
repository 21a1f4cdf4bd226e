import copy

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import dlperf
from dlperf import backends, nn
from dlperf.nn import functional as F
from dlperf.testing.compare import assert_matches
from tests.family import check_case, parametrize

LAYERS = {
    "LSTM": (torch.nn.LSTM, nn.LSTM, {}),
    "GRU": (torch.nn.GRU, nn.GRU, {}),
    "RNN-tanh": (torch.nn.RNN, nn.RNN, {}),
    "RNN-relu": (torch.nn.RNN, nn.RNN, {"nonlinearity": "relu"}),
}
CELLS = {
    "LSTMCell": (torch.nn.LSTMCell, nn.LSTMCell, {}),
    "GRUCell": (torch.nn.GRUCell, nn.GRUCell, {}),
    "RNNCell-tanh": (torch.nn.RNNCell, nn.RNNCell, {}),
    "RNNCell-relu": (torch.nn.RNNCell, nn.RNNCell, {"nonlinearity": "relu"}),
}
layers = pytest.mark.parametrize("kind", LAYERS)
cells = pytest.mark.parametrize("kind", CELLS)


def _trio(kind: str, *args, **kwargs):
    """dlperf's layer, torch's, and torch's in float64, of the same weights."""
    theirs_class, ours_class, extra = {**LAYERS, **CELLS}[kind]
    theirs = theirs_class(*args, **kwargs, **extra)
    ours = ours_class(*args, **kwargs, **extra)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs, copy.deepcopy(theirs).double()


def _flat(result) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, torch.nn.utils.rnn.PackedSequence):
        return [result.data]
    return [t for part in result if part is not None for t in _flat(part)]


def _run(layer, inputs: list[torch.Tensor], call):
    """Outputs, and the gradients of the inputs and the parameters under one fixed cotangent."""
    dtype = next(layer.parameters()).dtype
    inputs = [t.detach().to(dtype).requires_grad_() for t in inputs]
    outputs = _flat(call(layer, *inputs))
    generator = torch.Generator().manual_seed(1)
    loss = sum((o * torch.randn(o.shape, generator=generator).to(dtype)).sum() for o in outputs)
    wanted = [*inputs, *layer.parameters()]
    return outputs, torch.autograd.grad(loss, wanted)


def _compare(trio, inputs, call, reduction: int):
    ours, theirs, truth = (_run(layer, inputs, call) for layer in trio)
    for what, got, own, true in zip(("output", "gradient"), ours, theirs, truth, strict=True):
        for i, (a, b, t) in enumerate(zip(got, own, true, strict=True)):
            assert a.shape == b.shape, f"{what} {i}"
            assert_matches(a, t, baseline=b, reduction=reduction, what=f"{what} {i}")


def _states(kind: str, *shape: int) -> list[torch.Tensor]:
    return [torch.randn(shape) for _ in range(2 if kind.startswith("LSTM") else 1)]


def _hx(states):
    return tuple(states) if len(states) == 2 else states[0]


@parametrize("recurrent")
def test_case(case, dtype, isa):
    check_case(case, dtype, "cpu")


@parametrize("recurrent")
def test_reference(case, dtype):
    check_case(case, dtype, "reference")


@layers
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_layers_are_torchs(kernels, kind, batch_first, bidirectional, bias, with_state):
    options = {"num_layers": 2, "bidirectional": bidirectional, "batch_first": batch_first, "bias": bias}
    trio = _trio(kind, 5, 9, **options)
    x = torch.randn(3, 6, 5) if batch_first else torch.randn(6, 3, 5)
    states = _states(kind, 2 * (2 if bidirectional else 1), 3, 9) if with_state else []
    _compare(trio, [x, *states], lambda layer, x, *s: layer(x, _hx(s)) if s else layer(x), 6 * 14 * 12)


@layers
@pytest.mark.parametrize("with_state", [False, True])
def test_unbatched(kernels, kind, with_state):
    states = _states(kind, 1, 9) if with_state else []
    call = lambda layer, x, *s: layer(x, _hx(s)) if s else layer(x)  # noqa: E731
    _compare(_trio(kind, 5, 9), [torch.randn(6, 5), *states], call, 6 * 14 * 4)


@layers
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("enforce_sorted", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_packed_sequences(kernels, kind, bidirectional, enforce_sorted, with_state):
    trio = _trio(kind, 5, 9, num_layers=2, bidirectional=bidirectional)
    lengths = [7, 5, 5, 1] if enforce_sorted else [5, 1, 7, 5]
    states = _states(kind, 2 * (2 if bidirectional else 1), 4, 9) if with_state else []

    def call(layer, x, *s):
        packed = pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted)
        output, last = layer(packed, _hx(s)) if s else layer(packed)
        return pad_packed_sequence(output)[0], last

    _compare(trio, [torch.randn(7, 4, 5), *states], call, 7 * 14 * 16)


@layers
def test_packed_output_keeps_its_order(kernels, kind):
    ours, theirs, _ = _trio(kind, 3, 4)
    packed = pack_sequence([torch.randn(n, 3) for n in (2, 4, 1)], enforce_sorted=False)
    mine, expected = ours(packed)[0], theirs(packed)[0]
    for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert torch.equal(getattr(mine, name), getattr(expected, name))


@cells
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(4, 5), (5,)])
@pytest.mark.parametrize("with_state", [False, True])
def test_cells_are_torchs(kernels, kind, bias, shape, with_state):
    trio = _trio(kind, 5, 9, bias=bias)
    states = _states(kind, *shape[:-1], 9) if with_state else []
    _compare(trio, [torch.randn(shape), *states], lambda c, x, *s: c(x, _hx(s)) if s else c(x), 14 * 16)


@layers
def test_gradients_to_second_order(kind):
    layer = LAYERS[kind][1](2, 3, **LAYERS[kind][2]).double()
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    states = [s.double().requires_grad_() for s in _states(kind, 1, 2, 3)]
    call = lambda x, *s: tuple(_flat(layer(x, _hx(s))))  # noqa: E731
    assert torch.autograd.gradcheck(call, (x, *states))
    assert torch.autograd.gradgradcheck(call, (x, *states))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_the_kernels_take_what_the_reference_kept(kernels, cell, dtype):
    gates = {"lstm": 4, "gru": 3}.get(cell, 1)
    x, *weights = (
        torch.randn(s, dtype=dtype) for s in ((4, 3, 5), (gates * 9, 5), (gates * 9, 9), gates * 9, gates * 9)
    )
    h, c = (torch.randn(3, 9, dtype=dtype) for _ in range(2))
    grads = []
    inputs = (x, h, c if cell == "lstm" else None, *weights, None)
    for name in ("cpu", "reference"):
        with dlperf.backend(name):
            y, _, _, *kept = torch.ops.dlperf.recurrent(*inputs, cell, False, True)
        wanted = [True, True, cell == "lstm", *[True] * 4]
        up = (torch.ones_like(y), torch.ones_like(h), None)
        grads.append(torch.ops.dlperf.recurrent_bwd(*up, *inputs, y, *kept, cell, False, wanted))
    tolerance = 1e-5 if dtype is torch.float32 else 0.05
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()) if b.numel() else 0.0)


@layers
def test_one_output_alone_has_a_gradient(kernels, kind):
    ours, theirs, _ = _trio(kind, 5, 9)
    x = torch.randn(4, 3, 5)
    for pick in (lambda r: r[0][-1], lambda r: _flat(r[1])[-1]):
        grads = [torch.autograd.grad(pick(layer(x)).sum(), list(layer.parameters())) for layer in (ours, theirs)]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@layers
def test_frozen_parameters_get_no_gradient(kernels, kind):
    layer = LAYERS[kind][1](5, 9, **LAYERS[kind][2])
    layer.weight_hh_l0.requires_grad_(False)
    layer(torch.randn(4, 3, 5))[0].sum().backward()
    assert layer.weight_hh_l0.grad is None and layer.weight_ih_l0.grad is not None


@layers
def test_dropout_lies_between_layers(kernels, kind):
    layer = LAYERS[kind][1](5, 16, num_layers=2, dropout=0.5, **LAYERS[kind][2])
    x = torch.randn(4, 3, 5)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    layer.dropout = 1.0
    layer.train()
    # Everything between the layers is gone: what is left comes from the biases, the same in every sequence.
    y = layer(x)[0]
    torch.testing.assert_close(y, y[:, :1].expand_as(y))


@layers
def test_the_initial_state_is_left_alone(kernels, kind):
    layer = LAYERS[kind][1](5, 9, **LAYERS[kind][2])
    states = _states(kind, 1, 3, 9)
    before = [s.clone() for s in states]
    layer(torch.randn(4, 3, 5), _hx(states))
    assert all(torch.equal(a, b) for a, b in zip(states, before, strict=True))


def test_saturated_gates(isa, kernels):
    ours, theirs, _ = _trio("LSTM", 2, 3)
    x = torch.tensor([1e4, -1e4, 1e30, -1e30, float("inf"), float("nan")]).reshape(6, 1, 1).expand(6, 1, 2)
    for i in range(6):
        torch.testing.assert_close(ours(x[i : i + 1]), theirs(x[i : i + 1]), equal_nan=True)


def test_every_layer_is_one_operator_a_direction(kernels):
    with backends.trace() as calls, torch.no_grad():
        nn.LSTM(5, 9, num_layers=2, bidirectional=True)(torch.randn(4, 3, 5))
    assert calls == [("recurrent", "cpu")] * 4


def test_proj_size_is_torchs_and_the_report_says_so():
    ours, theirs, _ = _trio("LSTM", 5, 9, proj_size=4)
    x = torch.randn(4, 3, 5)
    torch.testing.assert_close(ours(x), theirs(x))
    model = dlperf.optimize(torch.nn.Sequential(theirs))
    for report in (dlperf.report(model), dlperf.report(model, x)):
        assert report.rows[0].served_by == "torch" and "proj_size" in report.rows[0].detail


@pytest.mark.parametrize("kind", [*LAYERS, *CELLS])
def test_autocast_dtypes_are_torchs(kernels, kind):
    ours, theirs, _ = _trio(kind, 5, 9)
    x = torch.randn(3, 5) if kind in CELLS else torch.randn(4, 3, 5)
    with torch.autocast("cpu"), torch.no_grad():
        mine, expected = ours(x), theirs(x)
    assert [t.dtype for t in _flat(mine)] == [t.dtype for t in _flat(expected)]
    torch.testing.assert_close(_flat(mine)[0].float(), _flat(theirs(x))[0], rtol=0.05, atol=0.05)


@layers
def test_optimized_models(kernels, kind):
    model = torch.nn.Sequential(LAYERS[kind][0](5, 9, **LAYERS[kind][2]))
    x = torch.randn(4, 3, 5)
    for mode in ("train", "inference"):
        with torch.no_grad():
            for a, b in zip(_flat(dlperf.optimize(model, mode=mode)(x)), _flat(model(x)), strict=True):
                torch.testing.assert_close(a, b)


@layers
def test_it_compiles(kind):
    ours, _, _ = _trio(kind, 5, 9)
    x = torch.randn(4, 3, 5)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    grads = []
    for layer in (ours, compiled):
        with torch._dynamo.config.patch(allow_rnn=True):  # without it torch breaks the graph at every recurrent layer
            y = layer(x)[0]
        grads.append((y, *torch.autograd.grad(y.sum(), list(ours.parameters()))))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


X, H = torch.ones(4, 3, 5), torch.ones(1, 3, 9)


@pytest.mark.parametrize(
    "call",
    [
        lambda ns: ns.LSTM(5, 9)(torch.ones(0, 3, 5)),
        lambda ns: ns.GRU(5, 9)(torch.ones(0, 5)),
        lambda ns: ns.LSTM(5, 9)(torch.ones(4, 3, 6)),
        lambda ns: ns.LSTM(5, 9)(torch.ones(5)),
        lambda ns: ns.RNN(5, 9)(X.double()),
        lambda ns: ns.LSTM(5, 9)(X, (H, H[:, :2])),
        lambda ns: ns.LSTM(5, 9)(X, (H[0], H[0])),
        lambda ns: ns.GRU(5, 9)(X[:, 0], H),
        lambda ns: ns.GRU(5, 9)(X, H[:, :, :8]),
        lambda ns: ns.LSTMCell(5, 9)(X),
        lambda ns: ns.GRUCell(5, 9)(X[0], H),
        lambda ns: ns.GRUCell(5, 9)(X[0], H[0, :2]),
        lambda ns: ns.RNNCell(5, 9)(X[0, :, :4]),
    ],
)
def test_bad_input_raises_as_torchs(call):
    with pytest.raises(Exception) as expected:
        call(torch.nn)
    with pytest.raises(expected.type) as raised:
        call(nn)
    assert type(raised.value) is type(expected.value)


@pytest.mark.parametrize(
    "arguments, options, words",
    [
        ((torch.ones(9, 5), H[0]), {"batch_sizes": torch.tensor([3, 3, 1])}, "'batch_sizes'"),
        ((torch.ones(9, 5), H[0]), {"batch_sizes": torch.tensor([3, 2, 4])}, "'batch_sizes'"),
        ((torch.ones(9, 5), H[0]), {"batch_sizes": torch.tensor([3.0])}, "'batch_sizes'.*int64"),
        ((torch.ones(9, 5), H[0]), {}, "'input'.*3 dimensions"),
        ((X, H[0, :2]), {}, r"'h0'.*\(3, 9\)"),
        ((X.long(), H[0]), {}, "'input'.*floating"),
        ((X.bfloat16(), H[0]), {}, "'h0'.*dtype"),
    ],
)
def test_bad_input_of_the_operator(arguments, options, words):
    weights = torch.ones(27, 5), torch.ones(27, 9)
    with pytest.raises(RuntimeError, match=words):
        F.gru_layer(*arguments, *weights, **options)


def test_unknown_nonlinearity_is_refused():
    with pytest.raises(ValueError, match=r"'nonlinearity'.*gelu"):
        F.rnn_layer(X, H[0], torch.ones(9, 5), torch.ones(9, 9), nonlinearity="gelu")
