"""torch.library.opcheck over every operator: schema, fake, autograd registration, aot dispatch."""

import pytest
import torch

from dlperf.ops import _frame


def _wants(*shape: int) -> torch.Tensor:
    return torch.randn(shape, requires_grad=True)


def _last(*shape: int) -> torch.Tensor:
    return torch.randn(shape).to(memory_format=torch.channels_last).requires_grad_()


# Kernel 3, stride 2, padding 1, dilation 1, of both axes.
_WINDOW = (3, 3, 2, 2, 1, 1, 1, 1)


def _norm_arguments():
    """x, weight and bias of a batch norm."""
    return (
        torch.randn(2, 3, 4, 5, requires_grad=True),
        torch.rand(3, requires_grad=True),
        torch.rand(3, requires_grad=True),
    )


def _recurrent_arguments(cell: str, batch_sizes=None) -> tuple:
    gates = {"lstm": 4, "gru": 3}.get(cell, 1)
    x = _wants(3, 2, 5) if batch_sizes is None else _wants(sum(batch_sizes), 5)
    c0 = _wants(2, 4) if cell == "lstm" else None
    sizes = None if batch_sizes is None else torch.tensor(batch_sizes)
    weights = (_wants(gates * 4, 5), _wants(gates * 4, 4), _wants(gates * 4), _wants(gates * 4))
    return x, _wants(2, 4), c0, *weights, sizes


def _recurrent_backward_arguments(cell: str) -> tuple:
    args = _recurrent_arguments(cell)
    y, h, c, gates, kept = torch.ops.dlperf.recurrent(*args, cell, False, True)
    gc = torch.randn(c.shape) if cell == "lstm" else None
    saved = (t.detach() for t in (y, gates, kept))
    wanted = [True, True, cell == "lstm", True, True, True, True]
    return torch.randn(y.shape), torch.randn(h.shape), gc, *args, *saved, cell, False, wanted


