"""Recurrent layers and cells, as torch.nn's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from . import functional as F


def _zeros(layer, input: Tensor, batch: int):
    directions = 2 if layer.bidirectional else 1
    return input.new_zeros(layer.num_layers * directions, batch, layer.hidden_size)


def _check_rank_of_state(states: tuple[Tensor, ...], is_batched: bool) -> None:
    names = "hx and cx should also be" if len(states) == 2 else "hx should also be"
    rank, given = (3, "batched 3-D") if is_batched else (2, "unbatched 2-D")
    if any(state.dim() != rank for state in states):
        ranks = ", ".join(f"{state.dim()}-D" for state in states)
        raise RuntimeError(f"For {given} input, {names} {rank}-D but got {ranks} tensors")


def _run_stack(layer, input: Tensor, states: tuple[Tensor, ...], batch_sizes: Tensor | None):
    """Every layer in every direction, dropout between layers: the output, and the last states stacked as torch's."""
    directions = 2 if layer.bidirectional else 1
    last: list[tuple[Tensor, ...]] = []
    for index in range(layer.num_layers):
        outputs = []
        for direction in range(directions):
            at = index * directions + direction
            weights = layer.all_weights[at]
            start = tuple(state[at] for state in states)
            output, *ends = layer._run_direction(input, start, weights, batch_sizes, direction == 1)
            outputs.append(output)
            last.append(tuple(ends))
        input = outputs[0] if directions == 1 else torch.cat(outputs, -1)
        if layer.dropout > 0 and layer.training and index + 1 < layer.num_layers:
            input = F.dropout(input, layer.dropout, True)
    return input, tuple(torch.stack(ends) for ends in zip(*last, strict=True))


def _forward(layer, input: Tensor | PackedSequence, states: tuple[Tensor, ...] | None, count: int):
    """torch's handling of packed, unbatched and batch-first input around the stack; ``count`` states: h, or h and c."""
    packed = isinstance(input, PackedSequence)
    batch_sizes = sorted_indices = unsorted_indices = None
    is_batched, batch_dim = True, 0 if layer.batch_first and not packed else 1
    if packed:
        input, batch_sizes, sorted_indices, unsorted_indices = input
        batch = int(batch_sizes[0])
    else:
        if input.dim() not in (2, 3):
            raise ValueError(f"{type(layer).__name__}: Expected input to be 2D or 3D, got {input.dim()}D instead")
        is_batched = input.dim() == 3
        if states is not None:
            _check_rank_of_state(states, is_batched)
        if not is_batched:
            input = input.unsqueeze(batch_dim)
            states = None if states is None else tuple(state.unsqueeze(1) for state in states)
        batch = input.shape[batch_dim]
    if states is None:
        states = (_zeros(layer, input, batch),) * count
    elif sorted_indices is not None:
        states = tuple(state.index_select(1, sorted_indices) for state in states)
    layer.check_forward_args(input, states if count == 2 else states[0], batch_sizes)

    output, last = _run_stack(layer, input.transpose(0, 1) if batch_dim == 0 else input, states, batch_sizes)

    if batch_dim == 0:
        output = output.transpose(0, 1)
    if packed:
        output = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
        if unsorted_indices is not None:
            last = tuple(state.index_select(1, unsorted_indices) for state in last)
    elif not is_batched:
        output, last = output.squeeze(batch_dim), tuple(state.squeeze(1) for state in last)
    return output, last if count == 2 else last[0]


class LSTM(torch.nn.LSTM):
    def why_not(self) -> str | None:
        """Why torch serves this layer, or None."""
        return "an LSTM with proj_size is torch's own" if self.proj_size > 0 else None

    def forward(self, input: Tensor | PackedSequence, hx: tuple[Tensor, Tensor] | None = None):
        if self.why_not() is not None:
            return super().forward(input, hx)
        return _forward(self, input, hx, 2)

    def _run_direction(self, input, start, weights, batch_sizes, reverse):
        return F.lstm_layer(input, *start, *weights, batch_sizes=batch_sizes, reverse=reverse)


class GRU(torch.nn.GRU):
    def forward(self, input: Tensor | PackedSequence, hx: Tensor | None = None):
        return _forward(self, input, None if hx is None else (hx,), 1)

    def _run_direction(self, input, start, weights, batch_sizes, reverse):
        return F.gru_layer(input, *start, *weights, batch_sizes=batch_sizes, reverse=reverse)


class RNN(torch.nn.RNN):
    def forward(self, input: Tensor | PackedSequence, hx: Tensor | None = None):
        return _forward(self, input, None if hx is None else (hx,), 1)

    def _run_direction(self, input, start, weights, batch_sizes, reverse):
        kind = self.mode.removeprefix("RNN_").lower()
        return F.rnn_layer(input, *start, *weights, nonlinearity=kind, batch_sizes=batch_sizes, reverse=reverse)


def _cell(cell, layer, input: Tensor, states: tuple[Tensor, ...] | None, count: int, **options):
    """One step: a layer of one step, of one sequence where input is a vector."""
    name = type(cell).__name__
    if input.dim() not in (1, 2):
        raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
    for state in states or ():
        if state.dim() not in (1, 2):
            raise ValueError(f"{name}: Expected hidden to be 1D or 2D, got {state.dim()}D instead")
    is_batched = input.dim() == 2
    x = input if is_batched else input.unsqueeze(0)
    if states is None:
        states = (x.new_zeros(x.shape[0], cell.hidden_size),) * count
    elif not is_batched:
        states = tuple(state.unsqueeze(0) for state in states)
    biases = cell.bias_ih, cell.bias_hh
    _, *last = layer(x.unsqueeze(0), *states, cell.weight_ih, cell.weight_hh, *biases, **options)
    last = tuple(state if is_batched else state.squeeze(0) for state in last)
    # Under autocast torch's LSTMCell, unlike its LSTM, keeps the state's dtype.
    return tuple(state.to(states[0].dtype) for state in last) if count == 2 else last[0]


class LSTMCell(torch.nn.LSTMCell):
    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        return _cell(self, F.lstm_layer, input, hx, 2)


class GRUCell(torch.nn.GRUCell):
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return _cell(self, F.gru_layer, input, None if hx is None else (hx,), 1)


class RNNCell(torch.nn.RNNCell):
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return _cell(self, F.rnn_layer, input, None if hx is None else (hx,), 1, nonlinearity=self.nonlinearity)
