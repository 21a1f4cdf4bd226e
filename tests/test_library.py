"""torch.library.opcheck over every operator: schema, fake, autograd registration, aot dispatch."""

import pytest
import torch

from dlperf.ops import _frame

# operator -> samples: functions that give the operator's positional arguments.
OPCHECK = {
    "activation": [lambda: (torch.randn(3, 5, requires_grad=True), "silu", 0.0)],
    "activation_bwd": [lambda: (torch.randn(3, 5), torch.randn(3, 5, requires_grad=True), "silu", 0.0)],
}


def test_every_operator_has_a_sample():
    assert set(_frame.OPERATORS) == set(OPCHECK)


@pytest.mark.parametrize("name, sample", [(n, i) for n, samples in OPCHECK.items() for i in range(len(samples))])
def test_opcheck(name, sample):
    torch.use_deterministic_algorithms(False)
    args = OPCHECK[name][sample]()
    result = torch.library.opcheck(_frame.OPERATORS[name].op, args)
    assert set(result.values()) == {"SUCCESS"}, result
