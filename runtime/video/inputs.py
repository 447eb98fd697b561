"""From the command line's inputs and output to pairs of files."""

import glob
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from zsm.errors import ArgumentError, VideoError
from zsm.runtime.video import images
from zsm.runtime.video.encoders import CONTAINERS
from zsm.runtime.video.location import Url, locate

VIDEO_SUFFIXES = (
    *(".264", ".265", ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
)
"""Those of the files that are taken for videos."""


def is_video(path: Path) -> bool:
    """Whether a path is a video file, judging by its name."""
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()


def find_jobs(inputs: Sequence[str], output: Path) -> list[tuple[Path | Url, Path]]:
    """Pair inputs, paths or URLs, with outputs.

    A folder of images is one input; a folder of videos, or a glob, may be many. Many inputs go to the folder `output`,
    under their own names; containers that can't be written become .mkv. Raises VideoError if nothing matches a glob or
    two outputs would get one name, ArgumentError if `output` names a video or for a URL that can't be read.
    """
    found = [place for text in inputs for place in _expand(text)]
    if len(found) == 1 and len(inputs) == 1 and locate(inputs[0]) == found[0]:
        return [(found[0], output)]
    if output.suffix.lower() in CONTAINERS:
        raise ArgumentError(f"{len(found)} inputs don't fit into one file {output}; give a folder")
    jobs = [(place, output / _output_name(place)) for place in found]
    names = [target.name for _, target in jobs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise VideoError(f"several inputs would become {output / doubled[0]}; rename them, or run them one by one")
    return jobs


def _expand(text: str) -> Sequence[Path | Url]:
    path = locate(text)
    if isinstance(path, Url):
        return [path]
    if path.is_dir():
        videos = sorted(child for child in path.iterdir() if is_video(child) and not child.name.startswith("."))
        return videos or [path]
    if path.exists() or not glob.has_magic(text):
        return [path]
    matches = sorted(Path(match) for match in glob.glob(text, recursive=True))  # noqa: PTH207 (may be absolute)
    if not matches:
        raise VideoError(f"nothing matches {text}")
    return matches


def _output_name(place: Path | Url) -> str:
    path = Path(unquote(str(place)).replace("\0", "") if isinstance(place, Url) else place)
    if path.is_dir():
        return path.name.replace(".", "_")  # what has a suffix would be a video
    if images.is_image(path):
        return path.stem
    return path.name if path.suffix.lower() in CONTAINERS else f"{path.stem}.mkv"
