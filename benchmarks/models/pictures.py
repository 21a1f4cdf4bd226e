"""Pictures that ship with scikit-learn: two photographs, prepared as ImageNet pipelines do, and digits."""

import importlib.util

import torch

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def why_no_photographs() -> str | None:
    missing = [name for name in ("sklearn", "PIL") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed (pip install 'dlperf[bench]')" if missing else None


def resize_shorter_side(image: torch.Tensor, size: int) -> torch.Tensor:
    """[3, H, W] in 0..1, bilinear with antialiasing."""
    h, w = image.shape[-2:]
    scaled = (size, round(w * size / h)) if h <= w else (round(h * size / w), size)
    return torch.nn.functional.interpolate(image[None], scaled, mode="bilinear", antialias=True)[0]


def photographs(batch: int, size: int = 224) -> torch.Tensor:
    """[batch, 3, size, size] in 0..1: both photographs' centre crops, their mirror images, then random crops."""
    from sklearn.datasets import load_sample_images

    images = [torch.from_numpy(p.copy()).permute(2, 0, 1).float() / 255 for p in load_sample_images().images]
    images = [resize_shorter_side(image, round(size * 256 / 224)) for image in images]
    generator = torch.Generator().manual_seed(0)
    crops = []
    for i in range(batch):
        image = images[i % 2]
        room = [image.shape[-2] - size, image.shape[-1] - size]
        if i < 4:
            top, left = (r // 2 for r in room)
        else:
            top, left = (int(torch.randint(r + 1, (), generator=generator)) for r in room)
        crop = image[:, top : top + size, left : left + size]
        crops.append(crop.flip(-1) if i // 2 % 2 else crop)
    return torch.stack(crops)


def _noise(channels: int, batch: int, size: int, reason: str) -> tuple[torch.Tensor, str]:
    noise = torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0))
    return noise, f"normal noise, because {reason}"


def pictures(batch: int, size: int = 224) -> tuple[torch.Tensor, str]:
    """Photographs and what they are; where scikit-learn is missing, noise that is named as noise."""
    reason = why_no_photographs()
    if reason is not None:
        return _noise(3, batch, size, reason)
    return (photographs(batch, size) - MEAN) / STD, "scikit-learn's two sample photographs, cropped and mirrored"


def small_pictures(batch: int, size: int = 32) -> tuple[torch.Tensor, str]:
    """Crops of the photographs in -1..1, [batch, 3, size, size], cut from ones four times the size; as `pictures`."""
    reason = why_no_photographs()
    if reason is not None:
        return _noise(3, batch, size, reason)
    large = photographs(batch, 4 * size)
    middle = slice(3 * size // 2, 5 * size // 2)
    return large[:, :, middle, middle] * 2 - 1, f"{size}x{size} crops of scikit-learn's two sample photographs"


def digits(batch: int) -> tuple[torch.Tensor, str]:
    """Handwritten digits in -1..1, [batch, 1, 8, 8]; as `pictures`."""
    if importlib.util.find_spec("sklearn") is None:
        return _noise(1, batch, 8, "sklearn not installed (pip install 'dlperf[bench]')")
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().images).float()
    return images[torch.arange(batch) % len(images), None] / 8 - 1, "scikit-learn's handwritten digits"
