"""Frames that callers give: arrays of other libraries as NumPy arrays, and the checks that all frames pass."""

from typing import Any

import numpy as np

from zsm.errors import FrameError
from zsm.runtime.backend import Backend, DevicePixels, Pixels

DTYPES = (np.uint8, np.uint16, np.float32)

HOST = (1, 3)
"""DLPack's numbers for ordinary and for page-locked host memory."""


def on_host(frame: Any, number: int) -> Pixels:
    """View a frame as a NumPy array, through DLPack or `__array__`; raises FrameError if that is impossible."""
    if isinstance(frame, np.ndarray):
        return frame
    exchanged = hasattr(frame, "__dlpack_device__")
    if exchanged and frame.__dlpack_device__()[0] not in HOST:
        raise FrameError(
            f"frame {number} is in GPU memory, which a Runtime on the CPU, or with tiles, doesn't read; "
            "bring it to the host first"
        )
    if not (exchanged or hasattr(frame, "__array__") or hasattr(frame, "__array_interface__")):
        raise FrameError(f"frame {number} is a {type(frame).__name__}; give arrays (height, width, 3)")
    try:
        array: Pixels = np.asarray(np.from_dlpack(frame) if exchanged else frame)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise FrameError(f"frame {number}, a {type(frame).__name__}, can't be read: {error}") from error
    return array


def readable(backend: Backend, frame: object, number: int) -> Pixels | DevicePixels:
    """View a frame where it lies, on the backend's device or on the host; raises FrameError."""
    if isinstance(frame, np.ndarray):
        return frame
    adopted = backend.adopt(frame)
    return on_host(frame, number) if adopted is None else adopted


class Check:
    """Checks the frames of one stream: each by itself, and against the first."""

    def __init__(self) -> None:
        self._first: tuple[tuple[int, ...], np.dtype[Any]] | None = None

    def __call__(self, frame: Pixels | DevicePixels, number: int) -> None:
        """Raise FrameError for an unsupported shape or dtype, or if the frame differs from the first one."""
        shape, dtype = tuple(frame.shape), frame.dtype
        if len(shape) != 3 or shape[2] != 3 or not all(shape):
            raise FrameError(f"frame {number} has the shape {shape}; give RGB frames (height, width, 3)")
        if dtype not in DTYPES:
            raise FrameError(f"frame {number} has the dtype {dtype}; give uint8, uint16, or float32 in [0, 1]")
        self._first = self._first or (shape, dtype)
        if (shape, dtype) != self._first:
            raise FrameError(
                f"frame {number} is {_kind(shape, dtype)}, the frames before it are {_kind(*self._first)}; "
                "start a new stream where the size or dtype changes"
            )


def _kind(shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    return f"{shape[1]}x{shape[0]} {dtype}"
