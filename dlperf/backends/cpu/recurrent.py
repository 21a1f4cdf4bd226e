from __future__ import annotations

import torch
from torch import Tensor

from ...memory import empty_like, new_empty
from ...ops.recurrent import CELLS, GATES, check_batch_sizes, operand_gradients, recurrent_empty
from ._library import FLOATS, C
from .channel_sum import channel_sum
from .matmul import linear

_DENSE = torch.contiguous_format


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _shape(x: Tensor, h0: Tensor, batch_sizes: Tensor | None, cell: str, reverse: bool):
    """The kernels' shape and the tensor that it points to."""
    n, hidden = h0.shape
    steps = x.shape[0]
    if batch_sizes is not None:
        batch_sizes = batch_sizes.contiguous()
        steps = len(check_batch_sizes(batch_sizes, x.shape[0], n))
    threads = torch.get_num_threads()
    numbers = (CELLS.index(cell), FLOATS[x.dtype], steps, n, hidden, _address(batch_sizes), reverse, threads)
    return C.RecurrentShape(*numbers), batch_sizes


def _float_state(c: Tensor) -> Tensor:
    """A float32 copy, dense."""
    return c.to(torch.float32, memory_format=_DENSE, copy=True)


def recurrent(x, h0, c0, w_ih, w_hh, b_ih, b_hh, batch_sizes, cell, reverse, save):
    y, h, c, _, kept = recurrent_empty(x, h0, c0, w_ih, w_hh, b_ih, b_hh, batch_sizes, cell, reverse, save)
    h.copy_(h0)
    lstm = cell == "lstm"
    shape, batch_sizes = _shape(x, h0, batch_sizes, cell, reverse)
    gates = linear(x, w_ih, b_ih, None, "none").view(y.shape[:-1].numel(), w_ih.shape[0])
    carried = _float_state(c0) if lstm else _float_state(h0) if cell == "gru" else None
    if y.numel():
        w_hh, b_hh = w_hh.contiguous(), None if b_hh is None else b_hh.contiguous()
        C.recurrent_forward(
            shape,
            gates.data_ptr(),
            w_hh.data_ptr(),
            _address(b_hh),
            h.data_ptr(),
            _address(carried),
            y.data_ptr(),
            kept.data_ptr(),
            C.scratch(C.recurrent_workspace(shape, False)),
        )
    if lstm:
        c = carried.to(x.dtype)
    return y, h, c, gates if save and GATES[cell] > 1 else x.new_empty(0), kept


def recurrent_bwd(gy, gh, gc, x, h0, c0, w_ih, w_hh, b_ih, b_hh, batch_sizes, y, gates, kept, cell, reverse, wanted):
    lstm, gru = cell == "lstm", cell == "gru"
    shape, batch_sizes = _shape(x, h0, batch_sizes, cell, reverse)
    rows = y.shape[:-1].numel()
    d = new_empty(x, (rows, w_ih.shape[0]))
    d_hidden = empty_like(d) if gru else d
    # What the kernels call carried: lstm's gradient of c, gru's of h past W_hh.
    last_carried, last_product = (gh, None) if gru else (gc, gh)
    product = x.new_zeros(h0.shape) if last_product is None else last_product.clone(memory_format=_DENSE)
    carried = None
    if lstm or gru:
        carried = torch.zeros(h0.shape, dtype=torch.float32) if last_carried is None else _float_state(last_carried)
    if y.numel():
        gy, w_hh = None if gy is None else gy.contiguous(), w_hh.contiguous()
        C.recurrent_backward(
            shape,
            _address(gy),
            w_hh.data_ptr(),
            gates.data_ptr(),
            y.data_ptr(),
            kept.data_ptr(),
            product.data_ptr(),
            _address(carried),
            d.data_ptr(),
            d_hidden.data_ptr(),
            C.scratch(C.recurrent_workspace(shape, True)),
        )
    gh0 = carried.add_(product) if gru else product
    return operand_gradients(linear, channel_sum, x, w_ih, kept, d, d_hidden, gh0, carried, wanted)


def _without(index: int):
    """The arguments that the common rule is about: all but batch_sizes."""
    return lambda args: (*args[:index], *args[index + 1 :])


RECURRENT_TENSORS = {"recurrent": _without(7), "recurrent_bwd": _without(10)}
