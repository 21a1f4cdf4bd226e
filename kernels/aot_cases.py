"""Calls of every launcher, on meta tensors of real layers' sizes: what ``make aot`` compiles."""

from __future__ import annotations

import torch

from dlperf.ops.activation import KINDS
from dlperf.ops.loss import KINDS as KINDS_OF_LOSS
from dlperf.ops.recurrent import GATES

from . import (
    activation,
    add,
    attention,
    batch_norm,
    channel_sum,
    conv,
    cross_entropy,
    diffusion,
    dropout,
    embedding,
    glu,
    group_norm,
    layer_norm,
    loss,
    matmul,
    pixel_shuffle,
    pool,
    recurrent,
    softmax,
    upsample,
)

BF16, FP16, FP32, I64 = torch.bfloat16, torch.float16, torch.float32, torch.int64


def _x(*size: int, dtype: torch.dtype = BF16, last: bool = False) -> torch.Tensor:
    x = torch.empty(size, dtype=dtype, device="meta")
    return x.to(memory_format=torch.channels_last) if last else x


def _elementwise() -> None:
    x = _x(256, 64, 56, 56)
    for kind in KINDS:
        activation.activation(x, kind, 1.0)
        activation.activation_bwd(x, x, kind, 1.0)
    activation.activation(x.float(), "silu", 0.0)
    for kind in ("none", "relu"):
        add.add(x, x, 1.0, kind)
    dropout.dropout(x, _x(2, dtype=I64), 0.1)


def _rows() -> None:
    for size, dim in (((2048, 197), 1), ((256, 1000), 1), ((64, 50257), 1), ((8, 21, 512, 512), 1)):
        x = _x(*size)
        softmax.softmax(x, dim, False)
        softmax.softmax_bwd(x, x, dim, False)
    softmax.softmax(_x(256, 8192), 1, True)
    softmax.softmax_bwd(_x(256, 8192), _x(256, 8192), 1, True)
    for size in ((256, 1000), (8, 21, 512, 512)):
        for soft in (False, True):
            x = _x(*size, dtype=FP32)
            target = x if soft else _x(size[0], *size[2:], dtype=I64)
            _, saved = cross_entropy.cross_entropy(x, target, None, 1, -100, 0.1)
            cross_entropy.cross_entropy_bwd(_x(dtype=FP32), x, target, None, saved, 1, -100, 0.1, soft)
    for cols in (384, 768, 1280, 4096, 8192, 16384):
        x, w = _x(50432, cols), _x(cols)
        _, stats = layer_norm.layer_norm(x, w, w, 1, 1e-5)
        layer_norm.layer_norm_bwd(x, x, w, w, stats, 1, 1e-5, [True] * 3)
    x, w = _x(50432, 768), _x(768)
    _, stats = layer_norm.rms_norm(x, w, 1, 1e-5)
    layer_norm.rms_norm_bwd(x, x, w, stats, 1, 1e-5, [True] * 2)


def _channel_norms() -> None:
    for last in (True, False):
        x, w = _x(256, 256, 14, 14, last=last), _x(256, dtype=FP32)
        y, mean, var = batch_norm.batch_norm_train(x, w, w, x, 1e-5, "relu")
        batch_norm.batch_norm_eval(x, mean, var, w, w, x, 1e-5, "relu")
        batch_norm.batch_norm_bwd(x, x, y, mean, var, w, w, 1e-5, True, [True] * 4)
        batch_norm.batch_norm_bwd(x, x, None, mean, var, w, w, 1e-5, True, [True, True, True, False])
        channel_sum.channel_sum(x)
        x, w = _x(64, 128, 32, 32, last=last), _x(128)
        for kind in ("none", "silu"):
            _, stats = group_norm.group_norm(x, w, w, 32, 1e-5, kind)
            group_norm.group_norm_bwd(x, x, w, w, stats, 32, 1e-5, kind, [True] * 3)
    batch_norm.batch_norm_update(w.float(), w.float(), w.float(), w.float(), 0.1, 1000)


