"""What a worker runs in the diffusion suite: a sampler's step, whole loops, training steps, latent diffusion's parts.

Each job checks its engine before anything is timed: against float64, on the inputs and noise that the engine saw.
"""

import copy

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import dlperf
from dlperf import diffusion
from dlperf.diffusion import data
from dlperf.diffusion.models import default_config
from dlperf.diffusion.train import TrainConfig, Trainer

from .engines import ERROR_FLOOR, finite, rel_err
from .models import MODELS, seeded
from .public_models import package

STEP_TOLERANCE = 1e-5
SAMPLES_TOLERANCE = 2e-3  # a quarter of a grey level, for pictures in -1..1
STEPS, PLACE = 50, 25  # a sampler's step is timed in the middle of this many
CHECKED_STEPS = 5  # of a whole loop
CHECKED_SAMPLES = 2  # of a step's batch
SEED = 7


def verdict(error: float, tolerance: float, **more) -> dict:
    return {"rel_err": finite(error), "tolerance": tolerance, "passed": error <= tolerance, **more}


def scheduler_of(engine: str, name: str):
    """ "ddpm" or "ddim", dlperf's or diffusers'."""
    library = diffusion if engine == "dlperf" else package("diffusers")
    return {"ddpm": library.DDPMScheduler, "ddim": library.DDIMScheduler}[name]()


# --- one step of a sampler ------------------------------------------------------------------------


class StepJob:
    """`ddim`: no noise; `ddim-noise`: eta 1, the noise passed in; `ddpm`: each makes its own noise."""

    def __init__(self, engine: str, variant: str, shape: list[int], threads: int):
        torch.set_num_threads(threads)
        draw = torch.Generator().manual_seed(0)
        self.engine, self.variant = engine, variant
        self.x, self.m, self.z = (torch.randn(shape, generator=draw) for _ in range(3))
        self.scheduler = scheduler_of(engine, variant.removesuffix("-noise"))
        self.scheduler.set_timesteps(STEPS)
        self.t = self.scheduler.timesteps[PLACE]
        self.step = self.plain
        if engine == "diffusers-compile":
            torch.compiler.reset()
            self.t = int(self.t)  # a constant: a compiled step for each timestep, the best that compiling can do
            self.step = torch.compile(self.plain)
        self.info = self.check()

    def plain(self) -> Tensor:
        scheduler, more = self.scheduler, {}
        if self.variant == "ddim-noise":
            more = {"eta": 1.0, "variance_noise": self.z}
        elif self.variant == "ddpm" and self.engine == "dlperf":
            more = {"seed": SEED}
        return scheduler.step(self.m, self.t, self.x, **more, return_dict=False)[0]

    def check(self) -> dict:
        torch.manual_seed(0)
        got = self.step()
        rows = slice(0, CHECKED_SAMPLES)
        x, m = self.x[rows].double(), self.m[rows].double()
        truth = scheduler_of("dlperf", self.variant.removesuffix("-noise"))
        truth.set_timesteps(STEPS)
        more = {}
        if self.variant == "ddim-noise":
            more = {"eta": 1.0, "variance_noise": self.z[rows].double()}
        elif self.variant == "ddpm" and self.engine == "dlperf":
            more = {"seed": SEED}
        elif self.variant == "ddpm":
            return self.check_moments(got, truth, x, m)
        with dlperf.backend("reference"):
            expected = truth.step(m, int(self.t), x, **more).prev_sample
        return verdict(rel_err(got[rows], expected), STEP_TOLERANCE)

    def check_moments(self, got: Tensor, truth, x: Tensor, m: Tensor) -> dict:
        """torch's noise, alone or compiled: what is left of the step without the mean has DDPM's variance."""
        levels = truth._alpha_bars[int(self.t)], truth._alpha_bars[truth.previous_timestep(int(self.t))]
        with dlperf.backend("reference"):
            mean = diffusion.ddpm_step(m, x, *levels, noise=torch.zeros_like(x), clip_range=1.0)
        noise = got[: len(x)].double() - mean
        sigma = ((1 - levels[1]) / (1 - levels[0]) * (1 - levels[0] / levels[1])) ** 0.5
        count = noise.numel()
        error = max(abs(float(noise.mean())) / sigma, abs(float(noise.std()) / sigma - 1))
        return verdict(error, 5 / count**0.5)  # five standard errors


