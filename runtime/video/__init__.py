"""Video files, image folders and pipes, in and out."""

from zsm.runtime.video.errors import VideoError
from zsm.runtime.video.reader import read_frames

__all__ = ["VideoError", "read_frames"]
