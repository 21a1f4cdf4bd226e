from __future__ import annotations

import torch

from ._case import Case

GATES = {"lstm_layer": 4, "gru_layer": 3, "rnn_layer": 1}


def _layer(function: str, id: str, steps: int, n: int, size: int, hidden: int, packed=None, biased=True, **kwargs):
    def arguments(make):
        width, scale = GATES[function] * hidden, hidden**-0.5
        given = dict(kwargs)
        shape = (steps, n, size)
        if packed is not None:
            given["batch_sizes"] = torch.tensor(packed)
            shape = (sum(packed), size)
        states = [make(n, hidden) for _ in range(2 if function == "lstm_layer" else 1)]
        weights = [make(width, size, scale=size**-0.5), make(width, hidden, scale=scale)]
        if biased:
            weights += [make(width, scale=scale), make(width, scale=scale)]
        return (make(*shape), *states, *weights), given

    terms = steps * (size + hidden)
    return Case(function, id, arguments, reduction=terms, grad_reduction=terms * GATES[function] * max(n, 1))


LAYERS = tuple(GATES)

CASES = [
    # Hidden sizes around a vector and a piece of a row; batches around register tiles, and from few rows to many.
    *(_layer(f, f"hidden{h}", 4, 3, 5, h) for f in LAYERS for h in (1, 7, 8, 15, 16, 17, 65, 257)),
    *(_layer(f, f"batch{n}", 6, n, 12, 20) for f in LAYERS for n in (1, 2, 4, 6, 16, 17, 25, 41)),
    *(_layer(f, "reverse", 5, 2, 7, 9, reverse=True) for f in LAYERS),
    *(_layer(f, "no-bias", 3, 2, 7, 9, biased=False) for f in LAYERS),
    *(_layer(f, "one-step", 1, 4, 7, 9) for f in LAYERS),
    *(_layer(f, "two-steps", 2, 4, 7, 9) for f in LAYERS),
    *(_layer(f, "packed", 5, 4, 6, 10, packed=(4, 4, 2, 1, 1)) for f in LAYERS),
    *(_layer(f, "packed-reverse", 5, 4, 6, 10, packed=(4, 4, 2, 1, 1), reverse=True) for f in LAYERS),
    *(_layer(f, "empty-batch", 3, 0, 6, 10) for f in LAYERS),
    _layer("rnn_layer", "relu", 4, 3, 5, 18, nonlinearity="relu"),
    # A speech model's layer, shortened.
    _layer("lstm_layer", "speech", 20, 8, 80, 128),
    _layer("gru_layer", "speech", 20, 8, 80, 128),
]
