from __future__ import annotations

from ._case import Case


def _lookup(id: str, shape, rows: int, cols: int, **kwargs) -> Case:
    def arguments(make):
        return (make.integers(0, rows, *shape), make(rows, cols)), kwargs

    return Case("embedding", id, arguments, grad_reduction=16)


CASES = [
    *(_lookup(f"cols{n}", (3, 5), 7, n) for n in (1, 15, 16, 17, 64, 65)),
    _lookup("classes", (64,), 10, 128),
    _lookup("many", (40, 60), 300, 33),
    _lookup("padding", (4, 30), 9, 12, padding_idx=3),
    _lookup("negative-padding", (4, 30), 9, 12, padding_idx=-1),
    _lookup("by-frequency", (4, 30), 9, 12, scale_grad_by_freq=True),
    _lookup("no-indices", (0, 3), 5, 4),
    _lookup("scalar", (), 5, 4),
]
