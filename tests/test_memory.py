"""The cache of large results and scratch."""

import gc
import pickle
import threading

import pytest
import torch

import dlperf
from dlperf import memory
from dlperf.backends import cpu
from dlperf.testing.compare import assert_matches

LAST = torch.channels_last

pytestmark = pytest.mark.skipif(cpu.available() is not None, reason="the CPU kernels are not built")


@pytest.fixture(autouse=True)
def _cache_in_use():
    """The cache stands back in torch's deterministic mode, which other tests run in."""
    torch.use_deterministic_algorithms(False)
    memory.empty_cache()


def _large(*size, **options):
    return torch.randn(*size, **options)


def test_memory_is_used_again():
    x = _large(4, 64, 32, 32)
    first = memory.empty_like(x)
    address, used = first.data_ptr(), memory.stats().used
    del first
    assert memory.stats().kept > 0 and memory.stats().used < used
    assert memory.empty_like(x).data_ptr() == address


def test_nothing_is_given_twice():
    x = _large(1, 300_000)
    held = [memory.empty_like(x) for _ in range(20)]
    for i, tensor in enumerate(held):
        tensor.fill_(i)
    assert all(bool((tensor == i).all()) for i, tensor in enumerate(held))
    assert len({tensor.data_ptr() for tensor in held}) == len(held)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_like_torchs(dtype):
    x = _large(2, 70, 60, 50, dtype=torch.float32).to(dtype)
    for source in (x, x.contiguous(memory_format=LAST), x.transpose(1, 2)):
        for memory_format in (torch.preserve_format, torch.contiguous_format, LAST):
            mine, theirs = (f(source, memory_format=memory_format) for f in (memory.empty_like, torch.empty_like))
            assert (mine.shape, mine.stride(), mine.dtype) == (theirs.shape, theirs.stride(), theirs.dtype)
            assert mine.data_ptr() % 64 == 0
    mine = memory.new_empty(x, (3, 100, 40, 30), LAST)
    assert mine.stride() == torch.empty((3, 100, 40, 30), memory_format=LAST).stride()
    assert memory.new_empty_strided(x, (500, 400), (1, 500)).stride() == (1, 500)


def test_small_other_and_meta_tensors_are_torchs():
    before = memory.stats().used
    kept = [
        memory.empty_like(torch.randn(10)),
        memory.empty_like(torch.zeros(300_000, dtype=torch.int64)),
        memory.empty_like(torch.randn(300_000, dtype=torch.float64)),
        memory.new_empty(torch.empty(1, device="meta"), (300_000,)),
    ]
    assert memory.stats().used == before
    assert [t.device.type for t in kept] == ["cpu", "cpu", "cpu", "meta"]


def test_deterministic_mode_fills():
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.isnan(memory.empty_like(_large(300_000))).all()


def test_tensors_are_ordinary():
    y = memory.empty_like(_large(300_000)).fill_(3.0)
    assert torch.equal(pickle.loads(pickle.dumps(y)), y)
    assert torch.equal(y.clone(), y) and bool((y.numpy() == 3).all())
    assert y.share_memory_().is_shared() and bool((y == 3).all())
    y.requires_grad_()
    (y * 2).sum().backward()
    assert bool((y.grad == 2).all())


def test_views_keep_memory():
    y = memory.empty_like(_large(300_000)).fill_(7.0)
    view = y[1000:2000]
    del y
    gc.collect()
    other = memory.empty_like(_large(300_000)).fill_(1.0)
    assert bool((view == 7).all()) and bool((other == 1).all())


def test_empty_cache_gives_back():
    x = _large(300_000)
    del x
    kept = memory.empty_like(_large(300_000))
    del kept
    before = memory.stats().kept
    assert before >= 300_000 * 4
    assert memory.empty_cache() == before and memory.stats().kept == 0


def test_threads_take_and_give():
    x = _large(100_000)
    errors = []

    def work(value):
        for _ in range(100):
            tensor = memory.empty_like(x).fill_(value)
            if not bool((tensor == value).all()):
                errors.append(value)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_scratch_of_no_bytes_in_a_new_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(memory.C.scratch(0)))
    thread.start()
    thread.join()
    assert found and found[0] > 0


def test_more_than_there_is_is_torchs_error():
    with pytest.raises(RuntimeError, match="allocate memory"):
        memory.new_empty(torch.empty(1), (1 << 50,))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_weights_under_autocast(dtype, last):
    torch.manual_seed(0)
    layer = dlperf.nn.Conv2d(128, 128, 3, padding=1, bias=False)
    layer.to(memory_format=LAST if last else torch.contiguous_format)
    x, gy = torch.randn(2, 128, 6, 6, requires_grad=True), torch.randn(2, 128, 6, 6)
    gc.collect()
    used = memory.stats().used
    with torch.autocast("cpu", dtype):
        y = layer(x)
    assert y.dtype is dtype
    # The weight's copy: results of this size are torch's.
    assert memory.stats().used - used >= layer.weight.numel() * dtype.itemsize
    y.backward(gy.to(dtype))
    assert layer.weight.grad.dtype is torch.float32
    assert layer.weight.grad.is_contiguous(memory_format=LAST if last else torch.contiguous_format)
    expected = torch.nn.functional.conv2d(x.double(), layer.weight.double(), padding=1)
    assert_matches(y, expected, reduction=9 * 128)
    weight = layer.weight.detach().double().requires_grad_()
    (wanted,) = torch.autograd.grad(
        torch.nn.functional.conv2d(x.to(dtype).double(), weight, padding=1), weight, gy.to(dtype).double()
    )
    assert_matches(layer.weight.grad.to(dtype), wanted, reduction=72)


def test_large_weights_under_autocast_twice_differentiated_and_frozen():
    layer, x = dlperf.nn.Linear(512, 512, bias=False), torch.randn(4, 512, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    (gw,) = torch.autograd.grad(y.float().square().sum(), layer.weight, create_graph=True)
    assert gw.requires_grad and gw.dtype is torch.float32
    (gx,) = torch.autograd.grad(gw.square().sum(), x)
    assert torch.isfinite(gx).all() and gx.abs().sum() > 0
    layer.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert not layer(x).requires_grad


def test_a_plans_first_call_leaves_nothing_kept_for_reuse():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3, padding=1), torch.nn.Conv2d(32, 32, 3, padding=1))
    optimized = dlperf.optimize(model.eval(), mode="inference")
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        first = optimized(x)
        assert memory.stats().kept == 0
        torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(optimized(x), expected, rtol=1e-4, atol=1e-4)
