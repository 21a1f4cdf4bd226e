"""Recurrent layers in one direction: LSTM, GRU and plain RNN. Formulas and sources: docs/math/recurrent.md."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..memory import new_empty
from ._checks import check_floating, describe
from ._epilogue import cast_for_autocast, check_operands
from ._frame import Operator, backward_through_reference, save_inputs
from .matmul import rows_of

# In the order of csrc/cpu/recurrent.h.
CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
KEPT = {"lstm": 2, "gru": 2, "rnn_tanh": 1, "rnn_relu": 1}


def recurrent_empty(x, h0, c0, w_ih, w_hh, b_ih, b_hh, batch_sizes, cell, reverse, save) -> tuple[Tensor, ...]:
    """y, the last h and c; and for backward the gates and the state before each step.

    Gates are kept after their activation or, in 16 bits, before it (docs/math/recurrent.md).
    What a cell has not, or backward will not ask for, has no elements.
    """
    rows, hidden = x.shape[:-1].numel(), h0.shape[-1]

    def empty(*size) -> Tensor:
        return new_empty(x, size)

    return (
        empty(*x.shape[:-1], hidden),
        empty(*h0.shape),
        empty(*(h0.shape if cell == "lstm" else (0,))),
        empty(*((rows, GATES[cell] * hidden) if save and GATES[cell] > 1 else (0,))),
        empty(*((rows, KEPT[cell] * hidden) if save else (0,))),
    )


def recurrent_bwd_empty(
    gy, gh, gc, x, h0, c0, w_ih, w_hh, b_ih, b_hh, batch_sizes, y, gates, kept, cell, reverse, wanted
) -> tuple[Tensor, ...]:
    """Gradients of x, h0, c0, w_ih, w_hh, b_ih, b_hh; the ones that are not wanted have no elements."""
    inputs = (x, h0, c0, w_ih, w_hh, b_ih, b_hh)
    return tuple(new_empty(x, t.shape if w else (0,)) for t, w in zip(inputs, wanted, strict=True))


def operand_gradients(linear, channel_sum, x, w_ih, kept, d, d_hidden, gh0, gc0, wanted) -> tuple[Tensor, ...]:
    """recurrent_bwd's results of a backend's product and channel sum, from what its steps left.

    d, d_hidden: the gradients of W_ih x and W_hh h, [rows, gates * hidden]. kept ends in the state before each step.
    """
    hidden = gh0.shape[1]
    makers = (
        lambda: linear(d, w_ih.t(), None, None, "none").view(x.shape),
        lambda: gh0.to(x.dtype),
        lambda: gc0.to(x.dtype),
        lambda: linear(d.t(), rows_of(x).t(), None, None, "none"),
        lambda: linear(d_hidden.t(), kept[:, -hidden:].t(), None, None, "none"),
        lambda: channel_sum(d),
        lambda: channel_sum(d_hidden),
    )
    return tuple(make() if want else x.new_empty(0) for make, want in zip(makers, wanted, strict=True))


def _setup(ctx, args, output):
    *tensors, ctx.cell, ctx.reverse, ctx.save = args
    y, _, cn, gates, kept = output
    ctx.save_for_backward(*tensors, y, gates, kept)
    ctx.mark_non_differentiable(gates, kept, *([] if ctx.cell == "lstm" else [cn]))


def _backward(ctx, gy, gh, gc, *_):
    if not ctx.save:
        raise RuntimeError("recurrent(): the operator was called with save=False and has no gradient")
    wanted = list(ctx.needs_input_grad[:7])
    gc = gc if ctx.cell == "lstm" else None
    grads = recurrent_bwd(gy, gh, gc, *ctx.saved_tensors, ctx.cell, ctx.reverse, wanted)
    return (*(g if w else None for g, w in zip(grads, wanted, strict=True)), None)


# x is [T, N, input] or, with batch_sizes (int64, on the CPU), the rows of all steps one after another; h0 and c0 (lstm
# only) are [N, hidden]; weights and biases as torch's. `save` keeps what backward needs.
recurrent = Operator(
    "recurrent(Tensor x, Tensor h0, Tensor? c0, Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, "
    "Tensor? batch_sizes, str cell, bool reverse, bool save) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=recurrent_empty,
    setup=_setup,
    backward=_backward,
)

recurrent_bwd = Operator(
    "recurrent_bwd(Tensor? gy, Tensor? gh, Tensor? gc, Tensor x, Tensor h0, Tensor? c0, Tensor w_ih, Tensor w_hh, "
    "Tensor? b_ih, Tensor? b_hh, Tensor? batch_sizes, Tensor y, Tensor gates, Tensor kept, str cell, bool reverse, "
    "bool[] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=recurrent_bwd_empty,
    setup=save_inputs,
    backward=backward_through_reference("recurrent_bwd"),
)


def check_batch_sizes(batch_sizes: Tensor, rows: int, n: int) -> list[int]:
    """The rows of each step. RuntimeError where they don't fit the data or the state."""
    sizes = batch_sizes.tolist()
    falling = all(a >= b for a, b in pairwise(sizes))
    if not sizes or sizes[0] != n or sizes[-1] <= 0 or not falling or sum(sizes) != rows:
        raise RuntimeError(
            f"recurrent: expected 'batch_sizes' to start at the batch of the state ({n}), never to rise, and to sum to "
            f"the rows of 'input' ({rows}), got {sizes if len(sizes) < 20 else describe(batch_sizes)}"
        )
    return sizes


