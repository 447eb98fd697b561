"""The protocol step by step, and scores against the metrics of single frames."""

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from zsm.engine import host
from zsm.errors import ArgumentError, ArgumentTypeError, DataError, VideoError
from zsm.evaluation import bicubic, degradations, layouts, metrics, scoring, systems
from zsm.evaluation.scoring import Protocol, System

ClipWriter = Callable[[str, int, tuple[int, int]], layouts.Clip]


@pytest.fixture
def clip(write_clip: ClipWriter) -> layouts.Clip:
    """Eight HR frames whose size is not a multiple of 4."""
    return write_clip("ball", 8, (66, 50))


def only(system: System, clip: layouts.Clip, protocol: Protocol) -> scoring.Scored:
    (scored,) = scoring.evaluate([clip], {"it": system}, protocol)
    return scored


def test_the_input_is_every_other_frame_of_the_cropped_truth(clip: layouts.Clip) -> None:
    trial = scoring.prepare(clip, Protocol())
    hr = clip.read()
    assert np.array_equal(trial.truth, hr[:7, :48, :64])
    assert np.array_equal(trial.lr, bicubic.resize(hr[:7:2, :48, :64], 0.25))


def test_the_number_of_frames_is_limited_and_made_odd(clip: layouts.Clip) -> None:
    assert len(scoring.prepare(clip, Protocol(frames=5)).truth) == 5
    trial = scoring.prepare(clip, Protocol(frames=4))
    assert (len(trial.truth), len(trial.lr)) == (3, 2)


@pytest.mark.parametrize(
    ("frames", "kept"), [(34, 31), (41, 37), (49, 49), (47, 43), (7, 7), (8, 7), (13, 13), (6, 5), (1, 1)]
)
def test_whole_windows_of_seven(frames: int, kept: int) -> None:
    assert scoring.whole_windows(frames) == kept


def test_whole_windows_shorten_the_clip(write_clip: ClipWriter) -> None:
    clip = write_clip("long", 11, (16, 16))
    assert len(scoring.prepare(clip, Protocol()).truth) == 11
    assert len(scoring.prepare(clip, Protocol(whole_windows=True)).truth) == 7


def test_scores_are_means_over_frames(write_clip: ClipWriter) -> None:
    clip = write_clip("long", 11, (32, 24))
    scored = only(systems.baseline(), clip, Protocol())
    truth, restored = scored.trial.truth, scored.restored["it"]
    luma = [(metrics.luma(a), metrics.luma(b)) for a, b in zip(restored, truth, strict=True)]
    psnr = np.array([metrics.psnr(a, b) for a, b in luma])
    ssim = np.array([metrics.ssim(a, b) for a, b in luma])
    scores = scored.scores.systems["it"]
    for figures, part in (
        (scores.all, slice(None)),
        (scores.original, slice(0, None, 2)),
        (scores.interpolated, slice(1, None, 2)),
        (scores.windows, slice(0, 7)),
    ):
        assert figures.psnr == pytest.approx(psnr[part].mean())
        assert figures.ssim == pytest.approx(ssim[part].mean())
    change = np.diff(metrics.luma(restored), axis=0) - np.diff(metrics.luma(truth), axis=0)
    assert scores.temporal_psnr == pytest.approx(10 * np.log10(255**2 / np.mean(change**2)))


def test_means_are_over_clips_not_frames(write_clip: ClipWriter) -> None:
    clips = [write_clip("a", 3, (48, 32)), write_clip("b", 7, (48, 32))]
    scores = [one.scores for one in scoring.evaluate(clips, {"it": systems.baseline()}, Protocol())]
    first, second = (one.systems["it"] for one in scores)
    mean = scoring.means(scores)["it"]
    assert mean.all.psnr == pytest.approx((first.all.psnr + second.all.psnr) / 2)
    assert mean.temporal_psnr == pytest.approx((first.temporal_psnr + second.temporal_psnr) / 2)


def test_a_still_clip_is_left_out_of_the_temporal_mean_only(clip: layouts.Clip, write_clip: ClipWriter) -> None:
    still = write_clip("still", 3, (12, 12))
    scores = [one.scores for one in scoring.evaluate([clip, still], {"it": systems.baseline()}, Protocol())]
    first, second = (one.systems["it"] for one in scores)
    mean = scoring.means(scores)["it"]
    assert np.isinf(second.temporal_psnr)
    assert mean.temporal_psnr == first.temporal_psnr
    assert mean.all.psnr == pytest.approx((first.all.psnr + second.all.psnr) / 2)


