"""dlperf.optimize(mode="inference") on recurrent layers: taken apart, packed, counted."""

import pytest
import torch

import dlperf
from dlperf.optimize.work import multiply_adds


class Model(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, *states):
        return self.layer(x, *states)


def _flat(result) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [t for r in result for t in _flat(r)]


def _report(model) -> str:
    """In one line."""
    return " ".join(str(dlperf.report(model)).split())


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True, "num_layers": 2},
        {"bidirectional": True, "num_layers": 2, "dropout": 0.5},
        {"bias": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("layer", [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN])
def test_layers_are_taken_apart_and_give_torchs_results(layer, options, batch):
    torch.manual_seed(0)
    model = Model(layer(20, 48, **options)).eval()
    fast = dlperf.optimize(model, mode="inference")
    shape = (batch, 7, 20) if options.get("batch_first") else (7, batch, 20)
    for _ in range(3):  # the first call is the model's own, later ones are the plan's
        x = torch.randn(shape)
        with torch.no_grad():
            for got, wanted in zip(_flat(fast(x)), _flat(model(x)), strict=True):
                torch.testing.assert_close(got, wanted, rtol=1e-5, atol=2e-6)
    text = _report(fast)
    assert "lower_recurrent 1" in text
    assert "100.0% of the multiply-adds served by dlperf" in text


def test_states_given_by_the_caller_are_read_and_left_alone():
    torch.manual_seed(0)
    model = Model(torch.nn.LSTM(16, 32)).eval()
    fast = dlperf.optimize(model, mode="inference")
    x, h, c = torch.randn(5, 2, 16), torch.randn(1, 2, 32), torch.randn(1, 2, 32)
    before = h.clone(), c.clone()
    with torch.no_grad():
        for _ in range(3):
            for got, wanted in zip(_flat(fast(x, (h, c))), _flat(model(x, (h, c))), strict=True):
                torch.testing.assert_close(got, wanted, rtol=1e-5, atol=2e-6)
    assert torch.equal(h, before[0]) and torch.equal(c, before[1])


def test_bfloat16():
    torch.manual_seed(0)
    model = Model(torch.nn.GRU(16, 32)).eval()
    x = torch.randn(5, 2, 16)
    fast = dlperf.optimize(model, mode="inference", dtype=torch.bfloat16)
    with torch.no_grad():
        wanted = model(x)[0]
        for _ in range(3):
            assert (fast(x)[0].float() - wanted).abs().max() < 2e-2


def test_a_projection_stays_torchs():
    torch.manual_seed(0)
    model = Model(torch.nn.LSTM(16, 32, proj_size=8)).eval()
    fast = dlperf.optimize(model, mode="inference")
    x = torch.randn(5, 2, 16)
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(fast(x)[0], model(x)[0])
    assert "lower_recurrent 1" not in _report(fast)


def test_torchs_own_layer_counts():
    """What torch serves must lower the share that dlperf serves."""
    x, h = torch.randn(7, 3, 20), torch.zeros(1, 3, 48)
    weights = [torch.randn(192, 20), torch.randn(192, 48), torch.randn(192), torch.randn(192)]
    args = (x, [h, h], weights, True, 1, 0.0, False, False, False)
    assert multiply_adds("lstm", args, torch.lstm(*args)) == 7 * 3 * 192 * (20 + 48)
    args = (x, h, [torch.randn(48, 20), torch.randn(48, 48)], False, 1, 0.0, False, False, False)
    assert multiply_adds("rnn_tanh", args, torch.rnn_tanh(*args)) == 7 * 3 * 48 * (20 + 48)


def test_a_batch_that_grows_past_few_rows():
    """Few rows are multiplied by weights packed in another order than many."""
    torch.manual_seed(0)
    model = Model(torch.nn.LSTM(16, 40)).eval()
    fast = dlperf.optimize(model, mode="inference")
    with torch.no_grad():
        for batch in (2, 30, 2, 30, 5):
            x = torch.randn(4, batch, 16)
            for _ in range(2):
                torch.testing.assert_close(fast(x)[0], model(x)[0], rtol=1e-5, atol=2e-6)


def test_a_sequence_gives_the_same_bits_at_any_thread_count():
    torch.manual_seed(0)
    fast = dlperf.optimize(Model(torch.nn.GRU(24, 200)).eval(), mode="inference")
    x = torch.randn(6, 7, 24)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with torch.no_grad():
                results += [fast(x)[0] for _ in range(3)][1:]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(r, results[0]) for r in results)
