"""What `zsm triton` writes, and the streams of clients, without a server."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zsm.cli import main
from zsm.engine import Bundle, Runtime
from zsm.errors import ArgumentError, BackendError, BundleError, OutputError, TileError, WindowError
from zsm.hosts.triton import write_model
from zsm.hosts.triton.streams import Streams


def test_the_command_writes_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["triton", "compact", str(tmp_path / "models"), "--name", "film", "--instances", "3", "--json"]
    assert main([*command, "--device", "cuda:1", "--memory", "4GiB", "--tile", "auto"]) == 0
    folder = Path(json.loads(capsys.readouterr().out)["model"])
    assert folder == tmp_path / "models" / "film"
    assert [each.name for each in folder.parent.iterdir()] == ["film"]
    assert sorted(each.name for each in (folder / "1").iterdir()) == ["bundle", "model.py"]
    assert Bundle(folder / "1" / "bundle").manifest == Bundle("compact").manifest
    config = (folder / "config.pbtxt").read_text()
    assert "instance_group [ { count: 3 kind: KIND_GPU gpus: [ 1 ] } ]" in config
    assert "max_sequence_idle_microseconds: 3600000000\n" in config
    assert 'parameters { key: "memory" value { string_value: "4294967296" } }' in config


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"bundle": "nowhere"}, BundleError, "nowhere is not a bundle"),
        ({"name": "a/b"}, ArgumentError, "invalid model name 'a/b'"),
        ({"dtype": "float16"}, ArgumentError, "invalid dtype 'float16'; choose from uint8, uint16, float32"),
        ({"instances": 0}, ArgumentError, "instances is 0; give at least 1"),
        ({"streams": 0}, ArgumentError, "streams is 0; give at least 1"),
        ({"idle": 0}, ArgumentError, "idle is 0; give at least 1"),
        ({"window": 1}, WindowError, "a window of 1"),
        ({"device": "tpu"}, BackendError, "unknown device 'tpu'"),
        ({"backend": "tensorrt"}, BackendError, "the tensorrt backend doesn't run on cpu"),
        ({"precision": "fp8"}, ArgumentError, "precision is 'fp8'"),
        ({"threads": 0}, ArgumentError, "threads is 0"),
        ({"tile": "7x7"}, TileError, "tiles can't be 7 pixels long"),
        ({"memory": "lots"}, ArgumentError, "invalid memory 'lots'"),
        ({"tile": "640x544", "memory": "4GiB"}, ArgumentError, "leave it out, or give tile='auto'"),
    ],
)
def test_invalid_arguments_write_nothing(
    options: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        write_model(options.pop("bundle", "compact"), tmp_path / "models", **options)
    assert not list(tmp_path.iterdir())


def test_an_existing_model_is_kept(tmp_path: Path) -> None:
    write_model("compact", tmp_path)
    with pytest.raises(OutputError, match="zsm already exists; give another name, or delete it"):
        write_model("compact", tmp_path, window=5)
    assert '"window" value { string_value: "4" }' in (tmp_path / "zsm" / "config.pbtxt").read_text()


def test_a_repository_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="can't be written"):
        write_model("compact", tmp_path / "file" / "models")


def test_the_stream_that_was_idle_longest_makes_room() -> None:
    clips = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 6, 3), np.uint8)
    with Runtime("compact", threads=1) as rt:
        streams = Streams(rt, most=2)
        found: list[list[Any]] = [[], [], []]
        for number, start in ((0, True), (1, True), (0, False), (2, True), (2, False), (0, False)):
            frames = clips[number][:1] if start else clips[number][1:3] if len(found[number]) < 2 else clips[number][3:]
            found[number].append(streams.push(number, frames, start=start, end=False))
        with pytest.raises(ArgumentError, match="sequence 1 isn't open"):
            streams.push(1, clips[1][1:], start=False, end=True)
        found[0].append(streams.push(0, [], start=False, end=True))
        found[2].append(streams.push(2, clips[2][3:], start=False, end=True))
        for number in (0, 2):
            np.testing.assert_array_equal(list(chain(*found[number])), rt(clips[number]))