def _matmul() -> None:
    problems = (50432, 3072, 768), (197, 768, 768), (8, 1000, 2048), (64, 1280, 320)
    for dtype, count in ((BF16, 4), (FP16, 1), (FP32, 3)):
        for number, (rows, out, inner) in enumerate(problems[:count]):
            x, w, b = _x(rows, inner, dtype=dtype), _x(out, inner, dtype=dtype), _x(out, dtype=dtype)
            matmul.linear(x, w, b, None, "none")
            if dtype is BF16 and number < 2:
                matmul.linear(x, w, b, _x(rows, out), "gelu")
                matmul.linear(_x(rows, out), w.t(), None, None, "none")  # the gradient of x
                matmul.linear(_x(rows, out).t(), x.t(), None, None, "none")  # and of the weight
        q = _x(96, 197, 64, dtype=dtype)
        if dtype is not FP16:
            matmul.bmm(q, q.mT, None, None, 0.0, 0.125, "none")


def _conv() -> None:
    layers = (
        ((64, 64, 56, 56), (64, 64, 3, 3), 1, 1, 1),
        ((64, 512, 14, 14), (512, 512, 3, 3), 2, 1, 1),
        ((64, 3, 224, 224), (64, 3, 7, 7), 2, 3, 1),
        ((64, 256, 56, 56), (512, 256, 1, 1), 2, 0, 1),
        ((64, 256, 56, 56), (64, 256, 1, 1), 1, 0, 1),
        ((8, 256, 16, 16), (256, 256, 3, 3), 1, 1, 1),
        ((64, 128, 56, 56), (128, 4, 3, 3), 1, 1, 32),
        ((64, 96, 56, 56), (96, 1, 3, 3), 1, 1, 96),
    )
    for dtype in (BF16, FP32):
        for size, weight_size, stride, padding, groups in layers if dtype is BF16 else layers[:5:2] + layers[6:]:
            x, w = _x(*size, dtype=dtype, last=True), _x(*weight_size, dtype=dtype, last=True)
            rest = ([stride] * 2, [padding] * 2, [1, 1], groups)
            y = conv.conv2d(x, w, None, None, *rest, "none")
            conv.conv2d_bwd_input(y, w, list(size), *rest, True)
            conv.conv2d_bwd_weight(y, x, list(weight_size), *rest, True)
            if dtype is BF16 and size[1] in (64, 256, 512):
                conv.conv2d_moments(x, w, *rest)
                conv.conv2d(x, w, _x(w.shape[0]), y, *rest, "relu")
    x, w = _x(8, 128, 32, 32, last=True), _x(128, 64, 4, 4, last=True)
    conv.conv_transpose2d(x, w, _x(64), [2, 2], [1, 1], [0, 0], [1, 1], 1, "silu")


def _attend(sizes: tuple, dtype: torch.dtype, causal: bool, mask: torch.Tensor | None, dropout_p: float) -> None:
    """sizes: batch, heads, heads of key and value, queries, keys, head dimension."""
    b, h, kv, sq, sk, e = sizes
    q, k, v = (_x(b, heads, s, e, dtype=dtype) for heads, s in ((h, sq), (kv, sk), (kv, sk)))
    rng = _x(2, dtype=I64) if dropout_p else None
    out, stats = attention.attention(q, k, v, mask, rng, causal, 0.125, dropout_p)
    grad = mask is not None and mask.is_floating_point()
    attention.attention_bwd(out, q, k, v, mask, rng, out, stats, causal, 0.125, dropout_p, grad)


def _attention() -> None:
    for e in (64, 128, 256):
        _attend((8, 16, 16, 2048, 2048, e), BF16, False, None, 0.0)
        _attend((8, 16, 16, 2048, 2048, e), FP32, False, None, 0.0)
    _attend((64, 6, 6, 197, 197, 64), BF16, False, None, 0.0)
    _attend((8, 16, 4, 2048, 2048, 128), BF16, True, None, 0.0)
    _attend((8, 16, 16, 2048, 2048, 64), FP16, True, None, 0.0)
    _attend((8, 16, 16, 1024, 1024, 64), BF16, False, None, 0.1)
    _attend((64, 6, 6, 197, 197, 64), BF16, False, None, 0.1)
    for tokens in (257, 577):
        _attend((64, 12, 12, tokens, tokens, 64), BF16, False, None, 0.0)
    _attend((1, 6, 6, 197, 197, 64), BF16, False, None, 0.0)
    _attend((64, 16, 16, 77, 77, 64), BF16, True, None, 0.0)
    _attend((512, 3, 3, 49, 49, 32), BF16, False, _x(1, 3, 49, 49), 0.0)
    _attend((512, 3, 3, 64, 64, 32), BF16, False, _x(512, 3, 64, 64), 0.0)
    _attend((512, 3, 3, 1024, 1024, 32), BF16, False, _x(1, 3, 1024, 1024), 0.0)
    _attend((64, 6, 6, 1025, 1025, 64), BF16, False, None, 0.1)
    _attend((8, 16, 16, 1024, 1024, 64), BF16, False, _x(8, 1, 1, 1024, dtype=torch.bool), 0.0)
    _attend((8, 8, 8, 1024, 77, 40), BF16, False, None, 0.0)


