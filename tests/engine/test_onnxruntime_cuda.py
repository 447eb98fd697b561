"""The backend that keeps tensors on the GPU. All of it but the provider's name and settings also runs on the CPU."""

from pathlib import Path

import numpy as np
import pytest

from zsm.engine import BackendError, Bundle, Runtime
from zsm.engine.backends import Device
from zsm.engine.backends.onnxruntime_cuda import OrtValueBackend, _assigned_elsewhere
from zsm.engine.cuda import Gpu
from zsm.runtime.stream import stream


def backend(bundle: Path) -> OrtValueBackend:
    return OrtValueBackend(Bundle(bundle), Device(kind="cpu"), 1, "CPUExecutionProvider", {})


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("fixture", ["tiny_bundle", "bicubic_bundle"])
def test_it_gives_what_the_cpu_backend_gives(fixture: str, dtype: str, request: pytest.FixtureRequest) -> None:
    bundle = request.getfixturevalue(fixture)
    white = {"float32": 1, "uint8": 255, "uint16": 65535}[dtype]
    clip = (np.random.default_rng(0).random((6, 6, 9, 3), np.float32) * white).astype(dtype)
    directions = Bundle(bundle).network.directions
    found = np.stack(list(stream(backend(bundle), clip, directions=directions, window=4, overlap=1)))
    assert found.flags.owndata
    with Runtime(bundle, threads=1) as rt:
        np.testing.assert_array_equal(found, rt(clip))


def test_a_failing_stage_is_named_with_its_shapes(tiny_bundle: Path) -> None:
    opened = backend(tiny_bundle)
    planes = opened.from_host(np.zeros((1, 5, 4, 4), np.float32))
    with pytest.raises(BackendError, match=r"stage extract failed on planes \(1, 5, 4, 4\)"):
        opened.run("extract", {"planes": planes})


def test_work_that_would_be_done_on_the_cpu_is_noticed(tiny_bundle: Path) -> None:
    session = backend(tiny_bundle)._sessions["propagate"]
    assert _assigned_elsewhere(session, "CPUExecutionProvider") == set()
    assert {"Conv", "DeformConv", "Resize"} <= _assigned_elsewhere(session, "CUDAExecutionProvider")


def test_without_the_provider_the_message_says_what_to_install(tiny_bundle: Path) -> None:
    with pytest.raises(BackendError, match=r"has no CUDAExecutionProvider.*cuda:0.*pip install 'zsm\[gpu\]'"):
        Runtime(tiny_bundle, device="cuda:0", backend="onnxruntime")


@pytest.mark.gpu
def test_on_the_gpu(gpu: Gpu, tiny_bundle: Path) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (6, 34, 45, 3), np.uint8)
    with Runtime(tiny_bundle) as cpu, Runtime(tiny_bundle, device="cuda:0", backend="onnxruntime") as rt:
        np.testing.assert_allclose(rt(clip).astype(int), cpu(clip).astype(int), atol=1)
