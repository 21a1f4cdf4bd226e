from __future__ import annotations

import torch

from ._case import Case

# Around the register tiles of the instruction sets (6 x 64, 6 x 16 and 4 x 4) and a block of the reduction.
TILES = (
    (1, 1, 1),
    (5, 63, 127),
    (6, 64, 128),
    (7, 65, 129),
    (12, 15, 255),
    (13, 16, 256),
    (11, 17, 257),
    (24, 33, 31),
    (25, 31, 3),
    (47, 130, 2),
    (241, 8, 65),
    (2, 257, 16),
)


def linear_case(m: int, n: int, k: int, **epilogue) -> Case:
    def make(maker):
        kwargs = dict(epilogue)
        args = [maker(m, k), maker(n, k, scale=max(k, 1) ** -0.5)]
        if kwargs.pop("bias", True):
            args.append(maker(n))
        if kwargs.pop("residual", False):
            kwargs["residual"] = maker(m, n)
        return tuple(args), kwargs

    name = "-".join([f"{m}x{n}x{k}", *(f"{key}" if value is True else str(value) for key, value in epilogue.items())])
    return Case("linear", name, make, reduction=k, grad_reduction=max(m, n))


def _case(function: str, name: str, make, reduction: int, grad_reduction: int) -> Case:
    return Case(function, name, make, reduction, grad_reduction)


def _view(make, *shape: int, of: tuple, index=None, permute=None, expand=None):
    """A view of a larger tensor: sliced, permuted, then expanded to `shape`."""
    x = make(*of, grad=False, scale=0.3)
    if index is not None:
        x = x[index]
    if permute is not None:
        x = x.permute(permute)
    if expand is not None:
        x = x.expand(expand)
    assert x.shape == torch.Size(shape)
    return x.detach().requires_grad_()


