"""Bundles of the full-size network against the reference network's own outputs."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from tests import reference_weights

from zsm.engine import Bundle, NetworkConfig, Runtime
from zsm.export import Options
from zsm.export.model import Network, checkpoint

CASES = ("n2_32x48", "n3_40x36", pytest.param("n4_45x61", marks=pytest.mark.slow))

Array = NDArray[Any]
Golden = Callable[[str], tuple[Array, Array]]


@pytest.fixture(scope="module")
def fp16(export_once: Callable[..., Path], full_network: Network) -> Path:
    return export_once("full-fp16", full_network, Options(precision="fp16"))


def test_the_network_has_the_released_size(full_network: Network) -> None:
    assert sum(parameter.numel() for parameter in full_network.parameters()) == 11_102_771


@pytest.mark.parametrize("case", CASES)
def test_fp32(case: str, golden: Golden, full_bundle: Path) -> None:
    clip, expected = golden(case)
    with Runtime(full_bundle) as rt:
        assert np.abs(rt(clip) - expected).max() <= 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_fp16(case: str, golden: Golden, fp16: Path) -> None:
    clip, expected = golden(case)
    with Runtime(fp16) as rt:
        mse = np.mean((rt(clip).astype(np.float64) - expected) ** 2)
    assert -10 * np.log10(mse) >= 55


@pytest.mark.slow
def test_fp16_graphs_hold_one_float_type(fp16: Path) -> None:
    """Strong typing: between pixels and planes everything is float16."""
    for name, stage in Bundle(fp16).manifest.stages.items():
        if name.startswith(("ingest", "emit")):
            continue
        graph = onnx.load(fp16 / stage.file).graph
        scales = {node.input[2] for node in graph.node if node.op_type == "Resize"}  # float32 by definition
        values = [v for v in (*graph.input, *graph.output, *graph.value_info) if v.name not in scales]
        types = {value.type.tensor_type.elem_type for value in values}
        types |= {tensor.data_type for tensor in graph.initializer if tensor.name not in scales}
        assert onnx.TensorProto.FLOAT not in types
        assert onnx.TensorProto.FLOAT16 in types


class Portable:
    """The stages of a portable bundle in bare ONNX Runtime sessions."""

    def __init__(self, bundle: Path) -> None:
        self.sessions = {
            name: ort.InferenceSession(bundle / f"{name}.onnx", providers=["CPUExecutionProvider"])
            for name in ("extract", "interpolate", "propagate", "reconstruct")
        }

    def __call__(self, stage: str, **inputs: Array) -> dict[str, Array]:
        session = self.sessions[stage]
        return dict(zip((o.name for o in session.get_outputs()), session.run(None, inputs), strict=True))


def test_the_weights_are_the_reference_networks(goldens: Path) -> None:
    expected = runpy.run_path(str(goldens / "reference_weights.py"))["state_dict"](1)
    found = reference_weights.state_dict(Network(NetworkConfig()), seed=1)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_intermediates_stage_by_stage_in_bare_sessions(goldens: Path, full_bundle: Path) -> None:
    run = Portable(full_bundle)
    with np.load(goldens / "n2_32x48.npz") as data:
        planes = data["x"][0]
    with np.load(goldens / "n2_32x48.intermediates.npz") as data:
        expected = {name: data[name] for name in data.files}

    levels = run("extract", planes=planes)
    for name in ("level1", "level2", "level3"):
        close(levels[name], expected[name.replace("level", "L")])

    between = {f"previous_{name}": level[:1] for name, level in levels.items()}
    between |= {f"next_{name}": level[1:] for name, level in levels.items()}
    gap = run("interpolate", **between)["feature"]
    close(gap, expected["interp"])

    features = [levels["level1"][:1], gap, levels["level1"][1:]]
    close(np.stack(states(run, features)), expected["cell_h"][:3])
    close(np.stack(states(run, features[::-1])), expected["cell_h"][3:])


def states(run: Portable, features: list[Array]) -> list[Array]:
    hidden = cell = np.zeros_like(features[0])
    found = []
    for feature in features:
        out = run("propagate", feature=feature, hidden=hidden, cell=cell)
        hidden, cell = out["next_hidden"], out["next_cell"]
        found.append(hidden)
    return found


def close(found: Array, expected: Array) -> None:
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=2e-5)


def test_the_prefix_of_parallel_training_is_dropped(full_weights: Path, full_network: Network, tmp_path: Path) -> None:
    content = torch.load(full_weights, weights_only=True)
    path = tmp_path / "parallel.pth"
    torch.save({f"module.{name}": tensor for name, tensor in content.items()}, path)
    assert_same(checkpoint.load(path), full_network)


def test_safetensors_keep_weights_and_configuration(full_network: Network, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    checkpoint.save(full_network, path, {"licence": "CC0"})
    loaded = checkpoint.load(path)
    assert loaded.config == NetworkConfig()
    assert checkpoint.metadata(path)["licence"] == "CC0"
    assert_same(loaded, full_network)


def assert_same(a: Network, b: Network) -> None:
    for (name, x), (_, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert torch.equal(x, y), name
