"""torch.compile(model, backend="dlperf").

Dynamo's graph is rewritten (torch's functions become dlperf's, residual adds and activations go into the kernels before
them) and then runs as it is: dlperf's functions carry their own gradients, so training needs no second tracing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from . import passes

__all__ = ["compile_graph", "register"]


def compile_graph(graph_module: torch.fx.GraphModule, example_inputs: list, **options) -> Callable:
    """The backend: a Dynamo graph in, a callable out.

    Raises:
        TypeError: options, of which there are none.
    """
    if options:
        raise TypeError(f"torch.compile(backend='dlperf') takes no options, got {', '.join(map(repr, options))}")
    passes.run(graph_module.graph, passes.COMPILE)
    graph_module.recompile()
    return graph_module.forward


def register() -> None:
    """Makes the name "dlperf" known to torch.compile, also where the package's entry points are not installed."""
    from torch._dynamo.backends import registry

    if "dlperf" not in registry._COMPILER_FNS:
        registry.register_backend(compiler_fn=compile_graph, name="dlperf")
