"""Triton kernels for NVIDIA GPUs: this release ships none yet, so every call is declined with the reason."""

from __future__ import annotations

REASON = "this release has no Triton kernels yet"


def why_not(op: str, *args) -> str | None:
    return REASON


def available() -> str | None:
    return REASON


def why_not_dtype(dtype) -> str | None:
    return REASON