def _recurrent() -> None:
    for dtype, cells in ((BF16, tuple(GATES)), (FP32, ("lstm",))):
        for cell in cells:
            many = GATES[cell]
            sizes = (2, 64, 512), (many * 512, 512), (many * 512,), (64, 512)
            x, w, b, h = (_x(*size, dtype=dtype) for size in sizes)
            c = h if cell == "lstm" else None
            wanted = [True, True, cell == "lstm", True, True, True, True]
            y, _, _, gates, kept = recurrent.recurrent(x, h, c, w, w, b, b, None, cell, False, True)
            recurrent.recurrent_bwd(y, h, c, x, h, c, w, w, b, b, None, y, gates, kept, cell, False, wanted)
    recurrent.recurrent(x, h, c, w, w, b, b, None, cell, False, False)


def _losses() -> None:
    for dtype in (BF16, FP32):
        x = _x(64, 3, 64, 64, dtype=dtype)
        for kind in KINDS_OF_LOSS if dtype is BF16 else ("mse",):
            for reduction in (0, 1) if kind == "mse" else (1,):
                gy = loss.pair_loss(x, x, kind, 1.0, reduction)
                loss.pair_loss_bwd(gy, x, x, kind, 1.0, reduction, [True, True])
        for size in ((256, 1000), (8, 21, 512, 512)):
            x, target = _x(*size, dtype=dtype), _x(size[0], *size[2:], dtype=I64)
            gy, total = loss.nll_loss(x, target, None, -100, 1)
            loss.nll_loss_bwd(gy, target, None, total, list(size), -100, 1)
    for kind in ("sigmoid", "gelu", "silu"):
        for size in ((50432, 2 * 3072), (64, 512, 32, 32)):
            x = _x(*size)
            glu.glu_bwd(glu.glu(x, 1, kind), x, 1, kind)


def _images() -> None:
    level = _x(1000, dtype=torch.float64)
    pair, steps = _x(2, dtype=I64), _x(64, dtype=I64)
    coefficients = [0.5] * 9
    for last in (False, True):
        x = _x(64, 64, 112, 112, last=last)
        y, indices = pool.max_pool(x, [3, 3, 2, 2, 1, 1, 1, 1], [56, 56], True)
        pool.max_pool_bwd(y, indices, list(x.shape), [3, 3, 2, 2, 1, 1, 1, 1], last)
        y = pool.avg_pool(x, [2, 2, 2, 2, 0, 0, 1, 1], [56, 56], True, 0)
        pool.avg_pool_bwd(y, list(x.shape), [2, 2, 2, 2, 0, 0, 1, 1], True, 0, last)
        x = _x(64, 2048, 7, 7, last=last)
        pool.avg_pool_bwd(pool.avg_pool(x, [], [1, 1], True, 0), list(x.shape), [], True, 0, last)
        for mode in ("nearest", "bilinear"):
            x = _x(16, 256, 16, 16, last=last)
            y = upsample.upsample(x, [32, 32], mode, False, 0.0, 0.0)
            upsample.upsample_bwd(y, [16, 16], mode, False, 0.0, 0.0)
        x = _x(16, 256, 16, 16, last=last)
        pixel_shuffle.pixel_unshuffle(pixel_shuffle.pixel_shuffle(x, 2), 2)
        x = _x(64, 3, 64, 64, dtype=FP32, last=last)
        diffusion.diffusion_step(x, x, None, None, None, pair, coefficients, 0, 7, False)
        diffusion.diffusion_step(x, x, x, x, x, None, coefficients, 0, 7, True)
        diffusion.diffusion_step(x, x.bfloat16(), x.bfloat16(), None, None, pair, coefficients, 0, 7, False)
        diffusion.add_noise(x, x, level, steps, False)
    diffusion.add_noise(x, x, level, steps, True)
    numbers = _x(64, dtype=I64)
    embedding.embedding(numbers, _x(1000, 512), -1, False)
    embedding.embedding_bwd(_x(64, 512), numbers, 1000, -1, False)


def call_every_launcher() -> None:
    _elementwise()
    _rows()
    _channel_norms()
    _matmul()
    _conv()
    _attention()
    _recurrent()
    _losses()
    _images()
