"""Whether compiled kernels may be called without triton's binder.

Calling the object that a launch returns costs a fraction of another launch, but how it is called is no interface that
triton promises. So before a process does it, a small kernel with every kind of argument is launched both ways. Where
the call fails or the results differ, all launches go through the binder and ``dlperf info`` says why.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_checked = False
_reason: str | None = None


@triton.jit
def probe_kernel(x, absent, y, one, n, scale, SHIFT: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < n, other=0.0) * scale + one + SHIFT
    if absent is not None:
        value += tl.load(absent + at, mask=at < n, other=0.0)
    tl.store(y + at, value, mask=at < n)


def works() -> bool:
    """Whether the direct call was seen to work. While a CUDA graph is captured nothing can be looked at: no, for
    now."""
    global _checked, _reason
    if not _checked:
        if torch.cuda.is_current_stream_capturing():
            return False
        _reason = _try(torch.device("cuda", torch.cuda.current_device()))
        _checked = True
    return _reason is None


def why_not() -> str | None:
    """None where the direct call works, else what went wrong."""
    works()
    return _reason


def _try(device: torch.device) -> str | None:
    x = torch.arange(64, dtype=torch.float32, device=device)
    y = torch.full((2, 64), -1.0, device=device)
    constants = {"SHIFT": 3, "BLOCK": 64}
    sync_mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("default")  # reading y waits for the GPU, once in a process
    try:
        compiled = probe_kernel[(1,)](x, None, y[0], 1, 32, 2.0, num_warps=1, **constants)
        compiled[(1, 1, 1)](x, None, y[1], 1, 48, 0.5, *constants.values())
        found = y.tolist()
    except Exception as error:  # whatever another triton may raise
        return f"triton {triton.__version__}: {type(error).__name__}: {error}"
    finally:
        torch.cuda.set_sync_debug_mode(sync_mode)
    expected = [[i * scale + 4 if i < n else -1 for i in range(64)] for n, scale in ((32, 2.0), (48, 0.5))]
    return None if found == expected else f"triton {triton.__version__}: a kernel called so gave a wrong result"