def step_job(**args) -> StepJob:
    return StepJob(**args)


# --- whole loops ----------------------------------------------------------------------------------


def diffusers_unet(name: str) -> torch.nn.Module:
    """diffusers' UNet2DModel with the weights of the benchmark's model."""
    widths = (128, 256, 256, 256) if name == "unet_cifar10" else (32, 64)
    blocks = ["Attn" if level == 1 else "" for level in range(len(widths))]
    model = package("diffusers").UNet2DModel(
        sample_size=32 if name == "unet_cifar10" else 8,
        in_channels=3 if name == "unet_cifar10" else 1,
        out_channels=3 if name == "unet_cifar10" else 1,
        block_out_channels=widths,
        layers_per_block=2 if name == "unet_cifar10" else 1,
        down_block_types=tuple(f"{block}DownBlock2D" for block in blocks),
        up_block_types=tuple(f"{block}UpBlock2D" for block in reversed(blocks)),
        norm_num_groups=32 if name == "unet_cifar10" else 8,
        norm_eps=1e-6,
        freq_shift=1,
        flip_sin_to_cos=False,
        downsample_padding=0,
        attention_head_dim=None,
    )
    model.load_state_dict(seeded(name).state_dict())
    return model.eval()


class SamplingJob:
    """Pictures from noise: dlperf.diffusion.sample, or diffusers' pipeline."""

    def __init__(self, engine: str, model: str, scheduler: str, steps: int, batch: int, threads: int):
        torch.set_num_threads(threads)
        self.name, self.kind, self.ours = model, scheduler, engine == "dlperf"
        size = {"unet_cifar10": (3, 32, 32), "unet_digits": (1, 8, 8)}[model]
        self.shape, self.steps = (batch, *size), steps
        self.scheduler = scheduler_of("dlperf" if self.ours else "diffusers", scheduler)
        if self.ours:
            self.model = dlperf.optimize(seeded(model).eval(), mode="inference")
        else:
            unet = diffusers_unet(model).to(memory_format=torch.channels_last)
            library = package("diffusers")
            pipeline = library.DDIMPipeline if scheduler == "ddim" else library.DDPMPipeline
            self.pipeline = pipeline(unet, self.scheduler)
            self.pipeline.set_progress_bar_config(disable=True)
            if engine == "diffusers-compile":
                torch.compiler.reset()
                torch._inductor.config.freezing = True
                self.pipeline.unet = torch.compile(unet)
        got = self.samples(CHECKED_STEPS)
        self.info = verdict(rel_err(got, self.reference()), SAMPLES_TOLERANCE)

    def samples(self, steps: int) -> Tensor:
        if self.ours:
            return diffusion.sample(self.model, self.shape, steps, self.scheduler, seed=SEED, progress=False)
        generator = torch.Generator().manual_seed(SEED)
        arguments = {"generator": generator, "num_inference_steps": steps, "output_type": "np"}
        images = self.pipeline(self.shape[0], **arguments).images
        return torch.from_numpy(images).permute(0, 3, 1, 2)  # in 0..1

    def step(self) -> Tensor:
        return self.samples(self.steps)

    def reference(self) -> Tensor:
        """The same loop with the network in float64 and the reference's steps."""
        network, scheduler = seeded(self.name).double().eval(), copy.deepcopy(self.scheduler)
        scheduler.set_timesteps(CHECKED_STEPS)
        generator = torch.Generator().manual_seed(SEED)
        more = {"seed": SEED} if self.ours else {"generator": generator}
        with torch.no_grad(), dlperf.backend("reference"):
            x = diffusion.initial_noise(self.shape, SEED) if self.ours else torch.randn(self.shape, generator=generator)
            for t in scheduler.timesteps:
                m = network(x.double(), t.expand(len(x))).float()
                x = scheduler.step(m, t, x, **more).prev_sample
        return x if self.ours else (x / 2 + 0.5).clamp(0, 1)


def sampling_job(**args) -> SamplingJob:
    return SamplingJob(**args)


