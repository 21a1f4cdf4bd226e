"""Checkpoints: one safetensors file whose header carries a JSON description, replaced in one step or not at all.

Nothing is unpickled. One file, because two can't be renamed together: there is no moment with the tensors of one step
and the description of another.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

FORMAT = "dlperf-diffusion-1"
_KEY = "dlperf"  # one entry: safetensors does not order several


class CheckpointError(ValueError):
    """A file that is no complete dlperf checkpoint; the message names it and says what is wrong."""


def save(path: str | Path, tensors: dict[str, Tensor], info: dict) -> None:
    """Writes a checkpoint: to a file beside it, flushed to the disk, then renamed over it.

    Whatever interrupts this (a signal, a kill, a full disk) leaves the file that was there before or the new one,
    whole. Raises OSError where the folder can't be written or the disk is full.
    """
    from safetensors.torch import save as serialise

    path = Path(path)
    payload = serialise({k: t.contiguous() for k, t in tensors.items()}, {_KEY: json.dumps(info | {"format": FORMAT})})
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself last, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_leftovers(path: str | Path) -> None:
    """Deletes the unfinished files that a killed process left beside the checkpoint."""
    path = Path(path)
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        with contextlib.suppress(OSError):
            left.unlink()


def load(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """A checkpoint's tensors, on the CPU, and its description. Raises CheckpointError."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        with safe_open(path, framework="pt") as file:
            stored = (file.metadata() or {}).get(_KEY)
            if stored is None:
                raise CheckpointError(f"{path}: a safetensors file, but not of dlperf train-ddpm")
            info = json.loads(stored)
            if not isinstance(info, dict) or info.get("format") != FORMAT:
                raise CheckpointError(f"{path}: expected the format {FORMAT}")
            return {name: file.get_tensor(name) for name in file.keys()}, info  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: truncated or no safetensors file ({error})") from None


def half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights stored in float16: what ships."""
    return {k: t.to(torch.float16) if t.is_floating_point() else t for k, t in tensors.items()}
