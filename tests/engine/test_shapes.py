"""The shapes that the manifest declares, against what ONNX Runtime computes."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from zsm.engine import Bundle
from zsm.engine.bundle.manifest import OUTPUT_SIZE
from zsm.engine.bundle.shapes import Size, SizeRange, input_shapes, output_shapes
from zsm.errors import SizeError
from zsm.plugins.operator import make_portable


def session(bundle: Bundle, stage: str) -> ort.InferenceSession:
    import onnx

    model = make_portable(onnx.load_from_string(bundle.read(stage)))
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("size", [Size(8, 4), Size(9, 6), Size(1, 1)])
def test_every_stage_takes_and_returns_these_shapes(size: Size, tiny_bundle: Path) -> None:
    bundle = Bundle(tiny_bundle)
    for stage, spec in bundle.manifest.stages.items():
        shapes = input_shapes(bundle.manifest, stage, size)
        inputs = {
            tensor.name: np.array(shapes[tensor.name], tensor.dtype)
            if tensor.name == OUTPUT_SIZE
            else np.zeros(shapes[tensor.name], tensor.dtype)
            for tensor in spec.inputs
        }
        found = session(bundle, stage).run(None, inputs)
        assert {t.name: a.shape for t, a in zip(spec.outputs, found, strict=True)} == output_shapes(
            bundle.manifest, stage, size
        )


def test_the_recurrence_runs_both_directions_at_once(tiny_bundle: Path) -> None:
    manifest = Bundle(tiny_bundle).manifest
    assert input_shapes(manifest, "propagate", Size(480, 270))["hidden"] == (2, 8, 272, 480)
    assert input_shapes(manifest, "emit_uint8", Size(480, 270)) == {"planes": (1, 3, 1088, 1920), "size": (1080, 1920)}


def test_a_range_contains_its_sizes() -> None:
    sizes = SizeRange(min=Size(64, 64), opt=Size(480, 270), max=Size(960, 540))
    assert Size(64, 540) in sizes
    assert Size(63, 64) not in sizes
    assert Size(960, 541) not in sizes
    assert str(sizes) == "64x64 to 960x540, best 480x270"
    assert str(SizeRange.only(Size(4, 6))) == "4x6"


def test_a_range_must_ascend() -> None:
    with pytest.raises(SizeError, match="the heights are 64, 32, 540"):
        SizeRange(min=Size(64, 64), opt=Size(64, 32), max=Size(960, 540))