def test_a_clip_restored_without_error_is_left_out_of_all_means(clip: layouts.Clip) -> None:
    perfect = System(restore=lambda trial: trial.truth)
    both = {"perfect": perfect, "baseline": systems.baseline()}
    (scored,) = scoring.evaluate([clip], both, Protocol())
    assert not scored.scores.comparable
    mean = scoring.means([scored.scores])
    assert np.isnan(mean["baseline"].all.psnr)
    assert np.isnan(mean["perfect"].all.psnr)


def test_a_clip_of_one_frame_is_left_out_of_the_interpolated_mean_only(clip: layouts.Clip) -> None:
    short = only(systems.baseline(), clip, Protocol(frames=1)).scores
    assert np.isnan(short.systems["it"].interpolated.psnr)
    whole = only(systems.baseline(), clip, Protocol()).scores
    mean = scoring.means([short, whole])["it"]
    assert mean.interpolated == whole.systems["it"].interpolated


def test_a_degradation_depends_on_the_seed_and_the_clips_name(clip: layouts.Clip) -> None:
    clean = scoring.prepare(clip, Protocol()).lr
    noisy = Protocol(degradation=degradations.Noise(), seed=1)
    first = scoring.prepare(clip, noisy)
    assert not np.array_equal(first.lr, clean)
    assert np.array_equal(first.truth, scoring.prepare(clip, Protocol()).truth)
    assert np.array_equal(first.lr, scoring.prepare(clip, noisy).lr)
    assert not np.array_equal(first.lr, scoring.prepare(clip, replace(noisy, seed=2)).lr)
    assert not np.array_equal(first.lr, scoring.prepare(replace(clip, name="other"), noisy).lr)


def save(frames: NDArray[np.uint8], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        assert cv2.imwrite(str(folder / f"{number}.png"), frame[..., ::-1])


def test_predictions_score_like_the_system_that_made_them(clip: layouts.Clip, tmp_path: Path) -> None:
    made = only(systems.baseline(), clip, Protocol())
    save(made.restored["it"], tmp_path / "theirs" / "ball")
    read = only(systems.predictions(tmp_path / "theirs"), clip, Protocol())
    assert read.scores == made.scores


@pytest.mark.parametrize(("protocol", "scored"), [(Protocol(), 7), (Protocol(frames=4), 3)])
@pytest.mark.parametrize("found", [7, 8])
def test_of_predictions_of_the_whole_clip_those_scored_are_read(
    protocol: Protocol, scored: int, found: int, clip: layouts.Clip, tmp_path: Path
) -> None:
    theirs = clip.read()[:found, :48, :64] // 2
    save(theirs, tmp_path / "theirs" / "ball")
    (read,) = only(systems.predictions(tmp_path / "theirs"), clip, protocol).restored.values()
    assert np.array_equal(read, theirs[:scored])


def test_invalid_predictions_are_rejected(clip: layouts.Clip, tmp_path: Path) -> None:
    made = only(systems.baseline(), clip, Protocol()).restored["it"]
    theirs = systems.predictions(tmp_path / "theirs")
    with pytest.raises(VideoError, match="theirs"):
        only(theirs, clip, Protocol())
    save(made[:5], tmp_path / "theirs" / "ball")
    with pytest.raises(DataError, match="holds 5 frames, but 7"):
        only(theirs, clip, Protocol())
    save(np.concatenate([made, made[:2]]), tmp_path / "theirs" / "ball")
    with pytest.raises(DataError, match="holds 9 frames, but the clip only 8"):
        only(theirs, clip, Protocol())


def test_output_of_another_shape_is_rejected(clip: layouts.Clip) -> None:
    with pytest.raises(DataError, match=r"it returned uint8 \(7, 24, 64, 3\) for clip ball: expected uint8 \(7, 48,"):
        only(System(restore=lambda trial: trial.truth[:, ::2]), clip, Protocol())


def unusable_clip(write_clip: ClipWriter, theirs: Path) -> None:
    write_clip("b", 3, (8, 8))


def missing_predictions(write_clip: ClipWriter, theirs: Path) -> None:
    write_clip("b", 3, (16, 16))


def too_few_predictions(write_clip: ClipWriter, theirs: Path) -> None:
    save(write_clip("b", 3, (16, 16)).read()[:2], theirs / "b")


def small_predictions(write_clip: ClipWriter, theirs: Path) -> None:
    save(write_clip("b", 3, (16, 16)).read()[:, :12], theirs / "b")


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (unusable_clip, "clip b is 8x8"),
        (missing_predictions, "theirs/b"),
        (too_few_predictions, "holds 2 frames, but 3 are scored"),
        (small_predictions, "holds frames of 16x12: expected 16x16"),
    ],
)
def test_every_clip_is_checked_before_the_first_is_restored(
    mistake: Callable[[ClipWriter, Path], None], message: str, write_clip: ClipWriter, tmp_path: Path
) -> None:
    save(write_clip("a", 3, (16, 16)).read(), tmp_path / "theirs" / "a")
    mistake(write_clip, tmp_path / "theirs")
    ours = System(restore=lambda trial: pytest.fail(f"restored {trial.clip.name}"))
    both = {"ours": ours, "theirs": systems.predictions(tmp_path / "theirs")}
    with pytest.raises((DataError, VideoError), match=message):
        list(scoring.evaluate(layouts.find(tmp_path / "data"), both, Protocol()))


