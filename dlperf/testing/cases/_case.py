"""What a case is: a public function, and arguments that are made anew for each dtype and device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


class Maker:
    """Makes a case's tensors: the same values for every dtype up to rounding, seeded.

    Args:
        dtype: of floating tensors.
        device: where they are made.
        seed: of the generator.
    """

    def __init__(self, dtype: torch.dtype, device: str = "cpu", seed: int = 0):
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(
        self,
        *shape: int,
        grad: bool = True,
        scale: float = 1.0,
        shift: float = 0.0,
        memory_format: torch.memory_format | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Normal deviates times scale plus shift. With ``grad`` the case's gradient for it is checked too."""
        x = torch.randn(shape, generator=self.generator, dtype=torch.float64) * scale + shift
        x = x.to(dtype or self.dtype).to(self.device)
        if memory_format is not None:
            x = x.contiguous(memory_format=memory_format)
        return x.requires_grad_(grad)

    def positive(self, *shape: int, grad: bool = False, dtype: torch.dtype | None = None) -> Tensor:
        """Uniform in [0.5, 1.5): variances, scales."""
        x = torch.rand(shape, generator=self.generator, dtype=torch.float64) + 0.5
        return x.to(dtype or self.dtype).to(self.device).requires_grad_(grad)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator).to(self.device)


@dataclass(frozen=True)
class Case:
    """One call of a public function.

    Args:
        function: its name in dlperf.nn.functional, or "diffusion." and its name in dlperf.diffusion.functional,
            or "ops.dropout_op".
        id: unique within the family, short.
        make: ``make(maker) -> (args, kwargs)``; floating tensors that require grad have their gradients checked.
        reduction: how many terms an output element sums; for gradients, ``grad_reduction``.
        gradients: False where the function has none.
        dtypes: the dtypes it makes sense in.
    """

    function: str
    id: str
    make: Callable[[Maker], tuple[tuple, dict]]
    reduction: int = 1
    grad_reduction: int | None = None
    gradients: bool = True
    dtypes: tuple[torch.dtype, ...] = field(default=(torch.float32, torch.bfloat16, torch.float16))

    def __str__(self) -> str:
        return f"{self.function}-{self.id}"
