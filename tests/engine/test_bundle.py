"""Bundles that are damaged, foreign, or of another time."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from zsm.engine import Bundle, Runtime
from zsm.errors import BackendError, BundleError

Edit = Callable[..., Path]


def test_the_bundle_that_comes_with_zsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Bundle("compact").manifest.stages
    (tmp_path / "compact").mkdir()  # a folder of one's own comes first
    with pytest.raises(BundleError, match="compact is no bundle"):
        Bundle("compact")


def test_a_newer_format(edit_manifest: Edit) -> None:
    with pytest.raises(BundleError, match=r"format is version 99.*upgrade zsm"):
        Bundle(edit_manifest(format_version=99))


@pytest.mark.parametrize(
    "fields",
    [
        {"format_version": "1"},
        {"format_version": None},
        {"format_version": True},
        {"format_version": 0},
        {"precision": "fp64"},
        {"opset": "x"},
        {"trained": "no"},
        {"network": {"width": -1}},
        {"network": {"bidirectional": "yes"}},
        {"network": [1]},
        {"stages": {"extract": {}}},
        {"stages": []},
    ],
)
def test_values_that_cannot_be(fields: dict[str, object], edit_manifest: Edit) -> None:
    with pytest.raises(BundleError, match="can't be used"):
        Bundle(edit_manifest(**fields))


def test_stages_that_the_network_needs(edit_manifest: Edit) -> None:
    with pytest.raises(BundleError, match=r"no stage emit_float32, emit_uint16, .*propagate"):
        Bundle(edit_manifest(stages={}))


@pytest.mark.parametrize("file", ["../outside.onnx", "/etc/passwd", "a/../../b.onnx", "..\\outside.onnx", "a\0b", ""])
def test_a_stage_outside_the_folder(file: str, edit_manifest: Edit) -> None:
    stage = {"file": file, "sha256": "", "bytes": 0, "parameters": 0, "flop_per_pixel": 0, "inputs": [], "outputs": []}
    with pytest.raises(BundleError, match="points outside"):
        Bundle(edit_manifest(stages={"extract": stage}))


def test_a_link_out_of_the_folder(edit_manifest: Edit, tmp_path: Path) -> None:
    bundle = edit_manifest()
    outside = tmp_path / "outside.onnx"
    (bundle / "extract.onnx").rename(outside)
    (bundle / "extract.onnx").symlink_to(outside)
    with pytest.raises(BundleError, match="points outside"):
        Runtime(bundle)


def test_a_damaged_stage(edit_manifest: Edit) -> None:
    bundle = edit_manifest()
    file = bundle / "propagate.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"propagate\.onnx is damaged"):
        Runtime(bundle)


def test_a_stage_that_is_no_onnx(edit_manifest: Edit) -> None:
    bundle = edit_manifest()
    content = b"no graph at all"
    (bundle / "extract.onnx").write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["stages"]["extract"]["sha256"] = hashlib.sha256(content).hexdigest()
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BackendError, match="can't load stage extract"):
        Runtime(bundle)


def test_a_missing_stage(edit_manifest: Edit) -> None:
    bundle = edit_manifest()
    (bundle / "reconstruct.onnx").unlink()
    with pytest.raises(BundleError, match="stage reconstruct can't be read"):
        Runtime(bundle)


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        Bundle(tmp_path)
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        Bundle(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "null", '{"format_version": 1}', "\x00", "[" * 100_000, "9" * 6000]
)
def test_a_manifest_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match="can't be used"):
        Bundle(tmp_path)


def test_a_manifest_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match="can't be used"):
        Bundle(tmp_path)
