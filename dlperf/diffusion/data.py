"""Pictures to train on: scikit-learn's digits, a folder of images, or MNIST and CIFAR-10 in their original files."""

from __future__ import annotations

import gzip
import pickle
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR_ROW = 3 * 32 * 32


class DataError(ValueError):
    """Data that can't be read; the message names the file."""


@dataclass
class Pictures:
    """``images`` uint8 (N, C, H, W); ``labels`` int64 (N,) or None; ``skipped`` files with the reason for each."""

    name: str
    images: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    skipped: list[tuple[Path, str]] = field(default_factory=list)

    def batch(self, rows: Tensor) -> Tensor:
        """float32 in -1..1"""
        return self.images[rows].float() / 127.5 - 1


def read(source: str | Path, size: int | None = None, strict: bool = False) -> Pictures:
    """Reads "digits" or a folder.

    A folder with MNIST's idx files or CIFAR-10's batches (binary, or Python's) is read as such; any other as images,
    centre-cropped and scaled to ``size`` (default: 32), each subfolder a class. Images that can't be read are left out
    and listed, or refused with ``strict``. Raises DataError.
    """
    if str(source) == "digits":
        return _digits()
    folder = Path(source)
    if not folder.is_dir():
        raise DataError(f"{folder}: expected 'digits' or a folder")
    for reader in (_mnist, _cifar10):
        found = reader(folder)
        if found is not None:
            return found
    return _images(folder, size or 32, strict)


def _digits() -> Pictures:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy((digits.images * (255 / 16)).round().astype(np.uint8)).unsqueeze(1)
    return Pictures("digits", images, torch.from_numpy(digits.target).long(), tuple("0123456789"))


# --- MNIST: http://yann.lecun.com/exdb/mnist ----------------------------------------------------------


def read_idx(path: str | Path) -> np.ndarray:
    """An idx file of bytes, gzipped or not: magic 0x08 and the number of dimensions, big-endian sizes, the data."""
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: {error}") from None
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DataError(f"{path}: no idx file of bytes")
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise DataError(f"{path}: truncated in its header")
    sizes = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != int(np.prod(sizes, dtype=np.int64)):
        raise DataError(f"{path}: expected {sizes} bytes of data, got {len(content) - start}: truncated?")
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def _idx_path(folder: Path, what: str, dimensions: int) -> Path | None:
    for dash in ("-", "."):
        for ending in ("", ".gz"):
            path = folder / f"train-{what}{dash}idx{dimensions}-ubyte{ending}"
            if path.is_file():
                return path
    return None


def _mnist(folder: Path) -> Pictures | None:
    images, labels = _idx_path(folder, "images", 3), _idx_path(folder, "labels", 1)
    if images is None:
        return None
    pixels = read_idx(images)
    if pixels.ndim != 3:
        raise DataError(f"{images}: expected three dimensions, got {pixels.shape}")
    found = Pictures("mnist", torch.from_numpy(pixels.copy()).unsqueeze(1))
    if labels is not None:
        found.labels = torch.from_numpy(read_idx(labels).astype(np.int64))
        if found.labels.shape != (len(pixels),):
            raise DataError(f"{labels}: expected {len(pixels)} labels, got {tuple(found.labels.shape)}")
        found.classes = tuple(str(i) for i in range(int(found.labels.max()) + 1))
    return found


# --- CIFAR-10: https://www.cs.toronto.edu/~kriz/cifar.html --------------------------------------------


class _ArraysOnly(pickle.Unpickler):
    """CIFAR's Python batches are pickles: this reads the arrays in them and refuses every other class."""

    ALLOWED = {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")} | {
        (f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")
    }

    def find_class(self, module, name):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR-10 file does")
        return super().find_class(module, name)


def _cifar_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % (CIFAR_ROW + 1):
        raise DataError(f"{path}: expected rows of {CIFAR_ROW + 1} bytes, got {len(content)}: truncated?")
    rows = content.reshape(-1, CIFAR_ROW + 1)
    return rows[:, 1:], rows[:, 0]


def _cifar_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="bytes").load()
        pixels, labels = np.asarray(content[b"data"], np.uint8), np.asarray(content[b"labels"], np.uint8)
        if pixels.shape != (len(labels), CIFAR_ROW):
            raise ValueError(f"its data has the shape {pixels.shape}")
    except Exception as error:  # a damaged pickle raises anything
        raise DataError(f"{path}: no CIFAR-10 batch: {error}") from None
    return pixels, labels


def _cifar10(folder: Path) -> Pictures | None:
    folders = (folder, folder / "cifar-10-batches-bin", folder / "cifar-10-batches-py")
    for ending, reader in ((".bin", _cifar_binary), ("", _cifar_python)):
        for place in folders:
            paths = [p for i in range(1, 6) if (p := place / f"data_batch_{i}{ending}").is_file()]
            if paths:
                parts = [reader(p) for p in paths]
                images = torch.from_numpy(np.concatenate([p for p, _ in parts])).view(-1, 3, 32, 32)
                labels = torch.from_numpy(np.concatenate([y for _, y in parts]).astype(np.int64))
                if int(labels.max()) > 9:
                    raise DataError(f"{paths[0]}: expected labels from 0 to 9, got {int(labels.max())}")
                return Pictures("cifar10", images, labels, CIFAR_CLASSES)
    return None


# --- folders of images --------------------------------------------------------------------------------


def _images(folder: Path, size: int, strict: bool) -> Pictures:
    from PIL import Image, ImageOps

    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not paths:
        raise DataError(f"{folder}: no images ({', '.join(IMAGE_SUFFIXES)}), no MNIST and no CIFAR-10 files")
    pictures, kept, skipped = [], [], []
    for path in paths:
        try:
            with Image.open(path) as image:
                grey = image.mode in ("1", "L", "LA", "I;16")
                picture = ImageOps.fit(image.convert("L" if grey else "RGB"), (size, size), Image.Resampling.LANCZOS)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            if strict:
                raise DataError(f"{path}: can't be read: {error}") from None
            skipped.append((path, str(error)))
            continue
        pictures.append(picture)
        kept.append(path)
    if not pictures:
        raise DataError(f"{folder}: none of its {len(paths)} images can be read, the first because: {skipped[0][1]}")
    grey = all(p.mode == "L" for p in pictures)
    arrays = [np.asarray(p if grey else p.convert("RGB")) for p in pictures]
    images = torch.from_numpy(np.stack(arrays))
    images = images.unsqueeze(1) if grey else images.permute(0, 3, 1, 2).contiguous()
    found = Pictures(folder.name, images, skipped=skipped)
    names = sorted({p.relative_to(folder).parts[0] for p in kept if p.parent != folder})
    if len(names) > 1 and all(p.parent != folder for p in kept):
        found.classes = tuple(names)
        found.labels = torch.tensor([names.index(p.relative_to(folder).parts[0]) for p in kept])
    return found
