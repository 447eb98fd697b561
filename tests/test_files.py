"""`zsm.files`: the cache folder, and files that are either complete or absent."""

import os
import pwd
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from zsm import files
from zsm.engine import Runtime
from zsm.errors import CacheError
from zsm.runtime import video
from zsm.runtime.video import images


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "file"
    files.write(target, "ä")
    files.write(target, b"second")
    assert target.read_bytes() == b"second"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_a_failure_leaves_the_old_content_and_no_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def fail() -> None:
        with files.replacing(target) as temporary:
            temporary.write_text("half of the ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_new_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write(tmp_path / "file", "")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_names_of_the_greatest_length_work(tmp_path: Path) -> None:
    name = "ü" * 127  # 254 bytes
    files.write(tmp_path / name, "content")
    assert (tmp_path / name).read_text() == "content"


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(files.VARIABLE, str(tmp_path))
    assert files.cache_folder() == tmp_path
    monkeypatch.delenv(files.VARIABLE)
    assert files.cache_folder().name == "zsm"


def test_a_relative_cache_folder_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever keeps it may find the program in another folder later."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(files.VARIABLE, "cache")
    assert files.cache_folder() == tmp_path / "cache"


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user has a random number."""

    def fail(number: int) -> NoReturn:
        raise KeyError(number)

    for name in ("HOME", "XDG_CACHE_HOME", files.VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", fail)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_the_message_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"no place for the cache: .*; set ZSM_CACHE"):
        files.cache_folder()
    monkeypatch.setenv(files.VARIABLE, str(tmp_path))
    assert files.cache_folder() == tmp_path


@pytest.mark.usefixtures("homeless")
def test_without_a_home_films_are_made_and_not_remembered(bicubic_bundle: Path, tmp_path: Path) -> None:
    for number in range(2):
        images.write(tmp_path / "in" / f"{number}.png", np.zeros((4, 4, 3), np.uint8))
    with Runtime(bicubic_bundle) as rt:
        assert video.restore(tmp_path / "in", tmp_path / "out.mkv", rt).frames_out == 3
