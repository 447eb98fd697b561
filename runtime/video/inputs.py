"""Which files are meant, and what their outputs are called."""

import glob
from collections.abc import Sequence
from pathlib import Path

from zsm.errors import VideoError
from zsm.runtime.video import images
from zsm.runtime.video.encoders import CONTAINERS

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".m4v", ".mpg", ".mpeg", ".wmv")


def find_jobs(inputs: Sequence[str], output: Path) -> list[tuple[Path, Path]]:
    """Pairs of input and output. A folder of images is one input; a folder of videos, or a glob, may be many.

    Many inputs go to a folder `output`, under their names; containers that can't be written become .mkv.
    Raises VideoError if there is nothing, or if two outputs would have one name.
    """
    found = [path for text in inputs for path in _expand(text)]
    if len(found) == 1 and len(inputs) == 1 and Path(inputs[0]) == found[0]:
        return [(found[0], output)]
    if output.suffix.lower() in CONTAINERS:
        raise VideoError(f"{len(found)} inputs don't go into one file {output}; give a folder")
    jobs = [(path, output / _output_name(path)) for path in found]
    names = [target.name for _, target in jobs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise VideoError(f"several inputs would become {output / doubled[0]}; rename them, or run them one by one")
    return jobs


def _expand(text: str) -> list[Path]:
    path = Path(text)
    if path.is_dir():
        videos = sorted(child for child in path.iterdir() if child.suffix.lower() in VIDEO_SUFFIXES)
        return videos or [path]
    if path.exists() or not glob.has_magic(text):
        return [path]
    matches = sorted(Path(match) for match in glob.glob(text, recursive=True))  # noqa: PTH207 (may be absolute)
    if not matches:
        raise VideoError(f"nothing matches {text}")
    return matches


def _output_name(path: Path) -> str:
    if path.is_dir() or images.is_image(path):
        return path.name
    return path.name if path.suffix.lower() in CONTAINERS else f"{path.stem}.mkv"
