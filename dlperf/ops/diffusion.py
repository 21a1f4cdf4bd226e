"""Steps of diffusion samplers, and the forward process. Formulas and sources: docs/math/diffusion.md."""

from __future__ import annotations

from torch import Tensor

from ..memory import empty_like
from ._frame import Operator, backward_through_reference, save_inputs
from .batch_norm import memory_format


def diffusion_step_empty(
    x, model, uncond, noise, history, seed_offset, coefficients, first_sample, step, wants_x0
) -> tuple[Tensor, Tensor]:
    """The next sample and, where wanted, the predicted x0, both laid out as x."""
    layout = memory_format(x)
    x0 = empty_like(x, memory_format=layout) if wants_x0 else x.new_empty(0)
    return empty_like(x, memory_format=layout), x0


def add_noise_empty(x, noise, alpha_bar, timesteps, velocity) -> Tensor:
    return empty_like(x, memory_format=memory_format(x))


# coefficients: x0_from_x, x0_from_m, clip, from_x0, from_x, from_m, from_history, sigma, guidance, as in
# csrc/cpu/diffusion.h. seed_offset: two int64, {seed, offset}; sample b draws as sample first_sample + b.
diffusion_step = Operator(
    "diffusion_step(Tensor x, Tensor model, Tensor? uncond, Tensor? noise, Tensor? history, Tensor? seed_offset, "
    "float[] coefficients, int first_sample, int step, bool wants_x0) -> (Tensor, Tensor)",
    fake=diffusion_step_empty,
    setup=save_inputs,
    backward=backward_through_reference("diffusion_step"),
)

# alpha_bar: float64, the whole table; timesteps: int64, one for each sample, inside the table.
add_noise = Operator(
    "add_noise(Tensor x, Tensor noise, Tensor alpha_bar, Tensor timesteps, bool velocity) -> Tensor",
    fake=add_noise_empty,
    setup=save_inputs,
    backward=backward_through_reference("add_noise"),
)
