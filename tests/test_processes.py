"""Threads, forks and thread counts."""

import threading

import pytest
import torch

from dlperf import nn
from dlperf.backends import cpu


@pytest.fixture(autouse=True)
def _needs_kernels():
    if cpu.available() is not None:
        pytest.skip(cpu.available())


def _model():
    torch.manual_seed(0)
    return torch.nn.Sequential(nn.Conv2d(8, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 1)).eval()


class _Dataset(torch.utils.data.Dataset):
    """Runs a dlperf layer in the worker."""

    def __init__(self):
        self.model = _model()

    def __len__(self):
        return 4

    def __getitem__(self, i):
        with torch.no_grad():
            return self.model(torch.full((1, 8, 24, 24), float(i)))[0]


def test_forked_workers_neither_hang_nor_differ():
    dataset = _Dataset()
    expected = torch.stack([dataset[i] for i in range(4)])  # the parent's OpenMP threads exist before the fork
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    torch.testing.assert_close(torch.cat(list(loader)), expected, rtol=1e-5, atol=1e-5)


def test_calls_from_several_threads_do_not_mix():
    model = _model()
    inputs = [torch.randn(2, 8, 20, 20) for _ in range(4)]
    with torch.no_grad():
        expected = [model(x) for x in inputs]
    wrong = []

    def work(i):
        with torch.no_grad():
            for _ in range(20):
                if not torch.equal(model(inputs[i]), expected[i]):
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_same_bits_every_run():
    model = _model().train()
    x = torch.randn(4, 8, 20, 20)
    gradients = []
    for _ in range(3):
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for other in gradients[1:]:
        assert all(torch.equal(a, b) for a, b in zip(gradients[0], other, strict=True))


def test_results_do_not_depend_on_alignment():
    model = _model()
    x = torch.randn(2, 8, 20, 20)
    storage = torch.empty(x.numel() + 3)
    shifted = storage[3:].view_as(x).copy_(x)
    assert shifted.data_ptr() % 16 != x.data_ptr() % 16
    with torch.no_grad():
        assert torch.equal(model(shifted), model(x))


def test_thread_count_is_followed():
    before = torch.get_num_threads()
    model, x = _model(), torch.randn(2, 8, 20, 20)
    with torch.no_grad():
        expected = model(x)
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)
        finally:
            torch.set_num_threads(before)
