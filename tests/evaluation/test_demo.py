"""`scripts/demo.py` as `make demo` runs it, without torch, and its files read back with OpenCV."""

import subprocess
import sys
from pathlib import Path

import cv2
import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/demo.py"
WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_demo_writes_a_video_and_a_picture_and_prints_scores(bicubic_bundle: Path, tmp_path: Path) -> None:
    done = run(bicubic_bundle, "--out", tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    assert "is untrained" in done.stdout
    # This network computes the same as the baseline.
    lines = [line.strip() for line in done.stdout.splitlines()]
    figures = [line.split()[-6:] for line in lines if line.startswith(("bicubic + averaging", "zsm"))]
    assert len(figures) == 2
    for baseline, ours in zip(*figures, strict=True):
        assert float(ours) == pytest.approx(float(baseline), abs=0.03)
    video = cv2.VideoCapture(str(tmp_path / "demo/restored.mp4"))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(25)
    frames = 0
    while (read := video.read())[0]:
        frames += 1
        assert read[1].shape == (272, 640, 3)
    assert frames == 49
    picture = cv2.imread(str(tmp_path / "demo/side-by-side.png"))
    assert picture is not None
    assert picture.shape[1] > 4 * 300


def test_a_missing_bundle_gives_one_line(tmp_path: Path) -> None:
    done = run(tmp_path / "nothing", "--out", tmp_path / "demo")
    assert done.returncode == 1
    assert done.stderr.startswith("demo: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "demo").exists()


def test_an_unwritable_folder_gives_one_line(bicubic_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(bicubic_bundle, "--out", tmp_path / "file")
    assert done.returncode == 1
    assert "give another folder with --out" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unwritable_file_gives_one_line(bicubic_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "restored.mp4").mkdir()
    done = run(bicubic_bundle, "--out", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"demo: can't write to {tmp_path}: ")
    assert "Traceback" not in done.stderr


def test_the_included_bundle_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    done = run("--out", "file")
    assert done.stderr.startswith("demo: can't write to file: ")
