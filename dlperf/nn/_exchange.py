"""The mode under which an optimized model's own ``forward`` runs, and how layers step out of it.

A mode of torch's functions is asked about every attribute of a tensor too, a microsecond each. dlperf's layers call no
function that it would exchange, so they put it aside.
"""

from __future__ import annotations

from functools import wraps

import torch
from torch.overrides import TorchFunctionMode

_depth = torch._C._len_torch_function_stack
_at = torch._C._get_function_stack_at
_push = torch._C._push_on_torch_function_stack
_pop = torch._C._pop_torch_function_stack
_is_compiling = torch.compiler.is_compiling


class Exchange(TorchFunctionMode):
    """Base of the mode: there is one at most on top of the stack."""


def is_on() -> bool:
    depth = _depth()
    return depth > 0 and isinstance(_at(depth - 1), Exchange)


def inside(forward, mode: Exchange):
    """A forward that runs under the mode. Compiled code never sees it."""

    @wraps(forward)
    def exchanged(self, *args, **kwargs):
        if _is_compiling() or is_on():
            return forward(self, *args, **kwargs)
        _push(mode)
        try:
            return forward(self, *args, **kwargs)
        finally:
            _pop()

    return exchanged


def outside(forward):
    """A forward that runs as if there were no such mode."""

    @wraps(forward)
    def plain(self, *args, **kwargs):
        if _is_compiling() or not is_on():
            return forward(self, *args, **kwargs)
        mode = _pop()
        try:
            return forward(self, *args, **kwargs)
        finally:
            _push(mode)

    return plain
