from __future__ import annotations

import torch

from ._case import Case

# Levels of the linear schedule at steps 500 and 499 of 1000, and at the last step.
MIDDLE, LAST = (0.078, 0.0788), (0.9999, 1.0)


def _step(function: str, id: str, shape=(3, 2, 5, 7), levels=MIDDLE, guided=False, last=False, **kwargs) -> Case:
    def arguments(make):
        def tensor(grad=True):
            x = make(*shape, grad=grad)
            return x.detach().contiguous(memory_format=torch.channels_last).requires_grad_(grad) if last else x

        given = dict(kwargs)
        if "seed" not in given and not (function == "ddim_step" and not given.get("eta")):
            given["noise"] = tensor(grad=False)
        if guided:
            given |= {"uncond": tensor(), "guidance_scale": 3.5}
        return (tensor(), tensor(), *levels), given

    return Case(f"diffusion.{function}", f"{function}-{id}", arguments)


def _forward(function: str, id: str, *shape: int) -> Case:
    def arguments(make):
        table = torch.linspace(0.99, 0.01, 50, dtype=torch.float64, device=make.device)
        return (make(*shape), make(*shape, grad=False), table, make.integers(0, 50, shape[0])), {}

    return Case(f"diffusion.{function}", f"{function}-{id}", arguments)


CASES = [
    *(_step("ddpm_step", f"n{n}", shape=(1, n)) for n in (1, 7, 8, 9, 15, 16, 17, 63, 64, 65, 5000)),
    *(_step("ddpm_step", kind, prediction_type=kind) for kind in ("sample", "v_prediction")),
    _step("ddpm_step", "clipped", clip_range=1.0, return_x0=True),
    _step("ddpm_step", "large", variance="fixed_large"),
    _step("ddpm_step", "last", levels=LAST, clip_range=1.0),
    _step("ddpm_step", "guided", guided=True),
    _step("ddpm_step", "nhwc", last=True, guided=True),
    _step("ddpm_step", "empty", shape=(0, 3, 4)),
    *(_step("ddpm_step", f"seed-n{n}", shape=(3, n), seed=5, step=7) for n in (1, 3, 31, 32, 33, 63, 64, 65, 4100)),
    _step("ddpm_step", "seed-nhwc", last=True, seed=-9, first_sample=4),
    *(_step("ddim_step", kind, prediction_type=kind) for kind in ("epsilon", "sample", "v_prediction")),
    _step("ddim_step", "eta", eta=0.7, clip_range=1.5, return_x0=True),
    _step("ddim_step", "from-clipped", clip_range=0.5, use_clipped_model_output=True),
    _step("ddim_step", "guided-seed", eta=1.0, guided=True, seed=3),
    _forward("add_noise", "images", 4, 3, 9, 5),
    _forward("add_noise", "long", 2, 9001),
    _forward("velocity", "images", 4, 3, 9, 5),
]
