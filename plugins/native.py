"""Python bindings for the native libraries' C interface (core/deform_conv.h), for tests and benchmarks."""

import ctypes
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from zsm.errors import PluginError

Array = NDArray[Any]

FUNCTIONS = (
    *("zsm_threads", "zsm_last_error", "zsm_cuda_architectures"),
    *(f"zsm_deform_conv2d_{name}" for name in ("output_size", "reference", "cpu", "cuda")),
    *(f"zsm_deform_conv2d_cuda_{name}" for name in ("kernels", "workspace")),
)
"""What each of our libraries exports."""

REMEDY = "build it again (docs/profiling.md), or set ZSM_PLUGIN_DIR"


class Kernel(IntEnum):
    """The CUDA kernels: zsm_cuda_kernel."""

    AUTO = 0
    PLAIN = 1
    FUSED_RESIDENT = 2
    FUSED_STREAMED = 3


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """The attributes of ONNX's DeformConv."""

    kernel_shape: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1
    offset_group: int = 1


class Shape(ctypes.Structure):
    """zsm_deform_conv2d_shape."""

    _fields_ = tuple(
        (name, ctypes.c_int32)
        for name in (
            *("batch", "channels", "height", "width", "outputs"),
            *("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w"),
            *("pad_top", "pad_left", "pad_bottom", "pad_right", "groups", "offset_groups"),
        )
    )

    @classmethod
    def of(cls, x: tuple[int, ...], outputs: int, attributes: Attributes) -> Self:
        """The shape for an input (N,C,H,W) and a number of output channels."""
        a = attributes
        return cls(*x, outputs, *a.kernel_shape, *a.strides, *a.dilations, *a.pads, a.group, a.offset_group)


class Tensors(ctypes.Structure):
    """zsm_deform_conv2d_tensors: addresses, on the host or the device."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("x", "offset_mask", "weight", "bias", "out"))


class Core:
    """Any of our libraries; each exports the C interface. Raises PluginError for calls that it refuses."""

    def __init__(self, path: Path) -> None:
        """Load a library; raises PluginError if that fails."""
        try:
            self._library = ctypes.CDLL(str(path))
        except OSError as error:
            raise PluginError(f"{path} can't be loaded: {error}; {REMEDY}") from error
        try:
            for name in FUNCTIONS:
                getattr(self._library, name)
        except AttributeError as error:
            raise PluginError(f"{path} is of another version, or not ours: {error}; {REMEDY}") from error
        self._library.zsm_last_error.restype = ctypes.c_char_p
        self._library.zsm_cuda_architectures.restype = ctypes.c_char_p
        self._library.zsm_deform_conv2d_cuda_workspace.restype = ctypes.c_int64

    def cuda_architectures(self) -> tuple[str, ...]:
        """The GPU architectures the library has code for; empty if it was built without CUDA."""
        return tuple(self._library.zsm_cuda_architectures().decode().split())

    def output_size(self, shape: Shape) -> tuple[int, int]:
        """Height and width of the output."""
        height, width = ctypes.c_int32(), ctypes.c_int32()
        self._call("output_size", shape, ctypes.byref(height), ctypes.byref(width))
        return height.value, width.value

    def operands(self, shape: Shape) -> dict[str, tuple[int, ...]]:
        """The shapes that the other inputs must have."""
        kernel = shape.kernel_h, shape.kernel_w
        logits = shape.offset_groups * shape.kernel_h * shape.kernel_w
        return {
            "offset_mask": (shape.batch, 3 * logits, *self.output_size(shape)),
            "weight": (shape.outputs, shape.channels // shape.groups, *kernel),
            "bias": (shape.outputs,),
        }

    def reference(self, attributes: Attributes, *inputs: Array) -> Array:
        """Run the readable implementation on x, offset_mask, weight and bias."""
        return self._on_host("reference", attributes, inputs)

    def cpu(self, attributes: Attributes, *inputs: Array, threads: int = 1) -> Array:
        """Run the fast implementation on x, offset_mask, weight and bias."""
        return self._on_host("cpu", attributes, inputs, *self._threads(threads))

    def cpu_at(self, shape: Shape, dtype: DTypeLike, addresses: Tensors, threads: int) -> None:
        """Run the fast implementation on tensors that lie at these addresses."""
        self._call("cpu", shape, _type(dtype), ctypes.byref(addresses), *self._threads(threads))

    def cuda_kernels(self, shape: Shape, dtype: DTypeLike) -> list[Kernel]:
        """The CUDA kernels that support a shape on the current device, the probably fastest first."""
        found = (ctypes.c_int32 * 8)()
        count = self._library.zsm_deform_conv2d_cuda_kernels(ctypes.byref(shape), _type(dtype), found)
        return [Kernel(kernel) for kernel in found[:count]]

    def cuda_workspace(self, shape: Shape, dtype: DTypeLike) -> int:
        """Bytes of device memory that the fused kernels need beside the tensors; 0 where they don't take the shape."""
        return int(self._library.zsm_deform_conv2d_cuda_workspace(ctypes.byref(shape), _type(dtype)))

    def cuda(
        self,
        shape: Shape,
        dtype: DTypeLike,
        addresses: Tensors,
        *,
        channels_last: bool,
        kernel: Kernel = Kernel.AUTO,
        workspace: int | None = None,
        stream: int | None = None,
    ) -> None:
        """Launch a CUDA kernel on a stream (by default, the default stream) and return at once.

        `workspace` is the address of `cuda_workspace` bytes, which must stay allocated until the stream is done.
        """
        options = int(channels_last), int(kernel)
        pointers = ctypes.c_void_p(workspace), ctypes.c_void_p(stream)
        self._call("cuda", shape, _type(dtype), *options, ctypes.byref(addresses), *pointers)

    def _threads(self, count: int) -> tuple[object, object]:
        """The last two arguments of zsm_deform_conv2d_cpu."""
        return self._library.zsm_threads, ctypes.byref(ctypes.c_int32(count))

    def _on_host(self, name: str, attributes: Attributes, inputs: tuple[Array, ...], *rest: object) -> Array:
        tensors = [np.ascontiguousarray(tensor) for tensor in inputs]
        x, weight = tensors[0], tensors[2]
        shape = Shape.of(x.shape, weight.shape[0], attributes)
        out = np.full((x.shape[0], weight.shape[0], *self.output_size(shape)), np.nan, x.dtype)
        addresses = Tensors(*(tensor.ctypes.data for tensor in (*tensors, out)))
        self._call(name, shape, _type(x.dtype), ctypes.byref(addresses), *rest)
        return out

    def _call(self, name: str, shape: Shape, *arguments: object) -> None:
        status = getattr(self._library, f"zsm_deform_conv2d_{name}")(ctypes.byref(shape), *arguments)
        if status:
            raise PluginError(self._library.zsm_last_error().decode())


def _type(dtype: DTypeLike) -> int:
    types = {np.dtype(np.float32): 0, np.dtype(np.float16): 1}
    return types[np.dtype(dtype)]