def _check_state(op: str, name: str, state: Tensor, expected: tuple) -> None:
    if tuple(state.shape) != expected:
        raise RuntimeError(f"{op}(): expected '{name}' to have the shape {expected}, got {describe(state)}")


def _layer(op: str, cell: str, input, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, batch_sizes, reverse):
    check_floating(op, input=input, h0=h0, c0=c0, weight_ih=weight_ih, weight_hh=weight_hh)
    check_floating(op, bias_ih=bias_ih, bias_hh=bias_hh)
    rank = 3 if batch_sizes is None else 2
    if input.dim() != rank:
        raise RuntimeError(f"{op}(): expected 'input' to have {rank} dimensions, got {describe(input)}")
    hidden, width = weight_hh.shape[-1], GATES[cell] * weight_hh.shape[-1]
    if batch_sizes is not None and (batch_sizes.dtype is not torch.int64 or not batch_sizes.is_cpu):
        raise RuntimeError(f"{op}(): expected 'batch_sizes' to be int64 on the CPU, got {describe(batch_sizes)}")
    if input.shape[0] == 0:
        raise RuntimeError(f"{op}(): expected 'input' of at least one step, got {describe(input)}")
    n = input.shape[1] if batch_sizes is None else h0.shape[0]
    _check_state(op, "h0", h0, (n, hidden))
    if c0 is not None:
        _check_state(op, "c0", c0, (n, hidden))
    _check_state(op, "weight_ih", weight_ih, (width, input.shape[-1]))
    _check_state(op, "weight_hh", weight_hh, (width, hidden))
    for name, bias in (("bias_ih", bias_ih), ("bias_hh", bias_hh)):
        if bias is not None:
            _check_state(op, name, bias, (width,))
    given = cast_for_autocast(input, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh)
    check_operands(op, ("input", "h0", "c0", "weight_ih", "weight_hh", "bias_ih", "bias_hh"), *given)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in given)
    found = recurrent(*given, batch_sizes, cell, reverse, save)[:3]
    # Under autocast torch's GRU, and no other layer, keeps the state's dtype.
    return found if cell != "gru" or found[0].dtype is h0.dtype else tuple(t.to(h0.dtype) for t in found)


def lstm_layer(
    input: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer of an LSTM in one direction (Hochreiter & Schmidhuber 1997, with forget gates of Gers et al. 2000).

    Args:
        input: [T, N, input_size], or with batch_sizes a packed sequence's data [rows, input_size].
        h0: [N, hidden_size], and c0 alike.
        weight_ih: [4 hidden_size, input_size], gates in torch's order: input, forget, cell, output.
        weight_hh: [4 hidden_size, hidden_size].
        bias_ih: [4 hidden_size] or None, and bias_hh alike.
        batch_sizes: a packed sequence's: int64, on the CPU.
        reverse: from the last step to the first.

    Returns:
        Every step's h as input has its steps, the last h and the last c, [N, hidden_size].

    Raises:
        RuntimeError: shapes, dtypes or devices that don't fit; no steps.
    """
    given = (input, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, batch_sizes, reverse)
    return _layer("lstm_layer", "lstm", *given)


def gru_layer(
    input: Tensor,
    h0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """One layer of a GRU in one direction (Cho et al. 2014), the reset gate after the product as torch has it.

    Gates lie in torch's order: reset, update, new. Arguments and errors otherwise as :func:`lstm_layer`'s; returns
    every step's h and the last.
    """
    given = (input, h0, None, weight_ih, weight_hh, bias_ih, bias_hh, batch_sizes, reverse)
    return _layer("gru_layer", "gru", *given)[:2]


def rnn_layer(
    input: Tensor,
    h0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """One layer of a plain RNN in one direction (Elman 1990): h = act(W_ih x + b_ih + W_hh h + b_hh).

    nonlinearity is "tanh" or "relu", else ValueError. Otherwise as :func:`gru_layer`.
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"rnn_layer(): expected 'nonlinearity' to be 'tanh' or 'relu', got {nonlinearity!r}")
    given = (input, h0, None, weight_ih, weight_hh, bias_ih, bias_hh, batch_sizes, reverse)
    return _layer("rnn_layer", f"rnn_{nonlinearity}", *given)[:2]
