"""Engines on disk: keys, locks, and processes that are killed."""

import json
import logging
import random
import re
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from zsm.cli import main
from zsm.engine.backends.tensorrt.cache import EngineCache, EngineKey, write
from zsm.errors import CacheError

KEY = EngineKey(
    stage="propagate",
    graph="ab" * 32,
    precision="fp16",
    sizes={"min": "64x64", "opt": "480x270", "max": "960x540"},
    gpu="NVIDIA H200",
    capability="9.0",
    driver="13.0",
    cuda="13.0",
    tensorrt="11.4.0.106",
    plugin="cd" * 32,
    options={"tf32": False, "workspace": None},
)
CONTENT = random.Random(0).randbytes(200_000)


def never() -> bytes:
    raise AssertionError("it was built already")


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "extract"},
        {"graph": "00" * 32},
        {"precision": "fp32"},
        {"sizes": {"min": "64x64", "opt": "480x270", "max": "960x544"}},
        {"gpu": "NVIDIA H100"},
        {"capability": "9.1"},
        {"driver": "13.1"},
        {"cuda": "13.1"},
        {"tensorrt": "11.5"},
        {"plugin": ""},
        {"options": {"tf32": True, "workspace": None}},
    ],
)
def test_another_key_is_another_engine(change: dict[str, Any], tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    assert cache.find_or_build(KEY, lambda: CONTENT) == CONTENT
    other = replace(KEY, **change)
    assert cache.find(other) is None
    assert cache.find_or_build(other, lambda: b"other") == b"other"
    assert cache.find_or_build(KEY, never) == CONTENT


def test_the_folder_is_that_of_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSM_CACHE", str(tmp_path))
    EngineCache().find_or_build(KEY, lambda: CONTENT)
    assert (tmp_path / "engines" / f"{KEY.digest}.engine").read_bytes() == CONTENT


def damage(folder: Path, how: str) -> None:
    engine, description = (folder / "engines" / f"{KEY.digest}.{suffix}" for suffix in ("engine", "json"))
    if how == "a bit":
        engine.write_bytes(bytes([CONTENT[0] ^ 1]) + CONTENT[1:])
    elif how == "cut off":
        engine.write_bytes(CONTENT[:1000])
    elif how == "gone":
        engine.unlink()
    elif how == "no JSON":
        description.write_text("{")
    elif how == "a list":
        description.write_text("[]")
    else:
        said = json.loads(description.read_text())
        said["key"]["driver"] = "12.0"
        description.write_text(json.dumps(said))


@pytest.mark.parametrize("how", ["a bit", "cut off", "gone", "no JSON", "a list", "another key"])
def test_a_damaged_engine_is_built_again(how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = EngineCache(tmp_path)
    cache.find_or_build(KEY, lambda: CONTENT)
    damage(tmp_path, how)
    with caplog.at_level(logging.WARNING, "zsm"):
        assert cache.find(KEY) is None
    assert how == "gone" or "is damaged" in caplog.text
    assert cache.find_or_build(KEY, lambda: CONTENT) == CONTENT
    assert cache.find_or_build(KEY, never) == CONTENT


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    with pytest.raises(AssertionError):
        cache.find_or_build(KEY, never)
    assert cache.find(KEY) is None
    assert cache.entries() == []
    assert cache.find_or_build(KEY, lambda: CONTENT) == CONTENT


PROCESS = """
import random, sys, time
from dataclasses import replace
from pathlib import Path
from zsm.engine.backends.tensorrt.cache import EngineCache, EngineKey

key = EngineKey(**{key})
content = random.Random(0).randbytes(200_000)
folder = Path(sys.argv[1])

def build():
    with (folder / "log.txt").open("a") as log:
        log.write("built\\n")
    time.sleep(float(sys.argv[2]))
    return content
"""
ONCE = "assert EngineCache(folder).find_or_build(key, build) == content"
FOR_EVER = """
for number in range(10**9):
    EngineCache(folder).find_or_build(replace(key, driver=str(number % 3)), build)
    EngineCache(folder).clear()
"""


def start(folder: Path, script: str, seconds: float) -> subprocess.Popen[bytes]:
    code = PROCESS.replace("{key}", repr(asdict(KEY))) + script
    return subprocess.Popen([sys.executable, "-c", code, str(folder), str(seconds)])


def test_of_two_processes_one_builds_and_one_waits(tmp_path: Path) -> None:
    processes = [start(tmp_path, ONCE, 1) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert (tmp_path / "log.txt").read_text() == "built\n"


def test_a_killed_builder_leaves_nothing_that_is_taken_for_an_engine(tmp_path: Path) -> None:
    chance = random.Random(0)
    for _ in range(6):
        (tmp_path / "log.txt").unlink(missing_ok=True)
        with start(tmp_path, FOR_EVER, 0) as process:
            while not (tmp_path / "log.txt").exists():
                assert process.poll() is None
                time.sleep(0.005)
            time.sleep(chance.random() / 20)
            process.kill()
        cache = EngineCache(tmp_path)
        for driver in "012":
            assert cache.find(replace(KEY, driver=driver)) in (None, CONTENT)
            assert cache.find_or_build(replace(KEY, driver=driver), lambda: CONTENT) == CONTENT
        assert all(entry.sound for entry in cache.entries())
        cache.clear()
        assert {file.suffix for file in cache.folder.iterdir()} <= {".lock"}


def test_engines_of_other_sizes_are_found(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    larger = replace(KEY, sizes={**KEY.sizes, "max": "1920x1080"}, options={})
    for key in (replace(KEY, driver="old"), KEY, larger, replace(larger, stage="extract")):
        cache.find_or_build(key, lambda: CONTENT)
    assert cache.similar(KEY) == [larger, KEY]


def test_descriptions_that_vanish_or_cannot_be_read(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    cache.find_or_build(KEY, lambda: CONTENT)
    (cache.folder / "cleared.json").symlink_to(tmp_path / "nowhere")
    assert cache.similar(KEY) == [KEY]
    (cache.folder / "unreadable.json").mkdir()
    with pytest.raises(CacheError, match=r"unreadable\.json can't be read"):
        cache.similar(KEY)


def test_entries_say_what_is_there(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    assert cache.entries() == []
    cache.find_or_build(KEY, lambda: CONTENT)
    (entry,) = cache.entries()
    assert (entry.digest, entry.bytes, entry.sound, entry.key["gpu"]) == (KEY.digest, 200_000, True, "NVIDIA H200")
    damage(tmp_path, "a bit")
    assert not cache.entries()[0].sound


def test_clearing_spares_what_is_being_built(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    old = replace(KEY, driver="old")
    cache.find_or_build(old, lambda: b"12345")
    unfinished = cache.folder / f".{KEY.digest}.0123456789ab.part"
    abandoned = cache.folder / f".{old.digest}.0123456789ab.part"

    def build() -> bytes:
        for file in (unfinished, abandoned):
            file.touch()
        assert EngineCache(tmp_path).clear().in_use == (KEY.digest,)
        assert unfinished.exists()
        assert not any(old.digest in file.name for file in cache.folder.iterdir())
        return CONTENT

    assert cache.find_or_build(KEY, build) == CONTENT
    assert [entry.digest for entry in cache.entries()] == [KEY.digest]


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a file of 3 bytes in each part, of `openvino` in a folder."""
    monkeypatch.setenv("ZSM_CACHE", str(tmp_path))
    for name in ("timing/a.cache", "openvino/folder/a.blob", "measured/a.json", "finished/a.json", "weights/a.pth"):
        write(tmp_path / name, b"123")
    return tmp_path


def left(cache: Path) -> set[str]:
    return {path.parent.name for path in cache.glob("*/*")}


def test_the_command_lists_every_part(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["parts"]
    one, none = {"files": 1, "bytes": 3}, {"files": 0, "bytes": 0}
    assert found == dict.fromkeys(["timing", "openvino", "measured", "finished", "weights"], one) | {"engines": none}
    assert main(["cache", "list"]) == 0
    assert re.search(r"weights +1 +0\.0", capsys.readouterr().out)


def test_clearing_deletes_what_was_built_or_is_named(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timing = EngineCache().timing_file("NVIDIA H200", "9.0", "11.4.0.106")
    assert timing.name == "NVIDIA-H200-9-0-11-4-0-106.cache"
    write(timing, b"123")
    assert main(["cache", "clear"]) == 0
    assert "timing: deleted 2 files" in capsys.readouterr().out
    assert left(parts) == {"measured", "finished", "weights"}
    assert main(["cache", "clear", "finished", "weights", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["weights"] == {"files": 1, "bytes": 3}
    assert left(parts) == {"measured"}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="set ZSM_CACHE"):
        EngineCache(tmp_path / "file").find_or_build(KEY, lambda: CONTENT)
    (tmp_path / "folder").mkdir()
    with pytest.raises(CacheError, match="can't be written"):
        write(tmp_path / "folder", b"")
    assert list((tmp_path / "folder").iterdir()) == []


def test_the_command_lists_and_clears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZSM_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "160")
    EngineCache().find_or_build(KEY, lambda: CONTENT)
    damage(tmp_path, "a bit")
    assert main(["cache", "list"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("1 engines", "propagate", "NVIDIA H200", "64x64 to 960x540", "damaged"))
    assert main(["cache", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["engines"][0]["key"]["tensorrt"] == "11.4.0.106"
    assert main(["cache", "clear"]) == 0
    assert "engines: deleted " in capsys.readouterr().out
    assert EngineCache().entries() == []
