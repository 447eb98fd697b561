"""Frames to frames: windows, the bidirectional recurrence, streaming, video files."""

from zsm.runtime.backend import Backend, Pixels
from zsm.runtime.stages import SCALE
from zsm.runtime.stream import Cuts, FrameError, To
from zsm.runtime.windows import Window, WindowError, plan

__all__ = ["SCALE", "Backend", "Cuts", "FrameError", "Pixels", "To", "Window", "WindowError", "plan"]
