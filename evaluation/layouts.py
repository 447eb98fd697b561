"""Data sets as they lie on disk: Vid4, Vimeo-90K septuplets, and any folder of clips."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsm.errors import DataError
from zsm.runtime.video import images, read_frames

VIDEOS = frozenset({".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".y4m", ".264"})

VIMEO_TEST_LIST = "sep_testlist.txt"
VIMEO_TRAIN_LIST = "sep_trainlist.txt"
VIMEO_SPEED_LISTS = {speed: f"{speed}_testset.txt" for speed in ("fast", "medium", "slow")}


@dataclass(frozen=True, kw_only=True)
class Clip:
    """HR frames on disk.

    name: unique in the data set; the folder that holds another system's frames of this clip.
    source: a video file, or a folder of images.
    group: the part of the data set that it belongs to, such as Vimeo's `fast`.
    """

    name: str
    source: Path
    group: str | None = None

    def frames(self, start: int = 0, frames: int | None = None) -> Iterator[NDArray[np.uint8]]:
        """Yield RGB frames (H,W,3) uint8: at most `frames` of them, from number `start` on."""
        return read_frames(self.source, start=start, frames=frames)

    def read(self, start: int = 0, frames: int | None = None) -> NDArray[np.uint8]:
        """The frames as one array (N,H,W,3) uint8."""
        stack = list(self.frames(start, frames))
        if not stack:
            raise DataError(f"clip {self.name} has no frames from number {start} on")
        return np.stack(stack)


def vid4(root: Path) -> list[Clip]:
    """ROOT/<clip>/*.png: one folder of images a clip."""
    clips = [_folder(path) for path in _sorted(root) if _holds_images(path)]
    return _some(clips, root, "a folder of images for each clip (calendar, city, foliage, walk)")


def vimeo(root: Path, list_file: str = VIMEO_TEST_LIST) -> list[Clip]:
    """Vimeo-90K: ROOT/sequences/00001/0001/im1.png to im7.png, of the septuplets that ROOT's lists name.

    With `fast_testset.txt`, `medium_testset.txt` and `slow_testset.txt` in ROOT, the test set is what they
    name, and each is a group; else it is `list_file`, without groups.
    """
    lists: dict[str | None, Path] = {speed: root / name for speed, name in VIMEO_SPEED_LISTS.items()}
    present = {speed: path for speed, path in lists.items() if path.is_file()}
    if list_file != VIMEO_TEST_LIST or not present:
        present = {None: root / list_file}
    clips = [_septuplet(root, name, speed) for speed, path in present.items() for name in _names(path)]
    return _some(clips, root, f"names of septuplets in {list_file}")


def clips(root: Path) -> list[Clip]:
    """Every video file and every folder of images directly in ROOT; or ROOT itself, if it holds images."""
    if _holds_images(root):
        return [_folder(root)]
    found = []
    for path in _sorted(root):
        if path.suffix.lower() in VIDEOS and path.is_file():
            found.append(Clip(name=path.stem, source=path))
        elif _holds_images(path):
            found.append(_folder(path))
    return _some(found, root, "video files, or a folder of images for each clip")


LAYOUTS: dict[str, Callable[[Path], list[Clip]]] = {"vid4": vid4, "vimeo": vimeo, "clips": clips}


def find(root: Path, layout: str = "clips") -> list[Clip]:
    """The clips of the data set at `root`, in a fixed order.

    Raises:
        DataError: an unknown layout, no such folder, nothing in it, or files missing.
    """
    if layout not in LAYOUTS:
        raise DataError(f"unknown layout {layout!r}: give one of {', '.join(LAYOUTS)}")
    if not root.is_dir():
        raise DataError(f"no folder {root}")
    return LAYOUTS[layout](root)


def _sorted(folder: Path) -> list[Path]:
    shown = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(shown, key=lambda path: images.natural_order(path.name))


def _holds_images(path: Path) -> bool:
    return path.is_dir() and any(images.is_image(file) for file in path.iterdir())


def _folder(path: Path) -> Clip:
    return Clip(name=path.resolve().name, source=path)


def _names(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"no list {path}: Vimeo-90K comes with {VIMEO_TEST_LIST} and {VIMEO_TRAIN_LIST}")
    return [line.split()[0] for line in path.read_text().splitlines() if line.strip()]


def _septuplet(root: Path, name: str, group: str | None) -> Clip:
    folder = root / "sequences" / name
    for number in range(1, 8):
        if not (folder / f"im{number}.png").is_file():
            raise DataError(f"{folder / f'im{number}.png'} is missing, which a list in {root} names")
    return Clip(name=name, source=folder, group=group)


def _some(clips: Sequence[Clip], root: Path, expected: str) -> list[Clip]:
    if not clips:
        raise DataError(f"no clips in {root}: expected {expected}")
    name, times = Counter(clip.name for clip in clips).most_common(1)[0]
    if times > 1:
        raise DataError(f"{times} clips in {root} are called {name}: rename all but one")
    return list(clips)
