"""`zsm eval` on clips made here: the printed table, and the JSON and HTML read back."""

import base64
import json
import re
import weakref
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from zsm.cli import main
from zsm.evaluation import layouts, metrics, scoring, systems


class Page(HTMLParser):
    """A page's tags with their attributes, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def images(self) -> list[str]:
        return [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]


@pytest.fixture
def data(tmp_path: Path, write_clip: Callable[[str, int, tuple[int, int]], layouts.Clip]) -> Path:
    write_clip("long & short", 8, (66, 50))
    write_clip("wide", 3, (80, 32))
    return tmp_path / "data"


def imread(path: Path) -> Any:
    """Read an image as RGB."""
    return np.asarray(cv2.imread(str(path)))[..., ::-1]


def evaluated(*arguments: object, out: Path) -> dict[str, Any]:
    assert main(["eval", *map(str, arguments), "--out", str(out)]) == 0
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def test_an_untrained_bundle_scores_like_the_baseline(
    data: Path, bicubic_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluated(bicubic_bundle, "--data", data, out=tmp_path / "scores.json")
    means = result["means"]["all clips"]
    assert list(means) == ["bicubic + averaging", "bicubic"]
    assert means["bicubic"]["all"]["psnr"] == pytest.approx(means["bicubic + averaging"]["all"]["psnr"], abs=0.02)
    assert result["systems"]["bicubic"]["trained"] is False
    assert [(clip["name"], clip["frames"], clip["size"]) for clip in result["clips"]] == [
        ("long & short", 7, "64x48"),
        ("wide", 3, "80x32"),
    ]
    printed = capsys.readouterr().out
    assert f"{means['bicubic']['all']['psnr']:.2f}" in printed
    assert "mean, all clips" in printed


def unreadable(clip: layouts.Clip, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    (clip.source / "002.png").write_bytes(b"no image")
    return 1, "zsm eval: .*002.png can't be decoded"


def interrupted(clip: layouts.Clip, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    def restore(trial: scoring.Trial) -> Any:
        if trial.clip == clip:
            raise KeyboardInterrupt
        return trial.truth

    monkeypatch.setattr(systems, "baseline", lambda: scoring.System(restore=restore))
    return 130, "zsm eval: interrupted"


@pytest.mark.parametrize("failure", [unreadable, interrupted])
def test_the_scores_of_complete_clips_survive_a_failure(
    failure: Callable[[layouts.Clip, pytest.MonkeyPatch], tuple[int, str]],
    write_clip: Callable[[str, int, tuple[int, int]], layouts.Clip],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clips = [write_clip(name, 3, (16, 16)) for name in ("a", "b", "c")]
    data, out = clips[0].source.parent, tmp_path / "scores.json"
    whole = evaluated("--data", data, "--predictions", data, out=out)
    assert whole["complete"] is True
    out.unlink()
    capsys.readouterr()
    status, message = failure(clips[1], monkeypatch)
    assert main(["eval", "--data", str(data), "--predictions", str(data), "--out", str(out)]) == status
    *_, written, error = capsys.readouterr().err.splitlines()
    assert written == f"zsm eval: the scores of 1 of 3 clips were written to {out}"
    assert re.match(message, error)
    result = json.loads(out.read_text())
    assert result["complete"] is False
    assert [clip["name"] for clip in result["clips"]] == ["a"]
    assert result["clips"][0]["systems"]["data"] == whole["clips"][0]["systems"]["data"]


def test_a_failure_before_a_clip_is_complete_writes_nothing(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    (layouts.find(data)[0].source / "002.png").write_bytes(b"no image")
    assert main(["eval", "--data", str(data), "--predictions", str(data), "--out", str(out)]) == 1
    assert not out.exists()


def test_predictions_are_scored(data: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    for clip in layouts.find(data):
        (theirs / clip.name).mkdir(parents=True)
        for number, frame in enumerate(clip.read()[:7]):
            blurred = cv2.GaussianBlur(frame[: len(frame) // 4 * 4, : frame.shape[1] // 4 * 4], (0, 0), 1)
            assert cv2.imwrite(str(theirs / clip.name / f"{number}.png"), blurred[..., ::-1])
    result = evaluated("--data", data, "--predictions", theirs, out=tmp_path / "scores.json")
    scores = result["clips"][1]["systems"]["theirs"]["frames"]["psnr"]
    (clip,) = [clip for clip in layouts.find(data) if clip.name == "wide"]
    expected = [
        metrics.psnr(metrics.luma(imread(theirs / "wide" / f"{number}.png")), metrics.luma(frame))
        for number, frame in enumerate(clip.read())
    ]
    assert scores == pytest.approx(expected)


def test_the_page_is_self_contained(data: Path, bicubic_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    evaluated(bicubic_bundle, "--data", data, "--html", path, out=tmp_path / "scores.json")
    source = path.read_text()
    page = Page(source)
    assert not re.search(r"https?://|url\(|<script|<link", source)
    # For each clip the whole frame, and on two frames the input, two systems and the truth.
    assert len(page.images()) == 2 * (1 + 2 * 4)
    for image in page.images():
        kind, content = image.split(";base64,")
        assert kind in ("data:image/png", "data:image/jpeg")
        assert cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR) is not None
    assert "long & short" in page.text
    assert "untrained" in page.text


def test_pictures_and_frames_can_be_limited(data: Path, bicubic_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    options = ("--data", data, "--html", path, "--pictures", 1, "--frames", 1)
    result = evaluated(bicubic_bundle, *options, out=tmp_path / "scores.json")
    assert [clip["frames"] for clip in result["clips"]] == [1, 1]
    assert result["means"]["all clips"]["bicubic"]["interpolated"] == {"psnr": None, "ssim": None}
    page = Page(path.read_text())
    assert len(page.images()) == 1 + 4
    assert "2 clips, 2 frames scored, of each clip at most 1." in page.text


def test_the_page_says_that_only_whole_windows_were_scored(data: Path, bicubic_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    evaluated(bicubic_bundle, "--data", data, "--html", path, "--whole-windows", out=tmp_path / "scores.json")
    assert "2 clips, 10 frames scored, only whole windows of 7." in Page(path.read_text()).text


def test_names_are_printed_as_they_are(
    write_clip: Callable[[str, int, tuple[int, int]], layouts.Clip], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip("blank [bold]", 1, (16, 16))
    folder = clip.source.parent.rename(tmp_path / "clips [hd]")
    assert main(["eval", "--data", str(folder), "--predictions", str(folder)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "clips [hd]: PSNR in dB" in printed
    assert "because a PSNR is infinite: blank [bold]" in printed


def test_linked_folders_of_predictions_are_called_as_the_links_are(
    write_clip: Callable[[str, int, tuple[int, int]], layouts.Clip], tmp_path: Path
) -> None:
    data = write_clip("a", 3, (16, 16)).source.parent
    for name in ("theirs", "others"):
        (tmp_path / name).symlink_to(data)
    given = [argument for name in ("theirs", "others") for argument in ("--predictions", tmp_path / name)]
    result = evaluated("--data", data, *given, out=tmp_path / "scores.json")
    assert set(result["systems"]) >= {"theirs", "others"}


def test_one_clip_at_a_time_is_held_in_memory(
    write_clip: Callable[[str, int, tuple[int, int]], layouts.Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [write_clip(name, 3, (16, 16)) for name in ("a", "b", "c")]
    truths: list[weakref.ref[Any]] = []
    alive = []

    def restore(trial: scoring.Trial) -> Any:
        truths.append(weakref.ref(trial.truth))
        alive.append(sum(truth() is not None for truth in truths))
        return trial.truth

    monkeypatch.setattr(systems, "baseline", lambda: scoring.System(restore=restore))
    data = clips[0].source.parent
    evaluated(*("--data", data, "--predictions", data, "--html", tmp_path / "page.html"), out=tmp_path / "scores.json")
    assert alive == [1, 1, 1]


def test_a_degraded_input_scores_worse_and_is_reported(data: Path, bicubic_bundle: Path, tmp_path: Path) -> None:
    clean = evaluated(bicubic_bundle, "--data", data, out=tmp_path / "clean.json")
    worse = evaluated(bicubic_bundle, "--data", data, "--degradation", "jpeg:10", out=tmp_path / "jpeg.json")
    psnr = [result["means"]["all clips"]["bicubic"]["all"]["psnr"] for result in (clean, worse)]
    assert psnr[1] < psnr[0] - 1
    assert clean["protocol"]["degradation"] is None
    assert worse["protocol"]["degradation"] == "JPEG of quality 10"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere", "--predictions", "p"], "no folder nowhere"),
        (["--data", "{data}", "--predictions", "p", "--html", "no/where.html"], "no folder no"),
        (["--data", "{data}", "--predictions", "p", "--out", "{data}"], "it is a folder"),
        (["--data", "{data}", "no-bundle"], "not a bundle"),
    ],
)
def test_mistakes_are_one_message(
    arguments: list[str], message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", *(argument.format(data=data) for argument in arguments)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("zsm eval: ")
    assert message in error
    assert error.count("\n") == 1
