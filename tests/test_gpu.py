"""The Triton and CUDA C++ kernels on an NVIDIA GPU: every shared case with bfloat16, and what only a GPU can show."""

import pytest
import torch

import dlperf
from dlperf.nn import functional as F
from dlperf.testing.cases import FAMILIES
from dlperf.testing.check import check
from dlperf.testing.compare import assert_matches

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.fixture(autouse=True)
def _triton():
    with dlperf.backend("triton"):
        yield


# glu, loss and recurrent have no Triton kernels yet
@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("glu", "loss", "recurrent")])
def test_cases(family):
    (result,) = check("triton", device="cuda", families=[family])
    assert result.ok, "\n".join(result.failures[:20])
    assert result.served > 0, dict(result.declined)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
def test_large_products(dtype, transposed):
    """Large enough for the kernel that loads through TMA."""
    a = torch.randn(4096, 2048, device="cuda", dtype=dtype)
    b = torch.randn(2048, 4096, device="cuda", dtype=dtype).t() if transposed else a.new_empty(4096, 2048).normal_()
    bias = torch.randn(4096, device="cuda", dtype=dtype)
    y = F.linear(a, b, bias, activation="relu")
    own = torch.nn.functional.linear(a, b, bias).relu()
    truth = torch.nn.functional.linear(a.double(), b.double(), bias.double()).relu()
    assert_matches(y, truth, baseline=own, reduction=2048)


def test_the_direct_launch_follows_shapes_and_alignment():
    base = torch.randn(5000, device="cuda")
    for n in (64, 64, 63, 4096, 4096):
        for shift in (0, 1, 0):
            x = base[shift : shift + n]
            assert torch.equal(F.relu(x), torch.relu(x))


def test_more_than_two_to_the_31_elements():
    n = 2**31 + 77
    if torch.cuda.mem_get_info()[0] < 5 * n:
        pytest.skip("needs 11 GB of free GPU memory")
    x = torch.zeros(n, device="cuda", dtype=torch.bfloat16)
    x[-3:] = torch.tensor([-1.0, 2.0, 3.0])
    F.relu(x, inplace=True)
    assert x[-3:].tolist() == [0.0, 2.0, 3.0]


def test_a_captured_graph_draws_fresh_noise_and_gives_the_same_values():
    layer = torch.nn.Conv2d(32, 32, 3, padding=1).cuda().to(memory_format=torch.channels_last)
    x = torch.randn(4, 32, 16, 16, device="cuda").to(memory_format=torch.channels_last)

    def step():
        return F.relu(F.conv2d(x, layer.weight, layer.bias, padding=1)), F.dropout(x, 0.5)

    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                expected, _ = step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y, dropped = step()
        graph.replay()
        first = dropped.clone()
        graph.replay()
    assert torch.equal(y, expected)
    assert not torch.equal(first, dropped)


def test_nothing_waits_for_the_gpu():
    x = torch.randn(8, 64, 14, 14, device="cuda").to(memory_format=torch.channels_last)
    w = torch.randn(64, 64, 3, 3, device="cuda")
    F.conv2d(x, w, padding=1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        y = F.batch_norm(F.conv2d(x, w, padding=1), None, None, training=True)
        F.softmax(y.flatten(1), 1)
        F.dropout(y, 0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")


CUDA_FAMILIES = ["matmul", "conv", "layer_norm", "batch_norm", "group_norm", "attention", "dropout", "diffusion"]


@pytest.mark.parametrize("family", CUDA_FAMILIES)
def test_cases_on_the_cuda_backend(family):
    from dlperf.backends import cuda

    if cuda.load_error is not None:
        pytest.skip(cuda.load_error)
    (result,) = check("cuda", device="cuda", families=[family])
    assert result.ok, "\n".join(result.failures[:20])
    assert result.served > 0, dict(result.declined)


def test_small_calls_of_every_cuda_kernel():
    from dlperf.backends import cuda
    from dlperf.benchmarks import gpu_small

    if cuda.load_error is not None:
        pytest.skip(cuda.load_error)
    assert gpu_small.run("cuda")
    torch.cuda.synchronize()