CASES = [
    *(linear_case(*size) for size in TILES),
    linear_case(9, 70, 40, bias=False),
    linear_case(9, 70, 40, bias=False, residual=True),
    *(linear_case(7, 66, 33, residual=True, activation=kind) for kind in ("relu", "gelu")),
    *(linear_case(6, 20, 33, activation=kind) for kind in ("relu6", "gelu_tanh", "silu", "sigmoid", "tanh")),
    *(linear_case(6, 20, 33, activation=kind) for kind in ("hardsigmoid", "hardswish", "mish")),
    linear_case(0, 5, 4),
    linear_case(3, 5, 0),
    # A classifier head.
    linear_case(4, 1000, 96),
    _case("linear", "3d", lambda make: ((make(2, 9, 48), make(64, 48), make(64)), {}), 48, 64),
    _case("linear", "vector", lambda make: ((make(40), make(20, 40), make(20)), {}), 40, 20),
    _case(
        "linear",
        "sequence-first",
        lambda make: ((_view(make, 3, 5, 8, of=(5, 3, 8), permute=(1, 0, 2)), make(9, 8), make(9)), {}),
        *(8, 15),
    ),
    _case(
        "linear",
        "sliced",
        lambda make: (
            (
                _view(make, 7, 20, of=(9, 31), index=(slice(1, 8), slice(3, 23))),
                _view(make, 18, 20, of=(40, 21), index=(slice(1, 37, 2), slice(1, 21))),
                _view(make, 18, of=(36,), index=slice(0, 36, 2)),
            ),
            {"residual": _view(make, 7, 18, of=(7, 36), index=(slice(None), slice(0, 36, 2)))},
        ),
        *(20, 20),
    ),
    _case(
        "linear",
        "transposed-weight",
        lambda make: ((make(13, 37), _view(make, 35, 37, of=(37, 35), permute=(1, 0)), make(35)), {}),
        *(37, 37),
    ),
    _case(
        "linear",
        "transposed-input",
        lambda make: ((_view(make, 13, 37, of=(37, 13), permute=(1, 0)), make(35, 37), make(35)), {}),
        *(37, 37),
    ),
    _case(
        "linear", "expanded", lambda make: ((_view(make, 9, 33, of=(1, 33), expand=(9, 33)), make(17, 33)), {}), 33, 17
    ),
    _case("mm", "7x65x33", lambda make: ((make(7, 33), make(33, 65)), {}), 33, 65),
    _case(
        "mm",
        "both-transposed",
        lambda make: (
            (_view(make, 14, 33, of=(33, 14), permute=(1, 0)), _view(make, 33, 65, of=(65, 33), permute=(1, 0))),
            {},
        ),
        *(33, 65),
    ),
    _case("bmm", "batch", lambda make: ((make(3, 7, 33), make(3, 33, 17)), {}), 33, 17),
    _case("bmm", "batch-of-one", lambda make: ((make(1, 6, 16), make(1, 16, 64)), {}), 16, 64),
    _case("bmm", "empty-batch", lambda make: ((make(0, 6, 16), make(0, 16, 4)), {}), 16, 6),
    _case("bmm", "rows-of-one", lambda make: ((make(5, 1, 20), make(5, 20, 1)), {}), 20, 5),
    _case(
        "bmm",
        "epilogue",
        lambda make: (
            (make(3, 7, 33), make(3, 33, 17)),
            {"bias": make(17), "residual": make(3, 7, 17), "activation": "relu"},
        ),
        *(33, 21),
    ),
    _case(
        "bmm",
        "transposed-batches",
        lambda make: (
            (
                _view(make, 4, 9, 12, of=(9, 4, 12), permute=(1, 0, 2)),
                _view(make, 4, 12, 10, of=(10, 12, 4), permute=(2, 1, 0)),
            ),
            {},
        ),
        *(12, 10),
    ),
    _case("matmul", "vectors", lambda make: ((make(33), make(33)), {}), 33, 1),
    _case("matmul", "matrix-vector", lambda make: ((make(2, 5, 33), make(33)), {}), 33, 10),
    _case("matmul", "vector-batch", lambda make: ((make(33), make(2, 33, 9)), {}), 33, 9),
    _case("matmul", "matrix-batch", lambda make: ((make(6, 33), make(3, 33, 9)), {}), 33, 27),
    _case("matmul", "batch-matrix", lambda make: ((make(2, 3, 6, 33), make(33, 9)), {}), 33, 36),
    _case("matmul", "broadcast", lambda make: ((make(2, 1, 6, 33), make(3, 33, 9)), {}), 33, 27),
    _case(
        "matmul",
        "heads",
        lambda make: (
            (
                _view(make, 2, 3, 9, 8, of=(2, 9, 3, 8), permute=(0, 2, 1, 3)),
                _view(make, 2, 3, 8, 9, of=(2, 9, 3, 8), permute=(0, 2, 3, 1)),
            ),
            {},
        ),
        *(8, 9),
    ),
    _case(
        "matmul",
        "expanded-batch",
        lambda make: ((make(3, 6, 33), _view(make, 3, 33, 9, of=(1, 33, 9), expand=(3, 33, 9))), {}),
        *(33, 18),
    ),
    _case("addmm", "bias", lambda make: ((make(17), make(7, 33), make(33, 17)), {}), 33, 17),
    _case("addmm", "matrix", lambda make: ((make(7, 17), make(7, 33), make(33, 17)), {}), 33, 17),
    _case(
        "addmm",
        "column-scaled",
        lambda make: ((make(7, 1), make(7, 33), make(33, 17)), {"beta": 0.5, "alpha": -2.0, "activation": "relu"}),
        *(33, 17),
    ),
    _case("addmm", "beta-0", lambda make: ((make(17), make(7, 33), make(33, 17)), {"beta": 0}), 33, 17),
    _case(
        "baddbmm",
        "scaled",
        lambda make: ((make(3, 1, 17), make(3, 7, 33), make(3, 33, 17)), {"beta": 2, "alpha": 0.25}),
        *(33, 21),
    ),
]
