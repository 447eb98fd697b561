"""Video files, image folders and pipes, in and out."""

from zsm.errors import StoppedError, VideoError
from zsm.runtime.video.encoders import Encoding
from zsm.runtime.video.inputs import find_jobs
from zsm.runtime.video.job import Options, Progress, Restore, Summary, expected_frames, restore_to_file, restore_to_pipe
from zsm.runtime.video.preview import Preview, preview
from zsm.runtime.video.resume import is_finished
from zsm.runtime.video.source import open_pipe, open_source, read_frames
from zsm.runtime.video.timestamps import Excerpt

__all__ = [
    "Encoding",
    "Excerpt",
    "Options",
    "Preview",
    "Progress",
    "Restore",
    "StoppedError",
    "Summary",
    "VideoError",
    "expected_frames",
    "find_jobs",
    "is_finished",
    "open_pipe",
    "open_source",
    "preview",
    "read_frames",
    "restore_to_file",
    "restore_to_pipe",
]
