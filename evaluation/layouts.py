"""Data sets on disk: Vid4, Vimeo-90K's septuplets, or any folder of clips."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsm.errors import ArgumentError, DataError
from zsm.runtime.video import images, open_source, read_frames
from zsm.runtime.video.inputs import is_video

VIMEO_TEST_LIST = "sep_testlist.txt"
VIMEO_TRAIN_LIST = "sep_trainlist.txt"
VIMEO_SPEED_LISTS = {speed: f"{speed}_testset.txt" for speed in ("fast", "medium", "slow")}


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A clip of HR frames on disk."""

    name: str
    """Unique in the data set. Another system's frames of this clip are in a folder of this name."""
    source: Path
    """A video file, or a folder of images."""
    group: str | None = None
    """The part of the data set it belongs to, such as Vimeo's `fast`."""

    def frames(self, start: int = 0, frames: int | None = None) -> Iterator[NDArray[np.uint8]]:
        """Yield RGB frames (H,W,3) uint8: at most `frames` of them, beginning with frame `start`, counted from 0."""
        return read_frames(self.source, start=start, frames=frames)

    def read(self, start: int = 0, frames: int | None = None) -> NDArray[np.uint8]:
        """Return the same frames as one array (N,H,W,3). Raises DataError if there are none."""
        stack = list(self.frames(start, frames))
        if not stack:
            raise DataError(f"clip {self.name} ({self.source}) has no frame {start}: start earlier, or remove the clip")
        return np.stack(stack)

    def shape(self, frames: int | None = None) -> tuple[int, int, int, int]:
        """Return the shape of `read(frames=frames)`, without holding the frames; raises VideoError.

        Of a folder of images only the first is read.
        """
        with closing(open_source(self.source)) as source:
            width, height = source.info.size
            return sum(1 for _ in islice(source.frames(), frames)), height, width, 3


def vid4(root: Path) -> list[Clip]:
    """Vid4: ROOT/CLIP/*.png, one folder of images per clip."""
    clips = [Clip(name=path.name, source=path) for path in _sorted(root) if _holds_images(path)]
    return _checked(clips, root, "one folder of images per clip (calendar, city, foliage, walk)")


def vimeo(root: Path, list_file: str = VIMEO_TEST_LIST) -> list[Clip]:
    """Vimeo-90K: ROOT/sequences/00001/0001/im1.png to im7.png, for the septuplets listed in `list_file`.

    If ROOT holds `fast_testset.txt`, `medium_testset.txt` or `slow_testset.txt`, these replace the test list, and
    each forms a group.
    """
    lists: dict[str | None, Path] = {speed: root / name for speed, name in VIMEO_SPEED_LISTS.items()}
    present = {speed: path for speed, path in lists.items() if path.is_file()}
    if list_file != VIMEO_TEST_LIST or not present:
        present = {None: root / list_file}
    clips = [_septuplet(root, name, speed) for speed, path in present.items() for name in _names(path)]
    return _checked(clips, root, f"names of septuplets in {list_file}")


def clips(root: Path) -> list[Clip]:
    """Every video file and folder of images directly in ROOT; or ROOT itself, if it holds images.

    Raises DataError if it holds both.
    """
    found = []
    for path in _sorted(root):
        if is_video(path):
            found.append(Clip(name=path.stem, source=path))
        elif _holds_images(path):
            found.append(Clip(name=path.name, source=path))
    if _holds_images(root):
        if found:
            raise DataError(f"{root} holds both images and clips ({found[0].source.name}); move the images elsewhere")
        return [Clip(name=name_of(root), source=root)]
    return _checked(found, root, "video files, or one folder of images per clip")


LAYOUTS: dict[str, Callable[[Path], list[Clip]]] = {"vid4": vid4, "vimeo": vimeo, "clips": clips}


def find(root: Path, layout: str = "clips") -> list[Clip]:
    """List the clips of the data set at `root`, in a fixed order.

    Raises ArgumentError for an unknown layout, and DataError if the folder is missing, unreadable or empty, or
    lacks files that a list names.
    """
    if layout not in LAYOUTS:
        raise ArgumentError(f"unknown layout {layout!r}: choose from {', '.join(LAYOUTS)}")
    if not root.is_dir():
        raise DataError(f"there is no folder {root}: give the data set's folder")
    try:
        return LAYOUTS[layout](root)
    except OSError as error:
        raise DataError(f"can't read the data set in {root}: {error}") from error


def name_of(folder: Path) -> str:
    """Return a folder's name as it was given: a link's own. Only `.` and `..` are looked up."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def _sorted(folder: Path) -> list[Path]:
    shown = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(shown, key=lambda path: images.natural_order(path.name))


def _holds_images(path: Path) -> bool:
    return path.is_dir() and any(images.within(path))


def _names(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"there is no list {path}: Vimeo-90K comes with {VIMEO_TEST_LIST} and {VIMEO_TRAIN_LIST}")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} isn't a text file: expected one septuplet per line, such as 00001/0001") from error
    return [line.split()[0] for line in lines if line.strip()]


def _septuplet(root: Path, name: str, group: str | None) -> Clip:
    folder = root / "sequences" / name
    for number in range(1, 8):
        if not (folder / f"im{number}.png").is_file():
            raise DataError(
                f"{folder / f'im{number}.png'} is missing, but a list in {root} names {name}: "
                "unpack the whole data set, or shorten the list"
            )
    return Clip(name=name, source=folder, group=group)


def _checked(clips: Sequence[Clip], root: Path, expected: str) -> list[Clip]:
    if not clips:
        raise DataError(f"no clips in {root}: expected {expected}")
    name, times = Counter(clip.name for clip in clips).most_common(1)[0]
    if times > 1:
        raise DataError(f"{times} clips in {root} are called {name}: rename them, so that every name is unique")
    return list(clips)