# operator -> samples: functions that give the operator's positional arguments.
OPCHECK = {
    "batch_norm_train": [
        lambda: (*_norm_arguments(), torch.randn(2, 3, 4, 5, requires_grad=True), 1e-5, "relu"),
        lambda: (torch.randn(4, 3, requires_grad=True), None, None, None, 1e-5, "none"),
    ],
    "batch_norm_given": [
        lambda: (
            (torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(3), torch.rand(3) + 0.5, *_norm_arguments()[1:])
            + (torch.randn(2, 3, 4, 5, requires_grad=True), 1e-5, "relu")
        ),
    ],
    "conv2d_moments": [
        lambda: (_wants(2, 4, 6, 5), _wants(6, 2, 3, 3), [2, 1], [1, 0], [1, 1], 2),
    ],
    "batch_norm_eval": [
        lambda: (
            (torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(3), torch.rand(3) + 0.5, *_norm_arguments()[1:])
            + (None, 1e-5, "none")
        ),
    ],
    "batch_norm_bwd": [
        lambda: (
            (torch.randn(2, 3, 4, 5), _norm_arguments()[0], torch.randn(2, 3, 4, 5), torch.randn(3))
            + (torch.rand(3) + 0.5, *_norm_arguments()[1:], 1e-5, True, [True] * 4)
        ),
        lambda: (
            (torch.randn(4, 3), torch.randn(4, 3), None, torch.randn(3), torch.rand(3) + 0.5, None, None)
            + (1e-5, False, [True, False, False, False])
        ),
    ],
    "batch_norm_update": [
        lambda: (torch.zeros(3), torch.ones(3), torch.randn(3), torch.rand(3), 0.1, 40),
    ],
    "max_pool": [
        lambda: (torch.randn(2, 3, 6, 7, requires_grad=True), _WINDOW, (3, 4), True),
        lambda: (torch.randn(2, 3, 6, 7), (), (3, 2), False),
    ],
    "max_pool_bwd": [
        lambda: (
            torch.randn(2, 3, 3, 4, requires_grad=True),
            torch.zeros(2, 3, 3, 4).int(),
            (2, 3, 6, 7),
            _WINDOW,
            False,
        ),
    ],
    "avg_pool": [
        lambda: (torch.randn(2, 3, 6, 7, requires_grad=True), _WINDOW, (3, 4), True, 0),
        lambda: (torch.randn(2, 3, 6, 7, requires_grad=True), (), (3, 2), True, 0),
    ],
    "avg_pool_bwd": [
        lambda: (torch.randn(2, 3, 3, 4, requires_grad=True), (2, 3, 6, 7), _WINDOW, False, 0, False),
        lambda: (torch.randn(2, 3, 3, 2, requires_grad=True), (2, 3, 6, 7), (), True, 0, True),
    ],
    "activation": [lambda: (torch.randn(3, 5, requires_grad=True), "silu", 0.0)],
    "add": [lambda: (torch.randn(3, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True), 0.5, "relu")],
    "activation_": [lambda: (torch.randn(3, 5), "relu", 0.0)],
    "softmax": [lambda: (torch.randn(3, 5, requires_grad=True), 1, False)],
    "softmax_bwd": [lambda: (torch.randn(3, 5), torch.rand(3, 5, requires_grad=True), 1, False)],
    "cross_entropy": [
        lambda: (torch.randn(3, 5, requires_grad=True), torch.tensor([0, 1, 4]), torch.rand(5), 1, -100, 0.1),
        lambda: (torch.randn(3, 5, requires_grad=True), torch.rand(3, 5, requires_grad=True), None, 0, -100, 0.0),
    ],
    "cross_entropy_bwd": [
        lambda: (torch.ones(()), torch.randn(3, 5), torch.tensor([0, 1, 4]), None, torch.ones(7), 1, -100, 0.0, False)
    ],
    "dropout": [lambda: (torch.randn(3, 5, requires_grad=True), torch.tensor([1, 2]), 0.5)],
    "activation_bwd": [lambda: (torch.randn(3, 5), torch.randn(3, 5, requires_grad=True), "silu", 0.0)],
    "channel_sum": [lambda: (_wants(3, 5),), lambda: (_wants(2, 3, 4, 5),)],
    "linear": [
        lambda: (_wants(2, 3, 4), _wants(5, 4), _wants(5), None, "relu"),
        lambda: (_wants(3, 4), _wants(4, 5).t(), None, _wants(3, 5), "silu"),
    ],
    "bmm": [lambda: (_wants(2, 3, 4), _wants(2, 5, 4).mT, _wants(5), _wants(2, 3, 5), 0.5, 2.0, "none")],
    "conv2d": [
        lambda: (_wants(2, 4, 5, 6), _wants(6, 2, 3, 3), _wants(6), None, [1, 2], [1, 0], [1, 1], 2, "none"),
        lambda: (_last(2, 4, 5, 6), _last(6, 4, 3, 3), None, _last(2, 6, 3, 4), [1, 1], [0, 0], [1, 1], 1, "relu"),
    ],
    "conv2d_bwd_input": [
        lambda: (_wants(2, 6, 3, 4), _wants(6, 4, 3, 3), [2, 4, 5, 6], [1, 1], [0, 0], [1, 1], 1, False),
        lambda: (_wants(2, 6, 3, 3), _last(6, 4, 3, 3), [2, 4, 6, 5], [2, 2], [1, 1], [1, 1], 1, True),
    ],
    "conv2d_bwd_weight": [
        lambda: (_wants(2, 6, 3, 4), _wants(2, 4, 5, 6), [6, 4, 3, 3], [1, 1], [0, 0], [1, 1], 1, False),
        lambda: (_last(2, 6, 3, 4), _last(2, 4, 5, 6), [6, 4, 3, 3], [1, 1], [0, 0], [1, 1], 1, True),
    ],
    "conv_transpose2d": [
        lambda: (_wants(2, 4, 3, 3), _wants(4, 3, 3, 3), _wants(6), [2, 2], [1, 1], [1, 0], [1, 1], 2, "relu")
    ],
    "attention": [
        lambda: (*(_wants(2, 2, 5, 4) for _ in range(3)), None, None, True, 0.5, 0.0),
        lambda: (
            *(_wants(2, 4, 5, 4), _wants(2, 7, 2, 4).transpose(1, 2), _wants(2, 2, 7, 3)),
            *(_wants(1, 4, 1, 7), torch.tensor([1, 2]), False, 0.5, 0.25),
        ),
        lambda: (*(_wants(2, 2, 5, 4) for _ in range(3)), torch.ones(2, 1, 5, 5).bool(), None, False, 0.5, 0.0),
    ],
    "attention_bwd": [
        lambda: (
            *(_wants(2, 2, 5, 4) for _ in range(4)),
            *(_wants(1, 2, 5, 5), None, torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 2), False, 0.5, 0.0, True),
        )
    ],
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
    "diffusion_step": [
        lambda: (
            _wants(2, 3, 4),
            _wants(2, 3, 4),
            None,
            None,
            None,
            torch.tensor([1, 2]),
            [1.0, -0.5, 2.0, 0.5, 0.4, 0.1, 0.0, 0.3, 1.0],
            0,
            3,
            True,
        )
    ],
    "add_noise": [
        lambda: (_wants(2, 3), _wants(2, 3), torch.rand(5, dtype=torch.float64), torch.tensor([1, 4]), False)
    ],
    "glu": [lambda: (_wants(2, 6, 3), 1, "silu")],
    "glu_bwd": [lambda: (_wants(2, 3, 3), _wants(2, 6, 3), 1, "gelu")],
    "pair_loss": [
        *(lambda kind=kind: (_wants(3, 4), _wants(3, 4), kind, 0.5, 1) for kind in ("mse", "huber", "bce_logits")),
        lambda: (_wants(3, 4), _wants(3, 4), "l1", 0.0, 0),
    ],
    "pair_loss_bwd": [
        lambda: (_wants(3, 4), _wants(3, 4), _wants(3, 4), "smooth_l1", 0.5, 0, [True, True]),
        lambda: (_wants(), _wants(3, 4), torch.rand(3, 4), "mse", 0.0, 2, [True, False]),
    ],
    "nll_loss": [
        lambda: (_wants(4, 3), torch.tensor([0, 2, 1, -100]), torch.rand(3), -100, 1),
        lambda: (_wants(2, 3, 2), torch.tensor([[0, 2], [1, 1]]), None, -100, 0),
    ],
    "nll_loss_bwd": [
        lambda: (_wants(), torch.tensor([0, 2]), torch.rand(3), torch.ones((), dtype=torch.float64), [2, 3], -100, 1)
    ],
    "recurrent": [
        *(lambda cell=cell: (*_recurrent_arguments(cell), cell, False, True) for cell in ("lstm", "gru", "rnn_tanh")),
        lambda: (*_recurrent_arguments("lstm", (2, 2, 1)), "lstm", True, True),
    ],
    "recurrent_bwd": [lambda cell=cell: _recurrent_backward_arguments(cell) for cell in ("lstm", "gru", "rnn_relu")],
    "upsample": [
        lambda: (_wants(1, 2, 3, 4), [5, 6], "bilinear", False, 0.0, 0.0),
        lambda: (_wants(1, 2, 3, 4), [6, 8], "nearest", False, 2.0, 2.0),
    ],
    "upsample_bwd": [lambda: (_wants(1, 2, 5, 6), [3, 4], "bilinear", False, 0.0, 0.0)],
    "pixel_shuffle": [lambda: (_wants(1, 8, 2, 3), 2)],
    "pixel_unshuffle": [lambda: (_wants(1, 2, 4, 6), 2)],
    "embedding": [lambda: (torch.tensor([1, 0, 1]), _wants(3, 4), -1, False)],
    "embedding_bwd": [lambda: (_wants(3, 4), torch.tensor([1, 0, 1]), 3, 1, False)],
}


def test_every_operator_has_a_sample():
    assert set(_frame.OPERATORS) == set(OPCHECK)


@pytest.mark.parametrize("name, sample", [(n, i) for n, samples in OPCHECK.items() for i in range(len(samples))])
def test_opcheck(name, sample):
    torch.use_deterministic_algorithms(False)
    args = OPCHECK[name][sample]()
    result = torch.library.opcheck(_frame.OPERATORS[name].op, args)
    assert set(result.values()) == {"SUCCESS"}, result
