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


@pytest.mark.parametrize("family", FAMILIES)
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


@pytest.mark.parametrize("function", ["linear", "conv2d"])
def test_float32_by_tf32(function, monkeypatch):
    """Each operand loses at most the bits below TF32's ten."""
    for switch in (torch.backends.cuda.matmul, torch.backends.cudnn.conv):
        monkeypatch.setattr(switch, "fp32_precision", "tf32")
    x, w = (torch.randn(100, 96, 6, 6, device="cuda"), torch.randn(80, 96, 3, 3, device="cuda"))
    if function == "linear":
        x, w = x.flatten(2).mT.contiguous(), w[:, :, 0, 0].contiguous()
    peer = getattr(torch.nn.functional, function)
    error = (getattr(F, function)(x, w) - peer(x.double(), w.double())).abs()
    assert (error <= 2.0**-9 * peer(x.double().abs(), w.double().abs())).all()


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
        dropped = F.dropout(y, 0.5)
        with pytest.raises(RuntimeError):  # that the mode is on
            dropped.sum().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert dropped.shape == y.shape and torch.isfinite(dropped).all()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_sampling_by_a_cuda_graph_is_sampling(guidance):
    from dlperf.diffusion import models, sample

    torch.manual_seed(0)
    config = {
        "kind": "unet",
        "widths": [32, 32],
        "depth": 1,
        "attention": [1],
        "groups": 8,
        "channels": 1,
        "classes": 3,
    }
    model = models.build(config).cuda().eval()
    arguments = {"class_labels": [0, 1, 2, 0], "guidance_scale": guidance, "device": "cuda", "progress": False}
    plain, graphed = (sample(model, (4, 1, 16, 16), 20, **arguments, cuda_graph=on) for on in (False, True))
    assert (plain - graphed).abs().max() < 2 / 255


def test_a_seed_gives_the_cpus_picture(monkeypatch):
    from dlperf.diffusion import models, sample

    torch.manual_seed(0)
    config = {"kind": "unet", "widths": [32, 32], "depth": 1, "attention": [1], "groups": 8, "channels": 1}
    model = models.build(config).eval()
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    with dlperf.backend("cpu"):
        expected = sample(model, (2, 1, 16, 16), 50, seed=5, progress=False)
    found = sample(model, (2, 1, 16, 16), 50, seed=5, device="cuda", progress=False)
    assert (found.cpu() - expected).abs().max() < 2 / 255


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
