"""What a namespace's layers fuse: arguments beyond torch's, to which a model gives a join or an activation."""

import inspect

import torch


def takes(layer_class: type, *names: str) -> bool:
    """Whether the layer's forward has these arguments."""
    return set(names) <= inspect.signature(layer_class.forward).parameters.keys()


def fuses_epilogue(norm_class: type) -> bool:
    """Whether this batch norm takes the activation and the residual that follow it as arguments."""
    return takes(norm_class, "activation", "residual")


def adder(nn):
    """The namespace's sum of two tensors, whose gradient for a broadcast operand is its own too; else torch's."""
    return getattr(nn.functional, "add", torch.add)


def unbinder(nn):
    """The namespace's split of a tensor into its slices, whose gradients are not stacked anew; else torch's."""
    return getattr(nn.functional, "unbind", torch.unbind)
