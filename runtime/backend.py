"""What the runtime asks of whatever executes a network's stages."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Tensor = Any
"""An array (n, ...) on the backend's device. Only its backend looks into it."""

Compute = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Stages and what is between them, from tensors by name to others."""


class Backend(Protocol):
    """The stages of one network, on one device.

    Stages and their inputs and outputs are those of the bundle: `ingest_<dtype>`, `extract`, `interpolate`,
    `propagate`, `reconstruct`, `emit_<dtype>`. A network without a recurrence has no `propagate`.
    """

    def inputs(self, stage: str) -> tuple[str, ...]:
        """The names of a stage's inputs; none if the network has no such stage."""
        ...

    def run(self, stage: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Execute a stage. Its outputs stay valid as long as they are referred to."""
        ...

    def repeat(self, name: str, compute: Compute, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """`compute(tensors)`: stages and what is between them, the same for all tensors of the same shapes.

        A GPU may record it once, and then launch it as one.
        """
        ...

    def adopt(self, frame: object) -> Any:
        """A frame (h,w,3) in the device's own memory as `DevicePixels`; anything else as it is."""
        ...

    def from_host(self, array: NDArray[Any]) -> Tensor:
        """Bring an array to the device; it is the caller's again."""
        ...

    def to_host(self, tensor: Tensor) -> Callable[[], NDArray[Any]]:
        """Begin to bring a tensor back; what is returned waits for it, and gives an array that the caller owns."""
        ...

    def export(self, tensor: Tensor) -> Any:
        """Pixels (1,h,w,3) as a frame (h,w,3) that the caller owns, in the device's memory."""
        ...

    def zeros_like(self, tensor: Tensor) -> Tensor:
        """A tensor of zeros, of the same shape and type."""
        ...

    def concatenate(self, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors (1,...) to one (n,...)."""
        ...

    def split(self, tensor: Tensor) -> list[Tensor]:
        """One tensor (n,...) to n tensors (1,...)."""
        ...

    def synchronize(self) -> None:
        """Wait until all that was begun is done; on a GPU, stages are only begun when `run` returns."""
        ...

    def describe(self) -> dict[str, Any]:
        """What executes where, in plain values."""
        ...

    def close(self) -> None:
        """Give back what the backend holds."""
        ...


@runtime_checkable
class DevicePixels(Protocol):
    """A frame (height, width, 3) in a device's memory, which its backend adopted."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width, 3."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The pixels' type."""
        ...

    @property
    def tensor(self) -> Tensor:
        """The backend's tensor (1, height, width, 3)."""
        ...


Pixels = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]
"""A frame or frames, (..., height, width, 3), RGB; float32 in [0, 1]."""
