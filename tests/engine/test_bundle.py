"""Bundles that are included, damaged, foreign, or in a newer format."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zsm.engine import Bundle, Runtime
from zsm.engine.bundle.manifest import included
from zsm.errors import BackendError, BundleError

Edit = Callable[..., Path]


def test_included_bundles_are_opened_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "compact" in included()
    for name in included():
        assert Bundle(name).manifest.stages
        assert repr(Bundle(name)).startswith("Bundle('")


def test_a_folder_comes_before_an_included_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "compact").mkdir()
    with pytest.raises(BundleError, match="compact is not a bundle"):
        Bundle("compact")


def test_a_bundle_is_found_again_from_another_folder(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its graphs are read once more for the first frame."""
    clip = np.random.default_rng(0).random((2, 4, 4, 3), np.float32)
    monkeypatch.chdir(tiny_bundle.parent)
    with Runtime(tiny_bundle.name, threads=1) as rt, Runtime(tiny_bundle, threads=1) as absolute:
        monkeypatch.chdir("/")
        np.testing.assert_array_equal(rt(clip), absolute(clip))


def test_an_unknown_name_lists_the_included_bundles() -> None:
    with pytest.raises(BundleError, match=r"^nosuch is not a bundle: .*comes with zsm: compact"):
        Bundle("nosuch")


def test_a_newer_format(edit_manifest: Edit) -> None:
    with pytest.raises(BundleError, match=r"format version is 99.*upgrade zsm"):
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
def test_invalid_values(fields: dict[str, object], edit_manifest: Edit) -> None:
    with pytest.raises(BundleError, match="can't be used"):
        Bundle(edit_manifest(**fields))


def test_missing_stages_are_named(edit_manifest: Edit) -> None:
    with pytest.raises(BundleError, match=r"no stage emit_float32, emit_uint16, .*propagate"):
        Bundle(edit_manifest(stages={}))


@pytest.mark.parametrize("file", ["../outside.onnx", "/etc/passwd", "a/../../b.onnx", "..\\outside.onnx", "a\0b", ""])
def test_a_stage_outside_the_folder(file: str, edit_manifest: Edit) -> None:
    stage = {"file": file, "sha256": "", "bytes": 0, "parameters": 0, "flop_per_pixel": 0, "inputs": [], "outputs": []}
    with pytest.raises(BundleError, match="lies outside"):
        Bundle(edit_manifest(stages={"extract": stage}))


def test_a_link_out_of_the_folder(edit_manifest: Edit, tmp_path: Path) -> None:
    bundle = edit_manifest()
    outside = tmp_path / "outside.onnx"
    (bundle / "extract.onnx").rename(outside)
    (bundle / "extract.onnx").symlink_to(outside)
    with pytest.raises(BundleError, match="lies outside"):
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


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        Bundle(tmp_path)
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        Bundle(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "null", '{"format_version": 1}', "\x00", "[" * 100_000, "9" * 6000]
)
def test_an_invalid_manifest(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match="can't be used"):
        Bundle(tmp_path)


def test_a_binary_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match="can't be used"):
        Bundle(tmp_path)
