"""The Triton or the CUDA C++ kernels beside torch's own operators on a GPU, layer by layer: forward and backward.

Both sides are timed in turns in one process, with the L2 cache flushed before each run (triton.testing.do_bench), on
random data. Each row has the time, what was counted (FLOP or bytes) and the share of the ceiling that the same run
measured: a large product and a copy. No time is given for a row whose results disagree. ``--tiny`` runs every row
once on small sizes, in Triton's interpreter too: it shows that the rows work, not how fast.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as theirs

import dlperf
from dlperf.diffusion import functional as diffusion
from dlperf.nn import functional as ours

ROUNDS = 5
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}


@dataclass
class Work:
    """A row's two sides, and what one call computes or moves."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    flop: float = 0.0
    bytes: float = 0.0


@dataclass
class Result:
    """milliseconds; share: of the ceiling; ratio: theirs over ours."""

    name: str
    agrees: bool
    ours: float | None = None
    theirs: float | None = None
    ratio: float | None = None
    rate: float | None = None
    unit: str = ""
    share: float | None = None


def _pair(name: str, function: Callable, peer: Callable, leaves: list[torch.Tensor], flop=0.0, bytes=0.0):
    """The forward row and the backward row of one layer; backward counts twice the work of forward."""

    def without_gradient(call: Callable):
        with torch.no_grad():
            return call()

    yield Work(f"{name} forward", lambda: without_gradient(function), lambda: without_gradient(peer), flop, bytes)
    try:
        graphs = [call() for call in (function, peer)]
    except dlperf.BackendError:
        return  # the forward row says why
    g = torch.randn_like(graphs[1])

    def gradient(graph):
        return torch.autograd.grad(graph, leaves, g, retain_graph=True)

    yield Work(f"{name} backward", lambda: gradient(graphs[0]), lambda: gradient(graphs[1]), 2 * flop, 2 * bytes)


