"""The content of exported bundles, and failures, which leave nothing behind."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tests.conftest import BICUBIC, random_network

from zsm.engine import Bundle
from zsm.errors import OutputError
from zsm.export import Options, check, export_bundle, export_weights
from zsm.export.model import Network, checkpoint
from zsm.plugins import operator

SMALLEST = {"width": 4, "extraction_blocks": 0, "reconstruction_blocks": 0, "deformable_groups": 1}


def test_every_file_is_checked_onnx_with_named_sizes(tiny_bundle: Path) -> None:
    manifest = Bundle(tiny_bundle).manifest
    assert sorted(path.name for path in tiny_bundle.iterdir()) == sorted(
        ["manifest.json", *(stage.file for stage in manifest.stages.values())]
    )
    for stage in manifest.stages.values():
        model = onnx.load(tiny_bundle / stage.file)
        onnx.checker.check_model(model, full_check=True)
        assert not model.functions
        for value in model.graph.value_info:
            assert value.type.tensor_type.HasField("shape"), value.name
        for spec, value in zip((*stage.inputs, *stage.outputs), (*model.graph.input, *model.graph.output), strict=True):
            dims = value.type.tensor_type.shape.dim
            assert spec.name == value.name
            assert spec.shape == tuple(dim.dim_param or dim.dim_value for dim in dims)


@pytest.mark.parametrize("package", ["av", "cv2", "scenedetect"])
def test_only_calibration_needs_the_packages_for_video(package: str) -> None:
    script = f"import sys; sys.modules[{package!r}] = None; import zsm.export.bundle, zsm.cli.export"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_parameters_and_arithmetic_are_counted(tiny_bundle: Path, tiny_network: Network) -> None:
    stages = Bundle(tiny_bundle).manifest.stages
    assert sum(stage.parameters for stage in stages.values()) == sum(p.numel() for p in tiny_network.parameters())
    # Extraction by hand: 3 -> 8, then a block of two 8 -> 8 at full size, then the pyramid at 1/4 and 1/16.
    multiply_adds = 9 * 8 * (3 + 2 * 8 + 2 * 8 / 4 + 2 * 8 / 16)
    assert stages["extract"].flop_per_pixel == 2 * multiply_adds


def test_files_contain_no_local_paths(tiny_bundle: Path) -> None:
    for path in tiny_bundle.iterdir():
        assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()


def test_portable_files_carry_the_function(full_bundle: Path) -> None:
    bundle = Bundle(full_bundle)
    assert [f.name for f in onnx.load(bundle.path / "interpolate.onnx").functions] == [operator.NAME]
    assert bundle.manifest.portable


def test_an_existing_bundle_is_replaced_only_on_request(tiny_network: Network, bicubic_bundle: Path) -> None:
    before = (bicubic_bundle / "manifest.json").read_bytes()
    with pytest.raises(OutputError, match="already exists"):
        export_bundle(tiny_network, bicubic_bundle)
    assert (bicubic_bundle / "manifest.json").read_bytes() == before


@pytest.mark.slow
def test_overwriting_through_a_link_keeps_the_link(bicubic_bundle: Path, tmp_path: Path) -> None:
    network = Network(Bundle(bicubic_bundle).network)
    real, link = tmp_path / "real", tmp_path / "link"
    shutil.copytree(bicubic_bundle, real)
    link.symlink_to(real)
    export_bundle(network, link, Options(overwrite=True, licence="new"))
    assert Bundle(link).manifest.licence == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_folder_without_a_manifest_is_never_replaced(tiny_network: Network, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    with pytest.raises(OutputError, match="isn't a bundle"):
        export_bundle(tiny_network, tmp_path, Options(overwrite=True))
    assert (tmp_path / "precious").read_text() == "data"


def test_graphs_that_differ_from_the_network_leave_no_bundle(
    bicubic_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(Bundle(bicubic_bundle).network)
    monkeypatch.setattr(check, "LIMIT_ABSOLUTE", -1.0)
    with pytest.raises(OutputError, match=r"^the exported graphs differ from the network"):
        export_bundle(network, tmp_path / "wrong")
    assert list(tmp_path.iterdir()) == []


def test_one_wrong_weight_fails_the_check(tiny_bundle: Path, tiny_network: Network) -> None:
    assert check.compare(tiny_network, tiny_bundle).acceptable
    config = tiny_network.config
    other = Network(config)
    other.load_state_dict(tiny_network.state_dict())
    with torch.no_grad():
        other.reconstruction.last.weight[0, 0, 1, 1] += 0.1
    assert not check.compare(other, tiny_bundle).acceptable
    with torch.no_grad():
        other.reconstruction.last.weight[0, 0, 1, 1] = torch.nan
    assert not check.compare(other, tiny_bundle).acceptable


def test_every_pixel_type_is_checked(export_once: Callable[..., Path], tmp_path: Path) -> None:
    network = random_network(BICUBIC)
    bundle = shutil.copytree(export_once("bicubic-half", network, Options(precision="fp16")), tmp_path / "bundle")
    assert check.compare(network, bundle).acceptable
    darken(bundle, "emit_uint16")
    assert not check.compare(network, bundle).acceptable


def darken(bundle: Path, stage: str) -> None:
    """Make a stage's white a tenth darker."""
    file, manifest = bundle / f"{stage}.onnx", json.loads((bundle / "manifest.json").read_text())
    model = onnx.load(file)
    white = next(tensor for tensor in model.graph.initializer if tensor.name == "white")
    white.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(white) * np.float32(0.9), "white"))
    onnx.save(model, file)
    manifest["stages"][stage] |= {"sha256": sha256(file.read_bytes()).hexdigest(), "bytes": file.stat().st_size}
    (bundle / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.slow
def test_metadata_of_weights_is_kept(bicubic_bundle: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    network = Network(Bundle(bicubic_bundle).network)
    checkpoint.save(network, weights, {"trained": "false", "licence": "CC0"})
    manifest = export_weights(weights, tmp_path / "bundle").bundle.manifest
    assert (manifest.trained, manifest.licence) == (False, "CC0")
    assert manifest.network == network.config
