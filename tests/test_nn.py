"""What all layers share: fall-through, state_dict, copies, pickles, hooks."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch

import dlperf
from dlperf import nn
from dlperf.nn import LAYERS

# torch class -> constructor arguments and an input.
SAMPLES = {
    torch.nn.Linear: ((5, 4), lambda: torch.randn(3, 5)),
    torch.nn.Conv1d: ((4, 6, 3), lambda: torch.randn(2, 4, 9)),
    torch.nn.Conv2d: ((4, 6, 3), lambda: torch.randn(2, 4, 7, 8)),
    torch.nn.ConvTranspose1d: ((4, 6, 3), lambda: torch.randn(2, 4, 9)),
    torch.nn.ConvTranspose2d: ((4, 6, 3), lambda: torch.randn(2, 4, 5, 6)),
    **{
        layer: ((), lambda: torch.randn(2, 3))
        for layer in (
            torch.nn.ReLU,
            torch.nn.ReLU6,
            torch.nn.LeakyReLU,
            torch.nn.ELU,
            torch.nn.GELU,
            torch.nn.SiLU,
            torch.nn.Sigmoid,
            torch.nn.Tanh,
            torch.nn.Hardsigmoid,
            torch.nn.Hardswish,
            torch.nn.Softplus,
            torch.nn.Mish,
            torch.nn.Dropout,
        )
    },
    torch.nn.Softmax: ((1,), lambda: torch.randn(2, 3)),
    torch.nn.LogSoftmax: ((1,), lambda: torch.randn(2, 3)),
    torch.nn.CrossEntropyLoss: ((), lambda: (torch.randn(4, 3), torch.tensor([0, 2, 1, 1]))),
    torch.nn.GLU: ((1,), lambda: torch.randn(2, 6)),
    **{
        layer: ((), lambda: (torch.randn(4, 3), torch.rand(4, 3)))
        for layer in (
            torch.nn.MSELoss,
            torch.nn.L1Loss,
            torch.nn.SmoothL1Loss,
            torch.nn.HuberLoss,
            torch.nn.BCEWithLogitsLoss,
        )
    },
    torch.nn.KLDivLoss: ((None, None, "batchmean"), lambda: (torch.randn(4, 3), torch.rand(4, 3))),
    torch.nn.NLLLoss: ((), lambda: (torch.randn(4, 3), torch.tensor([0, 2, 1, 1]))),
    torch.nn.LSTM: ((5, 4, 2), lambda: torch.randn(6, 3, 5)),
    torch.nn.GRU: ((5, 4), lambda: torch.randn(6, 3, 5)),
    torch.nn.RNN: ((5, 4), lambda: torch.randn(6, 3, 5)),
    torch.nn.LSTMCell: ((5, 4), lambda: torch.randn(3, 5)),
    torch.nn.GRUCell: ((5, 4), lambda: torch.randn(3, 5)),
    torch.nn.RNNCell: ((5, 4), lambda: torch.randn(3, 5)),
    torch.nn.MultiheadAttention: ((12, 3), lambda: tuple(torch.randn(s, 2, 12) for s in (5, 7, 7))),
    torch.nn.TransformerEncoderLayer: ((12, 3, 20), lambda: torch.randn(5, 2, 12)),
    torch.nn.TransformerDecoderLayer: ((12, 3, 20), lambda: (torch.randn(5, 2, 12), torch.randn(7, 2, 12))),
    torch.nn.TransformerEncoder: (
        (torch.nn.TransformerEncoderLayer(12, 2, 20, batch_first=True), 2),
        lambda: torch.randn(5, 2, 12),
    ),
    torch.nn.TransformerDecoder: (
        (torch.nn.TransformerDecoderLayer(12, 3, 20), 2),
        lambda: (torch.randn(5, 2, 12), torch.randn(7, 2, 12)),
    ),
    torch.nn.Transformer: ((12, 2, 1, 1, 20), lambda: (torch.randn(5, 2, 12), torch.randn(7, 2, 12))),
    torch.nn.BatchNorm1d: ((6,), lambda: torch.randn(4, 6)),
    torch.nn.BatchNorm2d: ((6,), lambda: torch.randn(2, 6, 5, 4)),
    torch.nn.BatchNorm3d: ((6,), lambda: torch.randn(2, 6, 5, 4, 3)),
    torch.nn.MaxPool1d: ((3, 2, 1), lambda: torch.randn(2, 6, 9)),
    torch.nn.MaxPool2d: ((3, 2, 1), lambda: torch.randn(2, 6, 7, 8)),
    torch.nn.AvgPool1d: ((3, 2, 1), lambda: torch.randn(2, 6, 9)),
    torch.nn.AvgPool2d: ((3, 2, 1), lambda: torch.randn(2, 6, 7, 8)),
    torch.nn.AdaptiveAvgPool1d: ((3,), lambda: torch.randn(2, 6, 9)),
    torch.nn.AdaptiveAvgPool2d: (((3, None),), lambda: torch.randn(2, 6, 7, 8)),
    torch.nn.AdaptiveMaxPool1d: ((3,), lambda: torch.randn(2, 6, 9)),
    torch.nn.AdaptiveMaxPool2d: (((3, 2),), lambda: torch.randn(2, 6, 7, 8)),
    torch.nn.LayerNorm: ((6,), lambda: torch.randn(4, 6)),
    torch.nn.RMSNorm: ((6,), lambda: torch.randn(4, 6)),
    torch.nn.GroupNorm: ((3, 6), lambda: torch.randn(2, 6, 5, 4)),
    torch.nn.InstanceNorm1d: ((6,), lambda: torch.randn(2, 6, 5)),
    torch.nn.InstanceNorm2d: ((6,), lambda: torch.randn(2, 6, 5, 4)),
    torch.nn.InstanceNorm3d: ((6,), lambda: torch.randn(2, 6, 5, 4, 3)),
    torch.nn.Upsample: ((None, 2.0), lambda: torch.randn(1, 3, 4, 5)),
    torch.nn.UpsamplingNearest2d: (((7, 9),), lambda: torch.randn(1, 3, 4, 5)),
    torch.nn.UpsamplingBilinear2d: ((None, 2), lambda: torch.randn(1, 3, 4, 5)),
    torch.nn.PixelShuffle: ((2,), lambda: torch.randn(1, 8, 3, 4)),
    torch.nn.PixelUnshuffle: ((2,), lambda: torch.randn(1, 2, 6, 4)),
    torch.nn.Embedding: ((7, 5), lambda: torch.randint(0, 7, (3, 4))),
}


def test_every_layer_has_a_sample():
    assert set(LAYERS) == set(SAMPLES)


@pytest.fixture(params=list(LAYERS), ids=lambda c: c.__name__)
def pair(request):
    """A torch layer and dlperf's of the same weights, with an input."""
    args, make = SAMPLES[request.param]
    torch.manual_seed(0)
    theirs = request.param(*args)
    ours = LAYERS[request.param](*args)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs.eval(), ours.eval(), make


