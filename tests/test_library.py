"""torch.library.opcheck over every operator: schema, fake, autograd registration, aot dispatch."""

import pytest
import torch

from dlperf.ops import _frame


def _wants(*shape: int) -> torch.Tensor:
    return torch.randn(shape, requires_grad=True)


# operator -> samples: functions that give the operator's positional arguments.
OPCHECK = {
    "activation": [lambda: (torch.randn(3, 5, requires_grad=True), "silu", 0.0)],
    "activation_bwd": [lambda: (torch.randn(3, 5), torch.randn(3, 5, requires_grad=True), "silu", 0.0)],
    "layer_norm": [lambda: (_wants(3, 5), _wants(5), _wants(5), 1, 1e-5), lambda: (_wants(3, 5), None, None, 2, 1e-5)],
    "layer_norm_bwd": [
        lambda: (_wants(3, 5), _wants(3, 5), _wants(5), _wants(5), torch.ones(2, 3), 1, 1e-5, [True] * 3)
    ],
    "rms_norm": [lambda: (_wants(3, 5), _wants(5), 1, 1e-5)],
    "rms_norm_bwd": [lambda: (_wants(3, 5), _wants(3, 5), _wants(5), torch.ones(1, 3), 1, 1e-5, [True, True])],
    "group_norm": [lambda: (_wants(2, 6, 4), _wants(6), _wants(6), 3, 1e-5, "silu")],
    "group_norm_bwd": [
        lambda: (_wants(2, 6, 4), _wants(2, 6, 4), _wants(6), _wants(6), torch.ones(2, 6), 3, 1e-5, "silu", [True] * 3)
    ],
}


def test_every_operator_has_a_sample():
    assert set(_frame.OPERATORS) == set(OPCHECK)


@pytest.mark.parametrize("name, sample", [(n, i) for n, samples in OPCHECK.items() for i in range(len(samples))])
def test_opcheck(name, sample):
    torch.use_deterministic_algorithms(False)
    args = OPCHECK[name][sample]()
    result = torch.library.opcheck(_frame.OPERATORS[name].op, args)
    assert set(result.values()) == {"SUCCESS"}, result
