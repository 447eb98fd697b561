"""Frames to frames: windows, the bidirectional recurrence, streaming, video files."""

from zsm.runtime.backend import Backend, Pixels, Session
from zsm.runtime.network import GRID, SCALE, Network
from zsm.runtime.stream import Cuts, To
from zsm.runtime.windows import Window, plan

__all__ = ["GRID", "SCALE", "Backend", "Cuts", "Network", "Pixels", "Session", "To", "Window", "plan"]
