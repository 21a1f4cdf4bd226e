"""What a worker runs: one engine on one case, and the float64 reference that all are checked against."""

import contextlib
from functools import partial
from pathlib import Path

import torch

from .models import Inputs, find, seeded
from .peers import Case

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
# An output passes within twice torch's own error for the dtype, or this where that is smaller. The first is what
# Winograd convolution may cost a whole model.
ERROR_FLOOR = {"f32": 1e-4, "bf16": 1e-2}
# Gradients of a deep ReLU network move by the square root of what its activations move by: each mask that flips changes
# them by a whole term. So in training twice the error that noise makes is allowed too, put on torch's own convolutions.
# Its root mean square, relative to a layer's largest output, is what Winograd's kernels measure.
LAYER_NOISE = 2e-7
LEARNING_RATE = 1e-3


def rel_err(got: torch.Tensor, reference: torch.Tensor) -> float:
    """||got - reference|| / ||reference||; infinite where anything is not finite."""
    got = got.detach().to("cpu", torch.float64)
    if got.shape != reference.shape or not torch.isfinite(got).all():
        return float("inf")
    reference = reference.double()
    return float((got - reference).norm() / reference.norm().clamp_min(1e-300))


def finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if value < float("inf") else None


class ModelSteps:
    """A module with the inference or the training step that is timed. Every torch engine is one of these."""

    def __init__(
        self,
        module,
        inputs: Inputs,
        target,
        case: Case,
        no_gradient=torch.inference_mode,
        dtype: str | None = None,
        functional=torch.nn.functional,
    ):
        self.module, self.inputs, self.target, self.case = module, inputs, target, case
        self.no_gradient = no_gradient
        self.loss_function = getattr(functional, find(case.model).loss)
        dtype = DTYPES[dtype or case.dtype] if inputs[0].dtype != torch.float64 else torch.float64
        self.autocast = contextlib.nullcontext
        if case.mode == "train":
            module.train()
            self.optimizer = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4)
            if dtype == torch.bfloat16:
                self.autocast = lambda: torch.autocast(case.device, dtype=torch.bfloat16)
        else:
            module.eval()
            if dtype == torch.bfloat16:
                module.to(torch.bfloat16)
                self.inputs = cast(inputs, torch.bfloat16)

    def loss(self) -> torch.Tensor:
        with self.autocast():
            return self.loss_function(self.module(*self.inputs), self.target)

    def step(self):
        if self.case.mode == "inference":
            with self.no_gradient():
                return self.module(*self.inputs)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        return loss

    def result(self) -> dict[str, torch.Tensor]:
        """What is compared: the scores; in training the loss and all gradients, before the first step."""
        if self.case.mode == "inference":
            return {"scores": self.step().cpu()}
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        # float32 also from the reference: its rounding is far below what is compared, the file half as large.
        gradients = [p.grad.detach().float().flatten().cpu() for p in self.module.parameters()]
        return {"loss": loss.detach().cpu().reshape(1), "gradients": torch.cat(gradients)}


def cast(tensors: Inputs, dtype: torch.dtype, device=None) -> Inputs:
    """Floating tensors in the dtype, all on the device."""
    return tuple(t.to(device, dtype) if t.is_floating_point() else t.to(device) for t in tensors)


def channels_last(tensors: Inputs) -> Inputs:
    return tuple(t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in tensors)


def load(case: Case, dtype=torch.float32) -> tuple[dict, Inputs, torch.Tensor]:
    """(state_dict, inputs, target) of the case, on its device."""
    directory = Path(case.directory)
    state = torch.load(directory / "state.pt", weights_only=True)
    *inputs, target = cast(torch.load(directory / "inputs.pt", weights_only=True), dtype, case.device)
    return state, tuple(inputs), target


def torch_steps(engine: str, case: Case) -> ModelSteps:
    state, inputs, target = load(case)
    model = find(case.model).build(torch.nn)
    model.load_state_dict(state)
    model.to(case.device)
    if engine != "eager":
        model.to(memory_format=torch.channels_last)
        inputs = channels_last(inputs)
    if not engine.startswith("compile"):
        return ModelSteps(model, inputs, target, case)
    torch.compiler.reset()  # what an earlier job of this process compiled
    torch._inductor.config.freezing = case.mode == "inference"
    if case.device == "cuda":
        return ModelSteps(torch.compile(model, mode="max-autotune"), inputs, target, case, torch.no_grad)
    return ModelSteps(torch.compile(model), inputs, target, case, torch.no_grad)


def dlperf_steps(engine: str, case: Case) -> ModelSteps:
    import dlperf

    state, inputs, target = load(case)
    optimize = engine == "dlperf-optimize"
    model = find(case.model).build(torch.nn if optimize else dlperf.nn)
    model.load_state_dict(state)
    model.to(case.device)
    inputs = channels_last(inputs)
    if optimize and case.mode == "inference":
        model = dlperf.optimize(model.eval(), mode="inference", dtype=DTYPES[case.dtype])
        return ModelSteps(model, inputs, target, case, dtype="f32")  # it casts by itself
    model = dlperf.optimize(model) if optimize else model
    return ModelSteps(model, inputs, target, case, functional=dlperf.nn.functional)


