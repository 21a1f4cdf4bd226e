from __future__ import annotations

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.matmul import rows_of
from ...ops.recurrent import GATES, check_batch_sizes

_sigmoid_bwd, _tanh_bwd = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward


def _steps(x, h0, batch_sizes, reverse) -> list[tuple[int, int]]:
    """(first row, rows) of each step in the order of computation."""
    n = h0.shape[0]
    sizes = [n] * x.shape[0] if batch_sizes is None else check_batch_sizes(batch_sizes, x.shape[0], n)
    steps = list(zip(accumulate(sizes, initial=0), sizes, strict=False))
    return steps[::-1] if reverse else steps


def _cell(cell, g, z, h, c):
    """The state after a step, the gates, their sums, and what else backward needs. torch's own steps, in x's dtype."""
    if cell == "lstm":
        sums = (g + z).chunk(4, 1)
        i, f, new, o = torch.sigmoid(sums[0]), torch.sigmoid(sums[1]), torch.tanh(sums[2]), torch.sigmoid(sums[3])
        after = f * c + i * new
        return o * torch.tanh(after), after, (i, f, new, o), sums, (c, h)
    if cell == "gru":
        (gr, gu, gn), (zr, zu, zn) = g.chunk(3, 1), z.chunk(3, 1)
        reset_sum, update_sum = gr + zr, gu + zu
        r, u = torch.sigmoid(reset_sum), torch.sigmoid(update_sum)
        new_sum = gn + r * zn
        new = torch.tanh(new_sum)
        return new + u * (h - new), c, (r, u, new), (reset_sum, update_sum, new_sum), (zn, h)
    total = g + z
    return torch.tanh(total) if cell == "rnn_tanh" else torch.relu(total), c, (), (), (h,)


def _walk(x, h0, c0, w_ih, w_hh, b_ih, b_hh, batch_sizes, cell, reverse):
    """The last h and c, and ``(first row, rows, h, gates, their sums, kept)`` of each step."""
    gates = F.linear(rows_of(x), w_ih, b_ih)
    h, c, walked = h0, c0, []
    for first, rows in _steps(x, h0, batch_sizes, reverse):
        z = F.linear(h[:rows], w_hh, b_hh)
        before = None if c is None else c[:rows]
        out, after, activated, sums, kept = _cell(cell, gates[first : first + rows], z, h[:rows], before)
        h = torch.cat((out, h[rows:]))
        c = None if c is None else torch.cat((after, c[rows:]))
        walked.append((first, rows, out, activated, sums, kept))
    return h, c, walked


def _in_order(parts: list[Tensor], against: bool) -> Tensor:
    """Rows of the steps in time's order, from steps that run with it or against it."""
    return torch.cat(parts[::-1] if against else parts)


def recurrent(x, h0, c0, w_ih, w_hh, b_ih, b_hh, batch_sizes, cell, reverse, save):
    h, c, walked = _walk(x, h0, c0, w_ih, w_hh, b_ih, b_hh, batch_sizes, cell, reverse)
    y = _in_order([step[2] for step in walked], reverse).reshape(*x.shape[:-1], h0.shape[1])
    nothing = x.new_empty(0)
    gates = kept = nothing
    if save:
        kept = _in_order([torch.cat(step[5], 1) for step in walked], reverse)
        if GATES[cell] > 1:
            part = 3 if x.dtype.itemsize >= 4 else 4
            gates = _in_order([torch.cat(step[part], 1) for step in walked], reverse)
    return y, h.clone(), nothing if c is None else c.clone(), gates, kept


def _step_bwd(cell, up, down, y, activated, kept):
    """Gradients of W_ih x + b_ih and of W_hh h + b_hh, of c before, and of h before where it goes past W_hh."""
    if cell == "lstm":
        i, f, new, o = activated
        t = torch.tanh(f * kept[0] + i * new)
        down = down + _tanh_bwd(up * o, t)
        d = (
            _sigmoid_bwd(down * new, i),
            _sigmoid_bwd(down * kept[0], f),
            _tanh_bwd(down * i, new),
            _sigmoid_bwd(up * t, o),
        )
        d = torch.cat(d, 1)
        return d, d, down * f, None
    if cell == "gru":
        (r, u, new), (inner, h) = activated, kept
        d_new = _tanh_bwd(up * (1 - u), new)
        d_r, d_u = _sigmoid_bwd(d_new * inner, r), _sigmoid_bwd(up * (h - new), u)
        return torch.cat((d_r, d_u, d_new), 1), torch.cat((d_r, d_u, d_new * r), 1), None, up * u
    d = _tanh_bwd(up, y) if cell == "rnn_tanh" else torch.where(y <= 0, torch.zeros_like(up), up)
    return d, d, None, None


def recurrent_bwd(gy, gh, gc, x, h0, c0, w_ih, w_hh, b_ih, b_hh, batch_sizes, y, gates, kept, cell, reverse, wanted):
    # From the inputs, not from what forward kept: differentiable again.
    _, _, walked = _walk(x, h0, c0, w_ih, w_hh, b_ih, b_hh, batch_sizes, cell, reverse)
    gy = None if gy is None else rows_of(gy)
    gh = torch.zeros_like(h0) if gh is None else gh
    gc = torch.zeros_like(h0) if gc is None else gc
    ds, dzs = [], []
    for first, rows, out, activated, _, before in reversed(walked):
        up = gh[:rows] if gy is None else gh[:rows] + gy[first : first + rows]
        d, dz, down, past = _step_bwd(cell, up, gc[:rows], out, activated, before)
        ds.append(d)
        dzs.append(dz)
        through = F.linear(dz, w_hh.t())
        gh = torch.cat((through if past is None else through + past, gh[rows:]))
        gc = gc if down is None else torch.cat((down, gc[rows:]))
    d, dz = _in_order(ds, not reverse), _in_order(dzs, not reverse)
    h_before = _in_order([step[5][-1] for step in walked], reverse)
    found = (
        lambda: F.linear(d, w_ih.t()).reshape(x.shape),
        lambda: gh.clone(),
        lambda: gc.clone(),
        lambda: F.linear(d.t(), rows_of(x).t()),
        lambda: F.linear(dz.t(), h_before.t()),
        lambda: d.sum(0),
        lambda: dz.sum(0),
    )
    return tuple(make() if w else x.new_empty(0) for make, w in zip(found, wanted, strict=True))
