"""The two photographs that ship with scikit-learn, prepared as ImageNet pipelines do."""

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
    """[batch, 3, size, size]: both photographs' centre crops, their mirror images, then random crops."""
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
        crop = crop.flip(-1) if i // 2 % 2 else crop
        crops.append((crop - MEAN) / STD)
    return torch.stack(crops)


def pictures(batch: int, size: int = 224) -> tuple[torch.Tensor, str]:
    """Photographs and what they are; where scikit-learn is missing, noise that is named as noise."""
    reason = why_no_photographs()
    if reason is None:
        return photographs(batch, size), "scikit-learn's two sample photographs, cropped and mirrored"
    noise = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    return noise, f"normal noise, because {reason}"