class FunctionSteps:
    """An engine outside torch: a function from the input arrays to the scores."""

    def __init__(self, function, inputs: Inputs):
        self.function, self.arrays = function, [t.numpy() for t in inputs]

    def step(self):
        return self.function(self.arrays)

    def result(self) -> dict[str, torch.Tensor]:
        return {"scores": torch.as_tensor(self.step())}


def onnxruntime_steps(engine: str, case: Case) -> FunctionSteps:
    import onnxruntime

    state, inputs, _ = load(case)
    model = find(case.model).build(torch.nn)
    model.load_state_dict(state)
    names = [f"x{i}" for i in range(len(inputs))]
    path = Path(case.directory) / f"model-{case.batch}.onnx"
    torch.onnx.export(
        model.eval(), inputs, path, dynamo=True, input_names=names, output_names=["scores"], verbose=False
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return FunctionSteps(lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0], inputs)


def openvino_steps(engine: str, case: Case) -> FunctionSteps:
    import openvino

    state, inputs, _ = load(case)
    model = find(case.model).build(torch.nn)
    model.load_state_dict(state)
    converted = openvino.convert_model(model.eval(), example_input=inputs, input=[list(t.shape) for t in inputs])
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": case.threads,
        "INFERENCE_PRECISION_HINT": case.dtype,
    }
    compiled = openvino.Core().compile_model(converted, "CPU", hints)
    return FunctionSteps(lambda arrays: compiled(arrays, share_inputs=True, share_outputs=True)[0], inputs)


BUILDERS = {"onnxruntime": onnxruntime_steps, "openvino": openvino_steps}


class EngineJob:
    """Sets an engine up, checks it against the reference, then steps."""

    def __init__(self, engine: str, case: Case):
        torch.set_num_threads(case.threads)
        build = BUILDERS.get(engine, dlperf_steps if engine.startswith("dlperf") else torch_steps)
        self.steps = build(engine, case)
        self.step = self.steps.step
        if engine == "dlperf-optimize" and case.mode == "train":
            for _ in range(2):  # what is checked is what is timed: the steps that are captured once two were seen
                self.steps.result()
        reference = torch.load(Path(case.directory) / f"reference-{case.mode}.pt", weights_only=True)
        errors = {key: rel_err(value, reference[key]) for key, value in self.steps.result().items()}
        floor, torch_error = ERROR_FLOOR[case.dtype], reference["torch_error"][case.dtype]
        allowed = {key: max(floor, 2 * torch_error[key]) for key in errors}
        worst = max(errors, key=lambda key: errors[key] / allowed[key])
        self.info = {
            "rel_err": finite(errors[worst]),
            "tolerance": allowed[worst],
            "passed": errors[worst] <= allowed[worst],
        }


def model_job(engine: str, case: dict) -> EngineJob:
    return EngineJob(engine, Case(**case))


class ReferenceJob:
    """Writes reference-<mode>.pt: float64 results, and torch eager's own error against them per dtype.

    In float32 training that is the larger of its error and of its error with LAYER_NOISE.
    """

    def __init__(self, case: Case, dtypes: list[str]):
        torch.set_num_threads(case.threads)
        truth = self.result(case, torch.float64)
        torch_error = {}
        for dtype in dtypes:
            its_case = Case(**{**vars(case), "dtype": dtype})
            runs = [self.result(its_case, torch.float32)]
            if case.mode == "train" and dtype == "f32":
                runs.append(self.result(its_case, torch.float32, LAYER_NOISE))
            torch_error[dtype] = {key: max(rel_err(got[key], truth[key]) for got in runs) for key in truth}
        path = Path(case.directory) / f"reference-{case.mode}.pt"
        torch.save({**truth, "torch_error": torch_error}, path)
        self.info = {"torch_error": torch_error}

    def result(self, case: Case, dtype: torch.dtype, noise: float = 0.0) -> dict[str, torch.Tensor]:
        state, inputs, target = load(case, dtype)
        model = find(case.model).build(torch.nn).to(dtype)
        model.load_state_dict(state)
        if noise:
            generator = torch.Generator().manual_seed(0)
            for module in model.modules():
                if isinstance(module, torch.nn.Conv2d):
                    module.register_forward_hook(partial(_add_noise, noise, generator))
        return ModelSteps(model.to(case.device), inputs, target, case).result()


def _add_noise(size: float, generator: torch.Generator, module, inputs, output: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(output.shape, generator=generator, dtype=output.dtype).to(output.device)
    return output + noise * (size * output.detach().abs().max())


def reference_job(case: dict, dtypes: list[str]) -> ReferenceJob:
    return ReferenceJob(Case(**case), dtypes)


def prepare(case: Case, checkpoint: str | None) -> str:
    """Writes state.pt and inputs.pt of a case; says what the inputs are."""
    directory = Path(case.directory)
    model = seeded(case.model)
    if checkpoint is not None:
        model.load_state_dict(read_checkpoint(checkpoint))
    inputs, what = find(case.model).inputs(case.batch)
    torch.save(model.state_dict(), directory / "state.pt")
    torch.save((*inputs, find(case.model).target(case.batch)), directory / "inputs.pt")
    return what


def read_checkpoint(path: str) -> dict[str, torch.Tensor]:
    """A state_dict from a .safetensors file or from torch.save; one level of {"state_dict": ...} is unwrapped."""
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state.get("state_dict", state)
