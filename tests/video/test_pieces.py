"""Segments that are restored one by one, in any order, by whoever has the time."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.video.conftest import REPEATER, Repeater, three_scenes

from zsm import Runtime
from zsm.errors import ArgumentError, StoppedError, VideoError
from zsm.runtime.video import (
    Encoding,
    Excerpt,
    Options,
    Summary,
    open_pipe,
    open_source,
    restore_elsewhere,
    restore_source,
)
from zsm.runtime.video.options import Restorer
from zsm.runtime.video.pieces import Piece, render

Ffmpeg = Callable[..., bytes]


@pytest.fixture(scope="module")
def clip(ffmpeg: Ffmpeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes of 17 frames each, with sound, in groups of pictures that refer to each other."""
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    return three_scenes(ffmpeg, path, "32x24", 17, "-x264-params", "open-gop=1:keyint=10:bframes=3")


def framemd5(ffmpeg: Ffmpeg, path: Path) -> list[bytes]:
    return ffmpeg("-i", path, "-fps_mode", "passthrough", "-f", "framemd5", "-").splitlines()


class Shuffled:
    """A crew of one, who opens the source anew for each piece and takes all of them before doing the first."""

    def __init__(self, source: Path, restorer: Restorer, folder: Path, *, seed: int, most: int | None = None) -> None:
        self._source = source
        self._restorer = restorer
        self._folder = folder
        self._random = np.random.default_rng(seed)
        self._most = most

    def __call__(self, plan: Any, pieces: Iterator[Piece | None], deliver: Callable[..., None]) -> None:
        taken = [piece for piece in pieces if piece is not None]
        for place in self._random.permutation(len(taken))[: self._most]:
            piece = taken[place]
            with closing(open_source(self._source)) as source:
                path = self._folder / "piece.mkv"
                segment = render(source, piece, self._restorer, plan, path)
            deliver(piece.number, segment, path.read_bytes())


def restore(source: Path, target: Path, restorer: Restorer, options: Options, **rest: Any) -> Summary:
    with closing(open_source(source)) as opened:
        if "crew" in rest:
            return restore_elsewhere(opened, target, restorer, options, **rest)
        return restore_source(opened, target, restorer, options)


@pytest.mark.parametrize(
    "options",
    [
        {"segment": 13},
        {"segment": 7, "fps_mode": "keep"},
        {"segment": 10, "excerpt": Excerpt(start=Fraction(1, 2), end=Fraction(3, 2))},
        {"segment": 1000, "cuts": "off"},
    ],
)
def test_segments_alone_equal_those_of_a_whole_run(
    ffmpeg: Ffmpeg, tiny_bundle: Path, clip: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """With a recurrent network, whose frames depend on the whole window; picture and sound."""
    chosen = Options(encoding=Encoding(preset="ultrafast", threads=2), **options)
    with Runtime(tiny_bundle, threads=1, overlap=2) as runtime:
        whole = restore(clip, tmp_path / "whole.mkv", runtime, chosen)
        crew = Shuffled(clip, runtime, tmp_path, seed=1)
        parts = restore(clip, tmp_path / "parts.mkv", runtime, chosen, crew=crew)
    assert framemd5(ffmpeg, tmp_path / "parts.mkv") == framemd5(ffmpeg, tmp_path / "whole.mkv")
    assert (parts.cuts, parts.notes, parts.frames_out) == (whole.cuts, whole.notes, whole.frames_out)


def test_a_run_is_handed_from_one_to_another(ffmpeg: Ffmpeg, clip: Path, tmp_path: Path) -> None:
    """Part by a crew, part by another, the rest in this process."""
    stop = threading.Event()
    stop.set()
    options = Options(segment=9, encoding=Encoding(preset="ultrafast"), resume=True)
    restore(clip, tmp_path / "whole.mkv", REPEATER, options)
    for seed in (1, 2):
        crew = Shuffled(clip, REPEATER, tmp_path, seed=seed, most=4)
        with pytest.raises(StoppedError, match="continue with --resume"):
            restore(clip, tmp_path / "parts.mkv", REPEATER, options, crew=crew, stop=stop)
    assert restore(clip, tmp_path / "parts.mkv", REPEATER, options).resumed_at in range(8 * 9 - 8, 8 * 9 + 1)
    assert framemd5(ffmpeg, tmp_path / "parts.mkv") == framemd5(ffmpeg, tmp_path / "whole.mkv")


@pytest.mark.parametrize(("name", "crew"), [("out", False), ("out.mkv", False), ("out.mkv", True)])
def test_a_run_with_another_build_of_an_engine_is_refused(clip: Path, tmp_path: Path, name: str, crew: bool) -> None:
    """Images and videos; segments from here and from elsewhere."""
    stop = threading.Event()
    stop.set()
    preset = None if name == "out" else "ultrafast"
    options = Options(segment=9, encoding=Encoding(preset=preset), resume=True)

    def run(build: str, *, crew: bool) -> Summary:
        restorer = Repeater(builds={"propagate for 32x24 on GPU": build})
        with closing(open_source(clip)) as source:
            if crew:
                some = Shuffled(clip, restorer, tmp_path, seed=1, most=3)
                return restore_elsewhere(source, tmp_path / name, restorer, options, some, stop=stop)
            return restore_source(source, tmp_path / name, restorer, options, stop=stop)

    with pytest.raises(StoppedError):
        run("first", crew=crew)
    for elsewhere in {crew, False}:
        with pytest.raises(VideoError, match="the engine of propagate for 32x24 on GPU is another build than"):
            run("another", crew=elsewhere)
    stop.clear()
    assert run("first", crew=False).frames_out == 101


def test_what_workers_cannot_do_is_said_first(clip: Path, tmp_path: Path) -> None:
    crew = Shuffled(clip, REPEATER, tmp_path, seed=1)
    with pytest.raises(ArgumentError, match="choose a video's name"):
        restore(clip, tmp_path / "out", REPEATER, Options(), crew=crew)
    with clip.open("rb") as file, pytest.raises(ArgumentError, match="a pipe can be read here only"):
        restore_elsewhere(open_pipe(file), tmp_path / "out.mkv", REPEATER, Options(), crew)
    assert not (tmp_path / "out.mkv").exists()
