"""The interface between the runtime and whatever executes a network's stages."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Tensor = Any
"""An array (n, ...) on the backend's device, opaque to the runtime."""

Pixels = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]
"""A frame (height, width, 3) or a clip (frames, height, width, 3), RGB; float32 in [0, 1]."""


class DevicePixels(Protocol):
    """A frame (height, width, 3) that lies in the device's memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...


class Backend(Protocol):
    """A network on one device."""

    def open(self, height: int, width: int) -> "Session":
        """Prepare the stages for frames of one size; returns the same session, or an equal one, each time."""
        ...

    def adopt(self, frame: object) -> DevicePixels | None:
        """View a frame that lies in the device's memory; None if it doesn't lie on such a device."""
        ...

    def free_memory(self) -> int:
        """Bytes of the device's memory that are free."""
        ...

    def describe(self) -> dict[str, Any]:
        """Report what executes where, in plain values."""
        ...

    def close(self) -> None:
        """Release everything; sessions can't be used afterwards."""
        ...


class Session(Protocol):
    """The stages of a network for frames of one size.

    On a GPU, methods return before the work is done; later calls run after it. `docs/bundle.md` lists the stages with
    their inputs and outputs.
    """

    @property
    def batched(self) -> bool:
        """Whether one call on a batch is faster than a call for each frame."""
        ...

    def ingest(self, frame: Pixels | DevicePixels) -> Tensor:
        """Convert a frame (h,w,3) to planes (1,3,H,W); its memory may be reused at once."""
        ...

    def run(self, stage: str, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Execute `extract`, `interpolate`, `propagate` or `reconstruct`; the outputs stay valid while referenced."""
        ...

    def emit(self, planes: Tensor, dtype: np.dtype[Any]) -> Tensor:
        """Convert planes (1,3,4H,4W) to pixels (1,4h,4w,3)."""
        ...

    def zeros_like(self, tensor: Tensor) -> Tensor:
        """Make a tensor of zeros with the same shape and dtype."""
        ...

    def concatenate(self, tensors: Sequence[Tensor]) -> Tensor:
        """Join tensors (1,...) into one (n,...)."""
        ...

    def split(self, tensor: Tensor) -> list[Tensor]:
        """Split a tensor (n,...) into n tensors (1,...)."""
        ...

    def from_host(self, array: NDArray[Any]) -> Tensor:
        """Copy an array to the device; its memory may be reused at once."""
        ...

    def to_host(self, tensor: Tensor) -> Callable[[], NDArray[Any]]:
        """Start copying a tensor to the host; the result waits for the copy, and returns an array of the caller's."""
        ...

    def export(self, tensor: Tensor) -> DevicePixels:
        """Turn pixels (1,h,w,3) into a frame (h,w,3) that the caller owns, in the device's memory."""
        ...

    def synchronize(self) -> None:
        """Wait until the work begun so far is done."""
        ...
