"""Video files, image folders and pipes, in and out."""

from zsm.runtime.video.encoders import Encoding
from zsm.runtime.video.excerpt import Excerpt, parse_time
from zsm.runtime.video.inputs import find_jobs
from zsm.runtime.video.job import is_finished, restore, restore_elsewhere, restore_source
from zsm.runtime.video.opening import open_pipe, open_source, read_frames
from zsm.runtime.video.options import Options, Restorer
from zsm.runtime.video.preview import Preview, preview
from zsm.runtime.video.source import Info, Source, SourceFrame
from zsm.runtime.video.summary import Listener, Progress, Summary

__all__ = [
    "Encoding",
    "Excerpt",
    "Info",
    "Listener",
    "Options",
    "Preview",
    "Progress",
    "Restorer",
    "Source",
    "SourceFrame",
    "Summary",
    "find_jobs",
    "is_finished",
    "open_pipe",
    "open_source",
    "parse_time",
    "preview",
    "read_frames",
    "restore",
    "restore_elsewhere",
    "restore_source",
]
