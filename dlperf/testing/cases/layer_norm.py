from __future__ import annotations

import torch

from ._case import Case

# Around one vector (8, 16 lanes), four of them, and the span that is summed in float32.
COLS = (7, 8, 9, 15, 16, 17, 63, 64, 65, 768, 1000, 4095, 4096, 4097)


def _affine(make, *shape: int, dtype=None):
    return make.positive(*shape, grad=True, dtype=dtype), make(*shape, scale=0.5, dtype=dtype)


def _layer(id: str, shape: tuple[int, ...], dims: int = 1, shift: float = 0.0, **given) -> Case:
    def arguments(make):
        x = make(*shape, scale=2, shift=shift)
        weight, bias = _affine(make, *shape[len(shape) - dims :], dtype=given.get("affine_dtype"))
        return (x, shape[len(shape) - dims :], weight, bias), {}

    cols = torch.Size(shape[len(shape) - dims :]).numel()
    rows = torch.Size(shape).numel() // cols if cols else 0
    kwargs = {"dtypes": (torch.bfloat16, torch.float16)} if "affine_dtype" in given else {}
    return Case("layer_norm", id, arguments, reduction=cols, grad_reduction=max(rows, cols), **kwargs)


def _rms(id: str, shape: tuple[int, ...], dims: int = 1, affine: bool = True, eps: float | None = None) -> Case:
    def arguments(make):
        x = make(*shape, scale=2)
        size = shape[len(shape) - dims :]
        return (x, size, make.positive(*size, grad=True) if affine else None, eps), {}

    cols = torch.Size(shape[len(shape) - dims :]).numel()
    rows = torch.Size(shape).numel() // cols if cols else 0
    return Case("rms_norm", id, arguments, reduction=cols, grad_reduction=max(rows, cols))


def _strided(make):
    weight, bias = _affine(make, 12)
    return (make(4, 12, 5).transpose(1, 2), (12,), weight, bias), {}


CASES = [
    *(_layer(f"cols{n}", (3, n)) for n in COLS),
    # Its gradient is zero: no scale to hold an error against.
    Case("layer_norm", "cols1", lambda make: ((make(3, 1), (1,), make(1), make(1)), {}), gradients=False),
    _layer("vit", (2, 197, 192)),
    _layer("many-rows", (700, 40)),
    _layer("two-dims", (4, 3, 5, 7), dims=2),
    _layer("all-dims", (6, 11), dims=2),
    _layer("far-from-zero", (5, 300), shift=100.0),
    _layer("no-rows", (0, 16)),
    _layer("float32-affine", (9, 50), affine_dtype=torch.float32),
    Case("layer_norm", "no-affine", lambda make: ((make(5, 33), (33,)), {}), reduction=33),
    Case("layer_norm", "no-bias", lambda make: ((make(5, 33), (33,), make(33)), {}), reduction=33),
    Case("layer_norm", "only-bias", lambda make: ((make(5, 33), (33,), None, make(33)), {}), reduction=33),
    Case("layer_norm", "frozen-input", lambda make: ((make(5, 33, grad=False), (33,), make(33), make(33)), {}), 33),
    Case("layer_norm", "strided", _strided, reduction=20),
    *(_rms(f"cols{n}", (3, n)) for n in (1, 15, 16, 17, 65, 768, 4097)),
    _rms("two-dims", (4, 3, 5, 7), dims=2),
    _rms("no-affine", (5, 33), affine=False),
    _rms("eps", (5, 33), eps=0.5),
    _rms("no-rows", (0, 16)),
]
