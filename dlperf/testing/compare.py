"""The one tolerance rule.

A result passes where its error against the float64 truth, relative to the truth's largest magnitude, is at most

* twice the error that torch's own operator makes in the same dtype, or
* ``eps(dtype) + 4 * eps(float32) * sqrt(reduction)``: half an ulp of storage rounding on either side, and the
  expected growth of float32 accumulation over ``reduction`` terms,

whichever is larger; and where NaN and infinities stand exactly where the truth has them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Comparison:
    """error and bound are relative to the truth's largest finite magnitude; error is inf where NaN or inf disagree."""

    error: float
    bound: float

    @property
    def ok(self) -> bool:
        return self.error <= self.bound

    def __str__(self) -> str:
        return f"error {self.error:.3g}, bound {self.bound:.3g}"


def rounding_bound(dtype: torch.dtype, reduction: int = 1) -> float:
    """The part of the rule that needs no run of torch's operator."""
    accumulate = torch.finfo(torch.float64 if dtype is torch.float64 else torch.float32).eps
    return torch.finfo(dtype).eps + 4 * accumulate * math.sqrt(max(1, reduction))


def relative_error(actual: Tensor, truth: Tensor) -> float:
    """max |actual - truth| / max |truth| over finite entries; inf where the non-finite entries differ.

    An infinity in a float16 result counts as equal where the truth is past float16's range.
    """
    if actual.shape != truth.shape:
        return math.inf
    if truth.numel() == 0:
        return 0.0
    limit = torch.finfo(actual.dtype).max if actual.is_floating_point() else math.inf
    actual, truth = actual.detach().double(), truth.detach().double()
    overflow = truth.abs() > limit
    truth = torch.where(overflow, truth.sign() * math.inf, truth)
    finite = torch.isfinite(truth)
    same_nonfinite = (torch.isnan(actual) == torch.isnan(truth)) & ((actual == truth) | finite | torch.isnan(truth))
    if not bool(same_nonfinite.all()) or not bool(torch.isfinite(actual[finite]).all()):
        return math.inf
    if not bool(finite.any()):
        return 0.0
    scale = truth[finite].abs().max().item()
    difference = (actual[finite] - truth[finite]).abs().max().item()
    return difference / scale if scale > 0 else (0.0 if difference == 0 else math.inf)


def compare(actual: Tensor, truth: Tensor, *, baseline: Tensor | None = None, reduction: int = 1) -> Comparison:
    """Holds a result against the truth.

    Args:
        actual: the result, any floating dtype.
        truth: the same in float64, from inputs of the same values.
        baseline: torch's own result in actual's dtype; its doubled error is allowed.
        reduction: how many products or terms each element sums.
    """
    bound = rounding_bound(actual.dtype, reduction)
    if baseline is not None:
        own = relative_error(baseline, truth)
        if math.isfinite(own):
            bound = max(bound, 2 * own)
    return Comparison(relative_error(actual, truth), bound)


def assert_matches(
    actual: Tensor, truth: Tensor, *, baseline: Tensor | None = None, reduction: int = 1, what: str = ""
):
    """Raises AssertionError with both figures where the rule is broken."""
    result = compare(actual, truth, baseline=baseline, reduction=reduction)
    assert result.ok, f"{what or 'result'}: {result}"
