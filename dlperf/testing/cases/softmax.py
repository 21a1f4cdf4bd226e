from __future__ import annotations

from ._case import Case


def _case(function: str, shape: tuple[int, ...], dim: int, scale: float = 3.0) -> Case:
    return Case(
        function,
        f"{'x'.join(map(str, shape)) or 'scalar'}-dim{dim}",
        lambda make: ((make(*shape, scale=scale), dim), {}),
        reduction=shape[dim] if shape else 1,
    )


CASES = [
    *(_case("softmax", (3, n), -1) for n in (1, 7, 8, 9, 15, 16, 17, 33, 197, 1000)),
    *(_case("log_softmax", (3, n), -1) for n in (1, 9, 17, 1000)),
    *(_case(f, (2, 5, n), 1) for f in ("softmax", "log_softmax") for n in (1, 15, 16, 17)),
    _case("softmax", (4, 3, 5, 6), 0),
    _case("log_softmax", (4, 3, 5, 6), 2, scale=50.0),
    _case("softmax", (), -1),
    _case("softmax", (0, 4), 1),
]
