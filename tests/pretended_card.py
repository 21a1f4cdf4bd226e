"""A GPU of compute capability 9.0 with 132 multiprocessors, as far as torch and the launchers can tell: its tensors are
meta tensors, and a kernel's launch is noted instead of run."""

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from dlperf.backends import triton as backend
from dlperf.kernels import _launch, upsample

NAME = "NVIDIA Pretended"


class OnCard(torch.Tensor):
    """A meta tensor that says that it lies on a GPU."""

    index = 0
    is_cuda = property(lambda self: True)
    device = property(lambda self: torch.device("cuda", self.index))

    def get_device(self):
        return self.index


def on_card(*size, dtype=torch.float32, index=0):
    x = torch.empty(size, dtype=dtype, device="meta").as_subclass(OnCard)
    x.index = index
    return x


def _plain(value):
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("meta")
    return value.as_subclass(torch.Tensor) if isinstance(value, OnCard) else value


def _marked(value):
    return value.as_subclass(OnCard) if type(value) is torch.Tensor and value.is_meta else value


class _Mode(TorchFunctionMode):
    """What is made of such tensors, or asked for on a GPU, is such a tensor."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("__get__", "get_device"):  # properties: the tensor's own
            return func(*args, **(kwargs or {}))
        args, kwargs = tree_map(_plain, (args, kwargs or {}))
        if str(kwargs.get("device")).startswith("cuda"):
            kwargs["device"] = "meta"
        return tree_map(_marked, func(*args, **kwargs))


def pretend(monkeypatch, capability=(9, 0)):
    """For the rest of the test."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=None: NAME)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(_launch, "_properties", lambda index: (capability[0] * 10 + capability[1], 132))
    backend._why_not_device.cache_clear()


@contextlib.contextmanager
def noting_launches(monkeypatch):
    """The launches that the launchers make on such tensors: (kernel, device, grid, arguments, constants, warps,
    stages)."""
    noted = []
    monkeypatch.setattr(_launch.Kernel, "_launch", lambda self, *args: noted.append((self, *args)))
    upsample._axis.cache_clear()  # tables by size and device
    with _Mode():
        yield noted
    upsample._axis.cache_clear()
