"""Bundles that are damaged, foreign, or of another time."""

from collections.abc import Callable
from pathlib import Path

import pytest

from zsm.engine import Bundle, BundleError, Runtime

Edit = Callable[..., Path]


def test_a_newer_format(edit_manifest: Edit) -> None:
    with pytest.raises(BundleError, match=r"format is version 99.*upgrade zsm"):
        Bundle(edit_manifest(format_version=99))


@pytest.mark.parametrize("version", ["1", None, [1]])
def test_a_format_that_is_no_number(version: object, edit_manifest: Edit) -> None:
    with pytest.raises(BundleError, match="no number"):
        Bundle(edit_manifest(format_version=version))


def test_an_unknown_precision(edit_manifest: Edit) -> None:
    with pytest.raises(BundleError, match="precision is 'fp64'"):
        Bundle(edit_manifest(precision="fp64"))


def test_an_unknown_field(edit_manifest: Edit) -> None:
    with pytest.raises(BundleError, match="colour"):
        Bundle(edit_manifest(colour="red"))


def test_a_network_that_cannot_be(edit_manifest: Edit) -> None:
    with pytest.raises(BundleError, match="width is -1"):
        Bundle(edit_manifest(network={"width": -1}))


@pytest.mark.parametrize("file", ["../outside.onnx", "/etc/passwd", "a/../../b.onnx", "..\\outside.onnx"])
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


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"format_version": 1}', "\x00"])
def test_a_manifest_that_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match="can't be used"):
        Bundle(tmp_path)


def test_a_manifest_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match="can't be read"):
        Bundle(tmp_path)
