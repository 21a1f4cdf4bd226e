"""What this machine can do at best, measured in the same run: the share of it is what a kernel's speed means."""

import time

import torch

COPY_BYTES = 512 * 2**20  # one operand: more than the caches of the machines we know, or their share of a guest
LOOP_SECONDS = 0.05


def best_rate(work, repeats: int = 5) -> float:
    """Operations or bytes a second, in units of 1e9: the best run, since only disturbance makes one slower."""
    best = 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        amount = work()
        best = max(best, amount / (time.perf_counter() - start))
    return best / 1e9


def loop_rate(loop) -> float:
    """GFLOP/s of a loop that takes its number of iterations, with as many as fill LOOP_SECONDS."""
    iterations, seconds = 10_000, 0.0
    while seconds < LOOP_SECONDS / 2:
        iterations *= 4
        start = time.perf_counter()
        if loop(iterations) == 0:
            return 0.0
        seconds = time.perf_counter() - start
    return best_rate(lambda: loop(iterations))


def cpu_loops(kernels) -> dict[str, dict[str, float]]:
    """GFLOP/s per instruction set and dtype."""
    loops = {}
    current = kernels.isa()
    for isa in kernels.ISAS[: kernels.ISAS.index(kernels.detected_isa()) + 1]:
        kernels.set_isa_cap(isa)
        loops[isa] = {"f32": loop_rate(kernels.ceiling_fma_f32)}
        if dot := loop_rate(kernels.ceiling_dot_bf16):
            loops[isa]["bf16"] = dot
    kernels.set_isa_cap(current)
    return loops


def cpu_bandwidth(kernels) -> dict[str, float]:
    """GB/s, reads and writes counted."""
    n = COPY_BYTES // 4
    a, b, c = (torch.full((n + 16,), 1.0) for _ in range(3))
    start = [t.data_ptr() + -t.data_ptr() % 64 for t in (a, b, c)]

    def copy(streaming):
        kernels.ceiling_copy(start[0], start[1], n, streaming)
        return 8 * n

    def triad():
        kernels.ceiling_triad(start[0], start[1], start[2], n)
        return 12 * n

    rates = {"copy": best_rate(lambda: copy(False)), "copy_streaming": best_rate(lambda: copy(True))}
    return {**rates, "triad": best_rate(triad)}


def torch_matmul(device: str, dtype: torch.dtype, n: int) -> float:
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))

    def work():
        torch.matmul(a, b)
        if device == "cuda":
            torch.cuda.synchronize()
        return 2 * n**3

    work()
    return best_rate(work)


def torch_copy(device: str, size: int) -> float:
    a, b = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))

    def work():
        b.copy_(a)
        if device == "cuda":
            torch.cuda.synchronize()
        return 2 * size

    work()
    return best_rate(work)


class CeilingsJob:
    """GFLOP/s and GB/s. `f32`, `bf16` and `gbps` are what shares are taken of; the rest says where they come from."""

    def __init__(self, device: str, threads: int):
        torch.set_num_threads(threads)
        self.info = self.gpu() if device == "cuda" else self.cpu()

    def cpu(self) -> dict:
        matmul = {name: torch_matmul("cpu", getattr(torch, name), 1536) for name in ("float32", "bfloat16")}
        try:
            from dlperf import _C
        except ImportError:
            bandwidth = {"copy": torch_copy("cpu", COPY_BYTES)}
            source = "torch.matmul and a torch copy: dlperf._C is not built here"
            return self.summary(matmul["float32"], matmul["bfloat16"], source, bandwidth, {}, matmul)
        loops, bandwidth = cpu_loops(_C), cpu_bandwidth(_C)
        usable = [loops[isa] for isa in _C.ISAS[: _C.ISAS.index(_C.isa()) + 1]]
        f32 = max(loop["f32"] for loop in usable)
        # Where dot products of bfloat16 are slower than widening to float32, the latter is the ceiling.
        bf16 = max(f32, *(loop.get("bf16", 0.0) for loop in usable))
        source = "multiply-add loops from registers and a large copy"
        return self.summary(f32, bf16, source, bandwidth, loops, matmul)

    def gpu(self) -> dict:
        matmul = {name: torch_matmul("cuda", getattr(torch, name), 8192) for name in ("float32", "bfloat16")}
        bandwidth = {"copy": torch_copy("cuda", 2**31)}
        source = "torch.matmul 8192^3 and a 2 GiB copy"
        return self.summary(matmul["float32"], matmul["bfloat16"], source, bandwidth, {}, matmul)

    def summary(self, f32, bf16, source, bandwidth, loops, matmul) -> dict:
        gbps = max(bandwidth.values())
        details = {"bandwidth": bandwidth, "loops": loops, "torch_matmul": matmul}
        return {"f32": f32, "bf16": bf16, "gbps": gbps, "source": source, **details}

    def step(self):
        raise NotImplementedError("ceilings are measured at set-up")


def ceilings_job(device: str, threads: int) -> CeilingsJob:
    return CeilingsJob(device, threads)
