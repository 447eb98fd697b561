"""A run opens no socket, and writes nothing but its output and zsm's own cache."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

AUDITED = """
import importlib.util, os, sys
log = open(sys.argv.pop(1), "a")

def hook(event, arguments):
    if event.startswith("socket."):
        print(event, *map(repr, arguments), file=log, flush=True)

sys.addaudithook(hook)
if sys.argv[1] == "embedded":
    import zsm
    from zsm.runtime import video
    backend = "openvino" if importlib.util.find_spec("openvino") else "auto"
    with zsm.Runtime(sys.argv[2], backend=backend) as runtime:
        video.restore(sys.argv[3], sys.argv[4], runtime)
    status = 0
else:
    from zsm.cli import main
    status = main()
for descriptor in os.listdir("/proc/self/fd"):
    if os.path.islink(f"/proc/self/fd/{descriptor}"):
        link = os.readlink(f"/proc/self/fd/{descriptor}")
        if link.startswith("socket:"):
            print("open at the end:", link, file=log, flush=True)
sys.exit(status)
"""


@pytest.fixture
def clip(ffmpeg: Callable[..., bytes], tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24:r=25:d=0.4", path)
    return path


@pytest.mark.parametrize("how", ["run", "embedded"])
def test_nothing_phones_home(bicubic_bundle: Path, clip: Path, tmp_path: Path, how: str) -> None:
    """Python's audit events cover its own sockets; the files show what native libraries leave behind."""
    home, log, target = tmp_path / "home", tmp_path / "log", tmp_path / "out" / "film.mkv"
    home.mkdir()
    log.touch()
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("XDG_", "ZSM_")) and key not in ("CI", "ORT_DISABLE_TELEMETRY")
    } | {"HOME": str(home), "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    command = [sys.executable, "-c", AUDITED, str(log), how, str(bicubic_bundle), str(clip), str(target)]
    subprocess.run(command, env=environment, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    assert target.exists()
    assert log.read_text() == ""
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    others = [path for path in files if not path.is_relative_to("home/.cache/zsm")]
    assert sorted(map(str, others)) == ["clip.mp4", "log", "out/film.mkv"]