# --- training -------------------------------------------------------------------------------------


def pictures_of(model: str) -> data.Pictures:
    """The benchmark's own pictures, as `dlperf train-ddpm` would read them."""
    (noisy, _), _ = MODELS[model].inputs(64)
    levels = ((noisy.clamp(-1, 1) + 1) * 127.5).to(torch.uint8)
    return data.Pictures(model, levels)


class TrainJob:
    """One step of `dlperf train-ddpm`: batch, forward process, network, loss, AdamW, averaged weights."""

    def __init__(self, engine: str, model: str, batch: int, threads: int):
        torch.set_num_threads(threads)
        layers = dlperf.nn if engine == "dlperf" else torch.nn
        pictures = pictures_of(model)
        config = default_config("unet", pictures.images.shape[1], pictures.images.shape[2], 0)
        self.run = Trainer(TrainConfig(config, batch=batch), pictures, layers)
        if engine == "compile":
            torch.compiler.reset()
            self.run.model.compile()
        self.step = self.run.step
        self.info = self.check(engine)

    def gradients(self, run: Trainer, dtype: torch.dtype) -> Tensor:
        x, noise, t, _ = run.batch(0)
        noisy = run.scheduler.add_noise(x, noise, t)
        predicted = run.model(noisy.to(dtype), t)
        loss = torch.nn.functional.mse_loss(predicted, noise.to(dtype))
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(run.model.parameters()))])

    def check(self, engine: str) -> dict:
        plain = Trainer(self.run.config, self.run.pictures, torch.nn)
        eager = self.gradients(plain, torch.float32)
        plain.model.double()
        truth = self.gradients(plain, torch.float64)
        tolerance = max(ERROR_FLOOR["f32"], 2 * rel_err(eager, truth))
        return verdict(rel_err(self.gradients(self.run, torch.float32), truth), tolerance)


def train_job(**args) -> TrainJob:
    return TrainJob(**args)


# --- latent diffusion -----------------------------------------------------------------------------


def cross_attention_unet(batch: int):
    """diffusers' UNet2DConditionModel: latents 4x32x32, 77 tokens of text."""
    model = package("diffusers").UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(128, 256, 256),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=256,
        attention_head_dim=8,
    )
    return model, (torch.randn(batch, 4, 32, 32), torch.tensor(301), torch.randn(batch, 77, 256))


class Decoder(torch.nn.Module):
    """What turns latents into pictures: (N, 4, 32, 32) to (N, 3, 128, 128)."""

    def __init__(self):
        super().__init__()
        levels = 3
        vae = package("diffusers").AutoencoderKL(
            block_out_channels=(64, 128, 256),
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=1,
            latent_channels=4,
            sample_size=128,
        )
        self.post_quant_conv, self.decoder = vae.post_quant_conv, vae.decoder

    def forward(self, latents):
        return self.decoder(self.post_quant_conv(latents))


def decoder(batch: int):
    return Decoder(), (torch.randn(batch, 4, 32, 32),)


LATENT = {"cross-attention-unet": cross_attention_unet, "vae-decoder": decoder}


class LatentJob:
    """A model of latent diffusion as diffusers has it, random weights, in inference."""

    def __init__(self, engine: str, model: str, batch: int, threads: int):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        module, self.inputs = LATENT[model](batch)
        module.eval()
        self.module = module.to(memory_format=torch.channels_last)
        eager = self.step()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            wide = copy.deepcopy(module).double()
            truth = first(wide(*(t.double() if t.is_floating_point() else t for t in self.inputs)))
        if engine == "dlperf":
            self.module = dlperf.optimize(module, mode="inference")
        elif engine == "compile":
            torch.compiler.reset()
            torch._inductor.config.freezing = True
            self.module = torch.compile(module)
        tolerance = max(ERROR_FLOOR["f32"], 2 * rel_err(eager, truth))
        self.info = verdict(rel_err(self.step(), truth), tolerance, flops=counter.get_total_flops())

    def step(self) -> Tensor:
        with torch.no_grad():
            return first(self.module(*self.inputs))


def first(output) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def latent_job(**args) -> LatentJob:
    return LatentJob(**args)
