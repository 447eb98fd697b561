"""A tensor on a device: an address, a shape and a dtype."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

ALIGNMENT = 256
"""Bytes; TensorRT requires it of every tensor, and CUDA allocates with it."""


@dataclass(frozen=True)
class Tensor:
    """A contiguous array at an address."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object
    """Keeps the memory alive."""
    on_host: bool = False
    """Whether the address is the host's, as of the size that `emit` crops to."""
    scaled: bool = False
    """Whether it holds uint16 pixels as float32 from 0 to 1."""

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def host_tensor(array: Array) -> Tensor:
    """Copy an array to aligned memory of the host."""
    memory = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    aligned = memory[-memory.ctypes.data % ALIGNMENT :][: array.nbytes].view(array.dtype).reshape(array.shape)
    aligned[...] = array
    return Tensor(aligned.ctypes.data, aligned.shape, aligned.dtype, aligned, on_host=True)
