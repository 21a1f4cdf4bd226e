"""Rewrites of a captured graph, each a function ``graph -> how often it applied``."""

from __future__ import annotations

from .batch_norm import fold_batch_norm, fold_channel_scale
from .cleanup import remove_assertions, remove_identities, single_output_batch_norm
from .constants import fold_constants
from .conv_norm import gather_statistics
from .epilogue import fuse_activations, fuse_residuals
from .layout import channels_last, free_views
from .lower import lower_aten, lower_torch_functions, recognise_activations
from .projections import join_projections
from .recurrent import lower_recurrent
from .training import count_batches, fuse_batch_norm_relu, remove_copies

# In order. Weights are changed first, then operators exchanged, then what follows them fused in.
INFERENCE = (
    remove_assertions,
    remove_identities,
    single_output_batch_norm,
    fold_constants,
    fold_batch_norm,
    fold_channel_scale,
    join_projections,
    recognise_activations,
    free_views,
    lower_aten,
    lower_recurrent,
    fuse_residuals,
    fuse_activations,
    channels_last,
    fold_constants,
)

# For graphs of torch.compile: parameters are inputs there, and change from call to call.
COMPILE = (lower_torch_functions, gather_statistics, fuse_residuals, fuse_activations)

# For a training step, forward and backward in one graph; the second change roundings.
TRAINING = (remove_copies, count_batches)
TRAINING_FUSIONS = (fuse_batch_norm_relu,)


def run(graph, passes) -> dict[str, int]:
    """Applies the passes; what each did, by name, for the report."""
    counts: dict[str, int] = {}
    for rewrite in passes:
        counts[rewrite.__name__] = counts.get(rewrite.__name__, 0) + rewrite(graph)
    graph.lint()
    return counts
