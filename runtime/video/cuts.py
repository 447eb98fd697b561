"""Finds where scenes begin; `zsm.runtime.windows` says what happens at a cut."""

from pathlib import Path

import cv2
from scenedetect import FrameTimecode
from scenedetect.detectors import ContentDetector

from zsm.errors import VideoError
from zsm.runtime.video import colour
from zsm.runtime.video.colour import Codes

DETECTION_WIDTH = 256
MOST_DIGITS = 18


class CutDetector:
    """PySceneDetect's content detector on neighbouring frames; call it with each pair in turn.

    Scenes may be of any length: a false cut only repeats a frame, whereas a missed cut mixes two scenes.
    """

    def __init__(self) -> None:
        self._detector = ContentDetector(min_scene_len=0)
        self._number = 0
        self._primed = False

    def __call__(self, previous: Codes, current: Codes) -> bool:
        """Whether a new scene begins with `current`."""
        if not self._primed:
            self._score(previous)
            self._primed = True
        return self._score(current)

    def _score(self, pixels: Codes) -> bool:
        height, width = pixels.shape[:2]
        if width > DETECTION_WIDTH:
            size = (DETECTION_WIDTH, max(1, round(height * DETECTION_WIDTH / width)))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        if pixels.dtype.itemsize == 2:
            pixels = colour.narrow(pixels)
        bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        self._number += 1
        return bool(self._detector.process_frame(FrameTimecode(self._number, fps=25.0), bgr))


def read_file(path: Path) -> list[int]:
    """Read the numbers of the frames that begin a scene, from 0 and separated by white space; raises VideoError."""
    try:
        words = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise VideoError(f"can't read the cuts in {path}: {error}") from error
    wrong = [word for word in words if not word.isdecimal() or len(word) > MOST_DIGITS]
    if wrong:
        raise VideoError(
            f"{path} holds {wrong[0][:40]!r}; give the numbers of frames that begin a scene, counted from 0"
        )
    return sorted({int(word) for word in words} - {0})
