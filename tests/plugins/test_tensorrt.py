"""The plugin in TensorRT's own registry. The lean runtime is enough: it needs no GPU for this."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.needs import missing, module

from zsm.errors import PluginError
from zsm.plugins import load

FIELDS = {
    "kernel_shape": [3, 3],
    "strides": [1, 1],
    "pads": [1, 1, 1, 1],
    "dilations": [1, 1],
    "group": [1],
    "offset_group": [8],
}


def major(trt: Any) -> str:
    return str(trt.__version__).split(".")[0]


def collection(trt: Any, fields: dict[str, list[int]]) -> Any:
    kind = trt.PluginFieldType.INT32
    return trt.PluginFieldCollection([trt.PluginField(n, np.array(v, np.int32), kind) for n, v in fields.items()])


@pytest.fixture(scope="module")
def trt() -> Any:
    """TensorRT's lean runtime."""
    install = "pip install tensorrt-lean-cu13-libs tensorrt-lean-cu13-bindings"
    return module("tensorrt_lean_bindings", "tensorrt-lean", install)


@pytest.fixture
def creator(trt: Any, libraries: Path) -> Any:
    if not (libraries / f"libzsm_tensorrt{major(trt)}.so").exists():
        missing("tensorrt-headers", f"built without TensorRT {major(trt)}'s headers; set ZSM_TENSORRT_INCLUDE_DIRS")
    assert load(trt) == load(trt)  # idempotent
    return trt.get_plugin_registry().get_creator("DeformConv2d", "1", "zsm")


def test_the_creator_lists_the_attributes(creator: Any) -> None:
    assert {field.name for field in creator.field_names} == FIELDS.keys()


@pytest.mark.parametrize("phase", ["BUILD", "RUNTIME"])
def test_the_creator_makes_plugins(trt: Any, creator: Any, phase: str) -> None:
    plugin = creator.create_plugin("node", collection(trt, FIELDS), getattr(trt.TensorRTPhase, phase))
    core = plugin.get_capability_interface(trt.PluginCapabilityType.CORE)
    assert (core.plugin_name, core.plugin_version, core.plugin_namespace) == ("DeformConv2d", "1", "zsm")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("group", [0], "group is 0, must be from 1"),
        ("pads", [1, 1], "pads (1,1) must have 4 values"),
        ("scale", [1], "there is no field scale"),
    ],
)
def test_invalid_fields_are_rejected(
    trt: Any, creator: Any, capfd: pytest.CaptureFixture[str], field: str, value: list[int], message: str
) -> None:
    fields = collection(trt, FIELDS | {field: value})
    assert creator.create_plugin("node", fields, trt.TensorRTPhase.RUNTIME) is None
    assert message in capfd.readouterr().err


def test_a_missing_library_is_an_error(trt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSM_PLUGIN_DIR", str(tmp_path))
    with pytest.raises(PluginError, match=rf"libzsm_tensorrt{major(trt)}\.so is not in {tmp_path}; build it"):
        load(trt)
