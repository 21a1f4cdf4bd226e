"""Where the kernels' random numbers come from. The contract: docs/math/random.md."""

from __future__ import annotations

import torch
from torch import Tensor


def random_pair(device: torch.device) -> Tensor:
    """(seed, offset): two int64 from torch's generator of the device, so torch.manual_seed governs the kernels."""
    return torch.randint(0, 2**62, (2,), dtype=torch.int64, device=device)