def test_a_clip_is_refused_if_memory_cannot_hold_what_scoring_it_takes(
    write_clip: ClipWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = write_clip("long", 301, (50, 50))
    save(clip.read()[:, :48, :48] // 2, tmp_path / "theirs" / "long")
    both = {"ours": systems.baseline(), "theirs": systems.predictions(tmp_path / "theirs")}
    tracemalloc.start()
    assert len(list(scoring.evaluate([clip], both, Protocol()))) == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    monkeypatch.setattr(host, "free_memory", lambda: int(1.1 * peak))
    assert len(list(scoring.evaluate([clip], both, Protocol()))) == 1
    monkeypatch.setattr(host, "free_memory", lambda: int(0.9 * peak))
    with pytest.raises(DataError, match="clip long"):
        next(scoring.evaluate([clip], both, Protocol()))


class Long(layouts.Clip):
    """A clip that is said to have a million frames of 1080p."""

    def shape(self, frames: int | None = None) -> tuple[int, int, int, int]:
        return 1_000_000, 1080, 1920, 3


def test_a_clip_that_does_not_fit_in_memory_is_named_before_another_is_restored(clip: layouts.Clip) -> None:
    ours = System(restore=lambda trial: pytest.fail(f"restored {trial.clip.name}"))
    film = Long(name="film", source=clip.source)
    with pytest.raises(
        DataError, match=r"clip film takes 11768\.2 GiB of memory, but only \d+\.\d are free: .*--frames"
    ):
        next(scoring.evaluate([clip, film], {"ours": ours}, Protocol()))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"frames": 0}, ArgumentError, "frames must be at least 1, got 0"),
        ({"frames": 2.5}, ArgumentTypeError, "frames must be an integer, got 2.5"),
        ({"frames": True}, ArgumentTypeError, "frames must be an integer, got True"),
        ({"seed": -1}, ArgumentError, "seed must be at least 0, got -1"),
    ],
)
def test_invalid_settings_are_rejected(settings: dict[str, int], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Protocol(**settings)  # type: ignore[arg-type]


def test_frames_too_small_for_ssim_are_rejected_before_anything_is_restored(write_clip: ClipWriter) -> None:
    with pytest.raises(DataError, match="clip tiny is 16x11, but frames must be at least 12x12"):
        scoring.prepare(write_clip("tiny", 3, (16, 11)), Protocol())
    trial = scoring.prepare(write_clip("least", 3, (12, 13)), Protocol())
    assert scoring.compare(trial, {"truth": trial.truth}).scores.systems["truth"].ssim[0] == 1


def test_scoring_loads_no_video_library() -> None:
    code = "import sys, zsm.evaluation.scoring; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "zsm.evaluation.metrics" in loaded
    assert not {"av", "cv2", "scenedetect", "torch", "onnx", "onnxruntime"} & set(loaded)