def _call(layer, x):
    return layer(*x) if isinstance(x, tuple) else layer(x)


def _first(value):
    return value[0] if isinstance(value, tuple) else value


def test_layer_is_a_torch_layer_of_the_same_name(pair):
    theirs, ours, _ = pair
    assert isinstance(ours, type(theirs)) and type(ours).__name__ == type(theirs).__name__
    assert repr(ours) == repr(theirs)


def test_layer_computes_what_torchs_does(pair):
    theirs, ours, make = pair
    x = make()
    torch.testing.assert_close(_first(_call(ours, x)), _first(_call(theirs, x)), rtol=1e-4, atol=1e-5)


def test_state_dict_goes_both_ways(pair):
    theirs, ours, _ = pair
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert list(theirs.state_dict()) == list(ours.state_dict())


def test_layer_deepcopies_and_pickles(pair):
    _, ours, make = pair
    x = make()
    expected = _first(_call(ours, x))
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(twin) is type(ours)
        assert torch.equal(_first(_call(twin, x)), expected)


def test_hooks_run(pair):
    _, ours, make = pair
    seen = []
    ours.register_forward_pre_hook(lambda module, args: seen.append("before"))
    ours.register_forward_hook(lambda module, args, out: seen.append("after"))
    _call(ours, make())
    assert seen == ["before", "after"]


def test_layer_follows_to_double(pair):
    theirs, ours, make = pair
    x = make()
    x = tuple(v.double() if v.is_floating_point() else v for v in (x if isinstance(x, tuple) else (x,)))
    torch.testing.assert_close(_first(_call(ours.double(), x)), _first(_call(theirs.double(), x)))


@pytest.mark.parametrize(
    "name", ["Sequential", "ModuleList", "Parameter", "PairwiseDistance", "init", "utils", "Bilinear"]
)
def test_other_names_are_torchs(name):
    assert getattr(nn, name) is getattr(torch.nn, name)


def test_submodules_import_and_are_torchs():
    code = (
        "import dlperf.nn.init, dlperf.nn.utils.rnn, dlperf.nn.utils.parametrize, dlperf.nn.parallel, torch\n"
        "from dlperf.nn.parameter import Parameter\n"
        "assert dlperf.nn.init is torch.nn.init and Parameter is torch.nn.Parameter\n"
        "assert dlperf.nn.utils.rnn is torch.nn.utils.rnn\n"
        "import dlperf.nn.functional as F\n"
        "assert F.pad is torch.nn.functional.pad\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_names_raise_attribute_error():
    with pytest.raises(AttributeError, match="Convolution2d"):
        _ = dlperf.nn.Convolution2d
    with pytest.raises(AttributeError):
        _ = dlperf.nn.functional.convolution2d
