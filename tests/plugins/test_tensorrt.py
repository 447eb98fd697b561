"""The plugin in TensorRT's own registry."""

import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from zsm.errors import PluginError
from zsm.plugins import load

pytestmark = pytest.mark.tensorrt

FIELDS = {
    "kernel_shape": [3, 3],
    "strides": [1, 1],
    "pads": [1, 1, 1, 1],
    "dilations": [1, 1],
    "group": [1],
    "offset_group": [8],
}


def collection(tensorrt: ModuleType, fields: dict[str, list[int]]) -> Any:
    kind = tensorrt.PluginFieldType.INT32
    return tensorrt.PluginFieldCollection(
        [tensorrt.PluginField(n, np.array(v, np.int32), kind) for n, v in fields.items()]
    )


@pytest.fixture
def creator(tensorrt: ModuleType) -> Any:
    assert load(tensorrt) == load(tensorrt)  # idempotent
    return tensorrt.get_plugin_registry().get_creator("DeformConv2d", "1", "zsm")


def test_the_creator_lists_the_attributes(creator: Any) -> None:
    assert {field.name for field in creator.field_names} == FIELDS.keys()


@pytest.mark.parametrize("phase", ["BUILD", "RUNTIME"])
def test_the_creator_makes_plugins(tensorrt: ModuleType, creator: Any, phase: str) -> None:
    plugin = creator.create_plugin("node", collection(tensorrt, FIELDS), getattr(tensorrt.TensorRTPhase, phase))
    core = plugin.get_capability_interface(tensorrt.PluginCapabilityType.CORE)
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
    tensorrt: ModuleType,
    creator: Any,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    field: str,
    value: list[int],
    message: str,
) -> None:
    fields = collection(tensorrt, FIELDS | {field: value})
    with caplog.at_level(logging.INFO, "zsm.tensorrt"):
        assert creator.create_plugin("node", fields, tensorrt.TensorRTPhase.RUNTIME) is None
    # It goes to TensorRT's logger, which there is once something has been built.
    assert message in capfd.readouterr().err + caplog.text


def test_a_missing_library_is_an_error(tensorrt: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSM_PLUGIN_DIR", str(tmp_path))
    with pytest.raises(PluginError, match=rf"libzsm_tensorrt11\.so is not in {tmp_path}; build it"):
        load(tensorrt)
