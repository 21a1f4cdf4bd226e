"""Small calls of every CUDA C++ kernel, forward and backward: what compute-sanitizer walks through."""

from __future__ import annotations

import torch

import dlperf
from dlperf.diffusion import functional as diffusion
from dlperf.nn import functional as F


def _tensor(*size: int, device: str, dtype: torch.dtype, last: bool = False) -> torch.Tensor:
    x = torch.randn(size, device=device).to(dtype)
    return (x.to(memory_format=torch.channels_last) if last else x).requires_grad_()


def calls(device: str, dtype: torch.dtype = torch.bfloat16):
    """(name, function): each once, on sizes that leave rests of every tile."""

    def t(*size, last=False):
        return _tensor(*size, device=device, dtype=dtype, last=last)

    x, w, b = t(72, 136), t(88, 136), t(88)
    yield "linear", lambda: F.linear(x, w, b, activation="relu")
    a, c = t(3, 40, 72), t(3, 72, 24)
    yield "bmm", lambda: F.matmul(a, c)
    for stride, size in ((1, 3), (2, 3), (2, 1)):
        image, filters = t(2, 40, 9, 11, last=True), t(24, 40, size, size, last=True)
        yield (
            f"conv2d {size}x{size}/{stride}",
            lambda i=image, f=filters, s=stride, p=size // 2: F.conv2d(i, f, stride=s, padding=p),
        )
    x, w = t(1152, 72), t(2048, 72)
    yield "linear by clusters", lambda x=x, w=w: F.linear(x, w)
    for stride, size in ((1, 3), (2, 3), (1, 5), (1, 7), (2, 5)):
        image, filters = t(2, 40, 9, 11, last=True), t(40, 1, size, size)
        yield (
            f"depthwise {size}x{size}/{stride}",
            lambda i=image, f=filters, s=stride, p=size // 2: F.conv2d(i, f, stride=s, padding=p, groups=40),
        )
    image, filters = t(2, 40, 9, 11, last=True), t(24, 40, 3, 3, last=True)
    yield "conv2d_batch_norm", lambda i=image, f=filters: F.conv2d_batch_norm(i, f, None, None, padding=1)
    for d, causal, keys in ((64, False, 380), (128, True, 90), (64, False, 50), (64, False, 197), (64, False, 257)):
        q, k, v = (t(1, 2, s, d) for s in (70, keys, keys))
        yield (
            f"attention {d}, {keys} keys",
            lambda q=q, k=k, v=v, causal=causal: F.scaled_dot_product_attention(q, k, v, is_causal=causal),
        )
    rows, image, residual = t(21, 264), t(3, 48, 5, 7, last=True), t(3, 48, 5, 7, last=True)
    yield "layer_norm", lambda: F.layer_norm(rows, (264,))
    yield "batch_norm", lambda: F.batch_norm(image, None, None, training=True, residual=residual, activation="relu")
    yield "group_norm", lambda: F.group_norm(image, 8, activation="silu")
    yield "dropout", lambda: F.dropout(rows, 0.5)
    sample = _tensor(2, 3, 8, 8, device=device, dtype=torch.float32).detach()
    yield "ddpm_step", lambda: diffusion.ddpm_step(sample, sample, alpha_bar=0.5, alpha_bar_prev=0.52, seed=7)


def run(device: str) -> list[str]:
    """The calls, each followed by its gradients; returns their names."""
    names = []
    with dlperf.backend("cuda"):
        for name, call in calls(device):
            y = call()
            if y.requires_grad:
                y.backward(torch.randn_like(y))
            names.append(name)
    return names


def main() -> int:
    print(", ".join(run("cuda")))
    torch.cuda.synchronize()
    return 0
