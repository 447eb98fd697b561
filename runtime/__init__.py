"""Frames to frames: windows, the bidirectional recurrence, streaming, video files."""

from zsm.runtime.backend import Backend, Pixels, Session
from zsm.runtime.network import GRID, SCALE, Network
from zsm.runtime.stream import Cuts, FrameStream
from zsm.runtime.windows import Window, plan
from zsm.runtime.work import To

__all__ = ["GRID", "SCALE", "Backend", "Cuts", "FrameStream", "Network", "Pixels", "Session", "To", "Window", "plan"]
