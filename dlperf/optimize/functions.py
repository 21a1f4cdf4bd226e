"""Exchanges the functions of torch that a model's own ``forward`` calls, beside its layers (mode="train")."""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable

import torch
import torch.nn.functional as TF
from torch import nn as torch_nn

from ..nn import LAYERS
from ..nn import functional as F
from ..nn._exchange import Exchange, inside
from .passes.lower import FROM_TORCH, has

_saved_tensors_hooks = torch._C._autograd._top_saved_tensors_default_hooks

_ALSO = ("log_softmax", "elu", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "nll_loss", "kl_div")
# What modes see and graphs of Dynamo don't.
FROM_MODE = {
    torch.max_pool2d: "max_pool2d",
    TF.interpolate: "interpolate",
    torch.Tensor.matmul: "matmul",
    torch.Tensor.__matmul__: "matmul",
    torch.Tensor.bmm: "bmm",
    torch.Tensor.softmax: "softmax",
    torch.Tensor.sigmoid: "sigmoid",
    torch.Tensor.tanh: "tanh",
    torch.Tensor.relu: "relu",
    torch.Tensor.log_softmax: "log_softmax",
    torch.log_softmax: "log_softmax",
    torch.Tensor.unbind: "unbind",
    torch.unbind: "unbind",
    torch.Tensor.chunk: "chunk",
    torch.chunk: "chunk",
    **{getattr(TF, name): name for name in _ALSO},
}
_OWN = {function: getattr(F, name) for function, name in (FROM_TORCH | FROM_MODE).items() if has(name)}


class _ExchangeFunctions(Exchange):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        own, kwargs = _OWN.get(func), kwargs or {}
        if own is None or set(types) - {torch.Tensor} or not _may_stand_in(own, args, kwargs):
            return func(*args, **kwargs)
        return own(*args, **{name: value for name, value in kwargs.items() if name != "inplace"})


def saved_tensors_are_hooked() -> bool:
    return _saved_tensors_hooks(True) is not None


def _may_stand_in(own, args: tuple, kwargs: dict) -> bool:
    first = args[0] if args else next(iter(kwargs.values()), None)
    if type(first) is not torch.Tensor or not first.is_floating_point() or kwargs.get("inplace"):
        return False
    # Checkpointing runs a part of the model again in backward, perhaps outside of any forward, and wants to see the
    # same tensors saved and the same random numbers. It sets such hooks.
    if saved_tensors_are_hooked():
        return False
    if own is F.scaled_dot_product_attention:
        return (args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)) == 0.0
    # torch.softmax and nn.functional.softmax differ in the third argument.
    return len(args) < 3 or own not in (F.softmax, F.log_softmax)


_MODE = _ExchangeFunctions()
_CLASSES: weakref.WeakValueDictionary[type, type] = weakref.WeakValueDictionary()


def original_class(kind: type) -> type:
    """The class that the user wrote, of one that :func:`exchanging_class` gave."""
    return kind.__dict__.get("_dlperf_original", kind)


def exchanging_class(kind: type) -> type:
    """A subclass, of the same name, whose forward calls dlperf's functions where the class' own calls torch's.

    The class itself where there is nothing to exchange (layers and containers of torch.nn and dlperf.nn) and where it
    can't be subclassed by program.
    """
    kind = original_class(kind)
    library = kind in LAYERS.values() or kind.__module__.startswith("torch.nn.")
    if library or kind.forward is torch_nn.Module.forward:
        return kind
    if kind not in _CLASSES:
        made = subclass(kind, inside(kind.forward, _MODE), exchanging_class)
        if made is None:
            return kind
        _CLASSES[kind] = made
    return _CLASSES[kind]


def subclass(kind: type, forward: Callable, again: Callable[[type], type]) -> type | None:
    """A subclass of the same name with another forward, or None where it can't be subclassed by program.

    ``again``, a module's function, makes it anew of the user's class: pickles find that by its name.
    """

    def reduce(self, protocol):
        original = original_class(type(self))
        make, args, *rest = original.__reduce_ex__(self, protocol)
        if args and args[0] is type(self):
            make, args = _new, (again, original, *args[1:])
        return (make, args, *rest)

    body = {
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "__reduce_ex__": reduce,
        "_dlperf_original": original_class(kind),
        "forward": forward,
    }
    try:
        return types.new_class(kind.__name__, (kind,), exec_body=lambda namespace: namespace.update(body))
    except Exception:  # whatever the class' own __init_subclass__ or metaclass raises
        return None


def _new(again: Callable[[type], type], kind: type, *args):
    made = again(kind)
    return made.__new__(made, *args)