def rows(device: str, dtype: torch.dtype, tiny: bool) -> Iterator[Work]:
    def random(*size: int, last: bool = False) -> torch.Tensor:
        x = torch.randn(size, device=device, dtype=torch.float32).to(dtype)
        return (x.to(memory_format=torch.channels_last) if last else x).requires_grad_()

    item, n = torch.finfo(dtype).bits // 8, 2 if tiny else 64

    for m, out, k in ((64, 48, 32),) if tiny else ((4096,) * 3, (8192,) * 3, (50432, 3072, 768), (50432, 768, 3072)):
        x, w = random(m, k), random(out, k)
        label = f"linear {m}x{out}x{k}"
        yield from _pair(label, *(partial(f.linear, x, w) for f in (ours, theirs)), [x, w], 2.0 * m * out * k)

    layers = ((64, 64, 56, 3, 1), (256, 256, 14, 3, 1), (512, 512, 7, 3, 1), (256, 512, 56, 1, 2), (3, 64, 224, 7, 2))
    for c, k, size, r, stride in ((8, 16, 6, 3, 1),) if tiny else layers:
        x, w = random(n, c, size, size, last=True), random(k, c, r, r, last=True)
        options = {"stride": stride, "padding": r // 2}
        area = n * ((size + 2 * (r // 2) - r) // stride + 1) ** 2
        label = f"conv2d {c}->{k} {size}x{size} {r}x{r}/{stride}"
        sides = [partial(f.conv2d, x, w, **options) for f in (ours, theirs)]
        yield from _pair(label, *sides, [x, w], 2.0 * area * k * c * r * r)

    # MobileNet's, EfficientNet's and ConvNeXt's; bytes decide for 3 x 3, arithmetic for 7 x 7
    for c, size, r, stride in (
        ((8, 6, 3, 1),) if tiny else ((144, 56, 3, 1), (144, 56, 3, 2), (240, 28, 5, 1), (384, 14, 7, 1))
    ):
        x, w = random(n, c, size, size, last=True), random(c, 1, r, r)
        options = {"stride": stride, "padding": r // 2, "groups": c}
        area = n * ((size + 2 * (r // 2) - r) // stride + 1) ** 2
        sides = [partial(f.conv2d, x, w, **options) for f in (ours, theirs)]
        yield from _pair(
            f"depthwise {c} {size}x{size} {r}x{r}/{stride}", *sides, [x, w], bytes=(x.numel() + area * c) * item
        )

    shapes = ((2, 2, 20, 16, False),) if tiny else (
        *((4, 16, s, d, c) for s in (1024, 4096, 16384) for d in (64, 128) for c in (False, True)),
        (64, 6, 197, 64, False), (64, 12, 257, 64, False), (64, 12, 577, 64, False),
    )  # fmt: skip
    for b, h, s, d, causal in shapes:
        q, k_, v = (random(b, h, s, d) for _ in range(3))
        sides = [partial(f.scaled_dot_product_attention, q, k_, v, is_causal=causal) for f in (ours, theirs)]
        label = f"attention {b}x{h}x{s}x{d}{' causal' if causal else ''}"
        yield from _pair(label, *sides, [q, k_, v], 4.0 * b * h * s * s * d / (2 if causal else 1))

    windows, heads, tokens = (2, 2, 9) if tiny else (4096, 6, 49)
    q, k_, v = (random(windows, heads, tokens, 32) for _ in range(3))
    bias = random(1, heads, tokens, tokens)
    sides = [lambda f=f: f.scaled_dot_product_attention(q, k_, v, bias) for f in (ours, theirs)]
    flop = 4.0 * windows * heads * tokens * tokens * 32
    yield from _pair(f"attention in windows {windows}x{heads}x{tokens}x32", *sides, [q, k_, v, bias], flop)

    c, side = (8, 5) if tiny else (256, 28)
    for r in (1, 3):
        x, w = random(n, c, side, side, last=True), random(c, c, r, r, last=True)
        a, b = (torch.ones(c, device=device).requires_grad_() for _ in "ab")
        yield from _pair(
            f"conv2d {r}x{r}+batch_norm+relu {c} {side}x{side}",
            partial(_ours_conv_norm, x, w, a, b, r // 2),
            partial(_theirs_conv_norm, x, w, a, b, r // 2),
            [x, w, a, b],
            2.0 * n * side * side * c * c * r * r,
        )

    steps, hidden = (3, 16) if tiny else (128, 1024)
    x, h = random(steps, n, hidden), torch.zeros(n, hidden, device=device, dtype=dtype)
    cell = torch.nn.LSTM(hidden, hidden, device=device, dtype=dtype)
    weights = [w.detach().requires_grad_() for w in cell.parameters()]
    yield from _pair(
        f"lstm {steps}x{n}x{hidden}",
        lambda: ours.lstm_layer(x, h, h, *weights)[0],
        lambda: torch.lstm(x, (h[None], h[None]), weights, True, 1, 0.0, True, False, False)[0],
        [x, *weights],
        2.0 * steps * n * 8 * hidden * hidden,
    )

    side = 4 if tiny else 56
    x, w, b = random(n, 64, side, side, last=True), *(torch.ones(64, device=device).requires_grad_() for _ in "wb")
    residual = random(n, 64, side, side, last=True)
    norm = (None, None, w, b, True)
    yield from _pair(
        "batch_norm+add+relu",
        lambda: ours.batch_norm(x, *norm, residual=residual, activation="relu"),
        lambda: theirs.relu(theirs.batch_norm(x, *norm) + residual),
        [x, w, b, residual],
        bytes=4.0 * x.numel() * item,
    )
    w, b = random(64), random(64)
    yield from _pair(
        "group_norm+silu",
        lambda: ours.group_norm(x, 32, w, b, activation="silu"),
        lambda: theirs.silu(theirs.group_norm(x, 32, w, b)),
        [x, w, b],
        bytes=3.0 * x.numel() * item,
    )
    x = random(64 if tiny else 50432, 768)
    w, b = random(768), random(768)
    sides = [lambda f=f: f.layer_norm(x, (768,), w, b) for f in (ours, theirs)]
    yield from _pair("layer_norm 768", *sides, [x, w, b], bytes=2.0 * x.numel() * item)
    sides = [lambda f=f: f.softmax(x, -1) for f in (ours, theirs)]
    yield from _pair("softmax 768", *sides, [x], bytes=2.0 * x.numel() * item)
    sides = [lambda f=f: f.silu(x) for f in (ours, theirs)]
    yield from _pair("silu", *sides, [x], bytes=2.0 * x.numel() * item)
    sides = [lambda f=f: f.glu(x, -1) for f in (ours, theirs)]
    yield from _pair("glu", *sides, [x], bytes=1.5 * x.numel() * item)
    target = random(*x.shape)
    sides = [lambda f=f: f.mse_loss(x, target) for f in (ours, theirs)]
    yield from _pair("mse_loss", *sides, [x, target], bytes=2.0 * x.numel() * item)

    sample, noise = (torch.randn(n, 3, 8 if tiny else 256, 64, device=device) for _ in "xz")
    with torch.no_grad():
        step = {"alpha_bar": 0.5, "alpha_bar_prev": 0.52, "clip_range": 1.0}
        yield Work(
            "ddpm_step",
            lambda: diffusion.ddpm_step(sample, sample, noise=noise, **step),
            lambda: _eager_ddpm(sample, sample, noise, 0.5, 0.52),
            bytes=4.0 * sample.numel() * 4,
        )


def _ours_conv_norm(x, w, a, b, padding: int):
    return ours.conv2d_batch_norm(x, w, None, None, a, b, padding=padding, activation="relu")


def _theirs_conv_norm(x, w, a, b, padding: int):
    return theirs.relu(theirs.batch_norm(theirs.conv2d(x, w, padding=padding), None, None, a, b, True))


def _eager_ddpm(model, x, z, now: float, before: float):
    alpha = now / before
    x0 = ((x - (1 - now) ** 0.5 * model) / now**0.5).clamp(-1, 1)
    mean = before**0.5 * (1 - alpha) / (1 - now) * x0 + alpha**0.5 * (1 - before) / (1 - now) * x
    return mean + ((1 - before) / (1 - now) * (1 - alpha)) ** 0.5 * z


def _agrees(ours_found, theirs_found, dtype: torch.dtype) -> bool:
    pairs = zip(*((t if isinstance(t, tuple) else (t,)) for t in (ours_found, theirs_found)), strict=True)
    return all((a.float() - b.float()).norm() <= TOLERANCE[dtype] * b.float().norm() for a, b in pairs)


def ceilings(device: str) -> tuple[float, float]:
    """(FLOP/s of a bfloat16 product of 8192, bytes/s of a 1 GiB copy), medians."""
    from triton.testing import do_bench

    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in "ab")
    source = torch.randn(2**28, device=device)
    target = torch.empty_like(source)
    product = do_bench(lambda: a @ b, return_mode="median")
    copy = do_bench(lambda: target.copy_(source), return_mode="median")
    return 2 * 8192**3 / product * 1e3, 2 * source.numel() * 4 / copy * 1e3


def _precompile(device: str, dtype: torch.dtype) -> None:
    from dlperf.kernels import precompile

    variants = precompile.launched_by(work.ours for work in rows(device, dtype, tiny=False))
    precompile.compile_all(variants, torch.cuda.current_device())


def measure(work: Work, dtype: torch.dtype, tops: tuple[float, float] | None) -> Result:
    result = Result(work.name, _agrees(work.ours(), work.theirs(), dtype))
    if tops is None or not result.agrees:
        return result
    from triton.testing import do_bench

    times: tuple[list, list] = ([], [])
    for _ in range(ROUNDS):
        for side, call in zip(times, (work.ours, work.theirs), strict=True):
            side.append(do_bench(call, warmup=5, rep=20, return_mode="median"))
    result.ours, result.theirs = (statistics.median(side) for side in times)
    result.ratio = result.theirs / result.ours
    amount, top = (work.flop, tops[0]) if work.flop else (work.bytes, tops[1])
    result.rate, result.unit = amount / result.ours * 1e3, "FLOP/s" if work.flop else "B/s"
    result.share = result.rate / top
    return result


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu_kernels", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="write the rows to this JSON file")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--backend", choices=("triton", "cuda"), default="triton")
    parser.add_argument("--tuned", type=Path, help="copy to this file what searches on this card have found until now")
    parser.add_argument("--tiny", action="store_true", help="small sizes, no times")
    args = parser.parse_args(argv)
    if args.tuned and os.environ.get("DLPERF_AUTOTUNE", "") in ("", "0"):
        parser.error("--tuned: set DLPERF_AUTOTUNE=1 too, or nothing is searched")
    dtype = getattr(torch, args.dtype)
    tops = None if args.tiny else ceilings(args.device)
    found = []
    with dlperf.backend(args.backend):
        if args.backend == "triton" and not args.tiny:
            _precompile(args.device, dtype)
        for work in rows(args.device, dtype, args.tiny):
            try:
                result = measure(work, dtype, tops)
            except dlperf.BackendError as error:  # not every backend has every row
                print(f"{work.name}: {error}")
                continue
            except Exception as error:  # one broken row must not lose the others
                print(f"{work.name}: {type(error).__name__}: {error}", file=sys.stderr)
                result = Result(work.name, False)
            found.append(result)
            speed = "" if result.ratio is None else f"{result.ours:.3f} ms, {result.ratio:.2f}x, {result.share:.0%}"
            print(f"{result.name:40} {'ok' if result.agrees else 'DISAGREES'} {speed}", flush=True)
    if args.out:
        facts = {"ceilings": tops, "dtype": args.dtype, "backend": args.backend, "rows": [asdict(r) for r in found]}
        args.out.write_text(json.dumps(facts, indent=1) + "\n")
    if args.tuned:
        from dlperf.kernels import _tune

        shutil.copy(_tune.stored_in(torch.device("cuda", torch.cuda.current_device())), args.tuned)
    return 0 if all(r.agrees for r in found) else 1


if __name__ == "__main__":
    sys.exit(main())
