"""`zsm.files`: the cache folder, and files that are either complete or absent."""

import os
from pathlib import Path

import pytest

from zsm import files


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
