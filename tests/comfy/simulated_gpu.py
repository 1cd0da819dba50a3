"""A simulated GPU: tensors that claim to be on it are computed in main memory, and each crossing is recorded.

As on a real GPU, an operation cannot mix tensors of both memories, and the host waits where it reads a value, where a
size depends on values, or where it copies without "non_blocking". Results are those of the CPU, bit for bit. It does
not simulate the inside of attention kernels, streams, races, or copies that block in spite of "non_blocking".
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

GPU = torch.device("cuda", 0)
_CPU = torch.device("cpu")
_ATEN = torch.ops.aten
_COPIES = {_ATEN.to, _ATEN._to_copy, _ATEN.copy_}
_INDEXED = {_ATEN.index, _ATEN.index_put, _ATEN.index_put_}
# Some operations that return values or sizes to the host carry a tag for that; these do not.
_READS = {_ATEN.item, _ATEN.is_nonzero, _ATEN.allclose, _ATEN.argwhere, _ATEN.nonzero_numpy}
# The size of these results depends on values unless this argument is given.
_SIZED_BY = {_ATEN.where: "self", _ATEN.repeat_interleave: "output_size"}
_READ_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class GpuTensor(Tensor):
    """A tensor that claims to be on the GPU; `held` is the tensor in main memory that it wraps."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> GpuTensor:
        """Wrap a tensor."""
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=GPU,
        )
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse operations after the simulation has ended."""
        raise RuntimeError(f"{operation} on a tensor of a GPU that is no longer simulated")


@dataclass(frozen=True)
class Wait:
    """A wait of the host for the GPU.

    Attributes:
        operation: the operation that it waits for.
        calls: files and functions of the call stack, innermost first.
    """

    operation: str
    calls: tuple[tuple[str, str], ...]

    def is_inside(self, function: str) -> bool:
        """Whether a function of this name is on the call stack."""
        return any(name == function for _, name in self.calls)


@dataclass(frozen=True)
class Attention:
    """A call of torch's scaled_dot_product_attention.

    Attributes:
        queries, keys: the number of each.
        masked: whether a mask was given.
        cudnn: whether torch was allowed to choose cuDNN's kernel.
    """

    queries: int
    keys: int
    masked: bool
    cudnn: bool


class SimulatedGpu(TorchDispatchMode):
    """Dispatches all operations while it is entered.

    Attributes:
        waits: waits of the host, in order.
        attention: calls of torch's attention, in order.
        squarest: the largest second-longest side of all tensors that operations left on the GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        # With this, torch believes that there is a GPU, and starts no driver.
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE
        torch._C._ensureCUDADeviceGuardSet()
        self.waits: list[Wait] = []
        self.attention: list[Attention] = []
        self.squarest = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, in whichever memory its tensors are."""
        kwargs = kwargs or {}
        tensors = [each for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)]
        on_the_gpu = [each for each in tensors if isinstance(each, GpuTensor)]
        given = {argument.name: value for argument, value in zip(operation._schema.arguments, args, strict=False)}
        given |= kwargs
        name = operation.overloadpacket
        if name is _ATEN._has_compatible_shallow_copy_type:
            return len(on_the_gpu) in (0, len(tensors))
        asked = given.get("device")
        on_gpu = bool(on_the_gpu) if asked is None else torch.device(asked).type == GPU.type
        if name is _ATEN.copy_:
            on_gpu = isinstance(args[0], GpuTensor)
        if not on_the_gpu and not on_gpu:
            return operation(*args, **kwargs)
        self._check(operation, given, tensors, on_gpu)
        known = {id(each.held): each for each in on_the_gpu}

        def held(value: Any) -> Any:
            if isinstance(value, GpuTensor):
                return value.held
            return _CPU if isinstance(value, torch.device) else value

        def wrap(value: Any) -> Any:
            if not on_gpu or not isinstance(value, Tensor):
                return value
            self.squarest = max(self.squarest, sorted([0, 0, *value.shape])[-2])
            return known[id(value)] if id(value) in known else GpuTensor(value)

        with self._record_attention(given) if name is _ATEN.scaled_dot_product_attention else nullcontext():
            result = operation(*tree_map(held, args), **tree_map(held, kwargs))
        if name is _ATEN.copy_:
            return args[0]
        if name in _COPIES and bool(on_the_gpu) != on_gpu and result is held(given["self"]):
            return tree_map(wrap, result.clone())  # a copy to the other memory is a new tensor
        return tree_map(wrap, result)

    def _check(self, operation: Any, given: dict[str, Any], tensors: list[Tensor], on_gpu: bool) -> None:
        name = operation.overloadpacket
        in_main_memory = [each for each in tensors if not isinstance(each, GpuTensor)]
        if name in _COPIES:
            source = given["src"] if name is _ATEN.copy_ else given["self"]
            if isinstance(source, GpuTensor) != on_gpu and not (on_gpu and given.get("non_blocking")):
                self._wait(operation)
            return
        indices = [each for each in tree_iter(given.get("indices")) if isinstance(each, Tensor)]
        if name in _INDEXED:
            waits = any(each.dtype == torch.bool or not isinstance(each, GpuTensor) for each in indices)
            in_main_memory = [each for each in in_main_memory if all(each is not index for index in indices)]
        elif name in _SIZED_BY:
            waits = _SIZED_BY[name] not in given
        else:
            waits = name in _READS or bool(_READ_TAGS & set(operation.tags))
        if waits:
            self._wait(operation)
        if len(tensors) > len(in_main_memory) and any(each.dim() for each in in_main_memory):
            raise RuntimeError(f"{operation} of tensors on {GPU} and in main memory")

    @contextmanager
    def _record_attention(self, given: dict[str, Any]) -> Iterator[None]:
        q, k, mask = given["query"], given["key"], given.get("attn_mask")
        if mask is not None and mask.dtype not in (q.dtype, torch.bool):
            raise RuntimeError(f"attention of {q.dtype} with a mask of {mask.dtype}")
        cudnn = torch.backends.cuda.cudnn_sdp_enabled()
        self.attention.append(Attention(q.shape[-2], k.shape[-2], mask is not None, cudnn))
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):  # the usual choice on a CPU
            yield

    def _wait(self, operation: Any) -> None:
        frames = (frame.f_code for frame, _ in traceback.walk_stack(None))
        self.waits.append(Wait(str(operation), tuple((code.co_filename, code.co_name) for code in frames)))


@contextmanager
def simulate_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedGpu]:
    """Make ComfyUI find a GPU to compute on."""
    with monkeypatch.context() as patch, SimulatedGpu() as gpu:
        patch.setattr(comfy.model_management, "get_torch_device", lambda: GPU)
        patch.setattr(torch.cuda, "current_device", lambda: GPU.index)
        for function in ("set_device", "synchronize"):
            patch.setattr(torch.cuda, function, lambda device=None: None)
        yield gpu
