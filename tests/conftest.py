"""What many tests need: networks as bundles, and the reference network's data where it is there."""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from numpy.typing import NDArray
from tests import reference_weights, tensorrt_rtx
from tests.native_build import build_preset
from tests.needs import missing, required

from zsm.engine import NetworkConfig
from zsm.engine.backends.gpu.cuda import Gpu
from zsm.engine.backends.tensorrt import bindings
from zsm.errors import BackendError
from zsm.export import Options, export_bundle
from zsm.export.model import Network, checkpoint

# These networks are too small for more, and threads that wait for work get in the way of other tests.
torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

TINY = NetworkConfig(width=8, extraction_blocks=1, reconstruction_blocks=1, deformable_groups=2)
BICUBIC = NetworkConfig(
    width=4,
    extraction_blocks=0,
    reconstruction_blocks=0,
    deformable_groups=1,
    base="bicubic",
    interpolation="naive",
    recurrence="none",
)


def pytest_configure(config: pytest.Config) -> None:
    required()  # a misspelt name ends the run
    # Libraries that this checkout was built with, as by `make demo`, would change results, and so would what
    # `zsm bench --compare` found out on this machine.
    os.environ.setdefault("ZSM_PLUGIN_DIR", str(Path(__file__).parent))
    if "PYTEST_XDIST_WORKER" not in os.environ:
        cache = tempfile.TemporaryDirectory(prefix="zsm-cache-")
        config.add_cleanup(cache.cleanup)
        os.environ["ZSM_CACHE"] = cache.name


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # Before any fixture exports a bundle for nothing.
    if item.get_closest_marker("gpu"):
        open_gpu()
    if item.get_closest_marker("tensorrt"):
        tensorrt_rtx.package()


def open_gpu() -> Gpu:
    try:
        return Gpu(0)
    except BackendError as error:
        missing("gpu", str(error))


def reference_data(name: str, what: str) -> Path:
    """A folder beside the checkout, which not everybody has."""
    folder = SHARED / name
    if not folder.is_dir():
        missing("reference-data", f"{what} not found beside this checkout")
    return folder


def random_network(config: NetworkConfig, seed: int = 0) -> Network:
    """A network whose offsets move samples by pixels, unlike one that is ready to be trained."""
    torch.manual_seed(seed)
    network = Network(config).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "offset_mask" in name:
                parameter.normal_(std=0.5)
    return network


@pytest.fixture(scope="session")
def tiny_network() -> Network:
    """A small network with every module of the full one, and random weights."""
    return random_network(TINY)


@pytest.fixture(scope="session")
def export_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Export a bundle, unless another test process has: tracing takes long."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def export(name: str, network: Network, options: Options | None = None) -> Path:
        path = folder / name
        with FileLock(folder / f"{name}.lock"):
            if not path.exists():
                export_bundle(network, path, options)
        return path

    return export


@pytest.fixture(scope="session")
def tiny_bundle(export_once: Callable[..., Path], tiny_network: Network) -> Path:
    """`tiny_network` as a bundle."""
    return export_once("tiny", tiny_network)


@pytest.fixture(scope="session")
def wide_half_bundle(export_once: Callable[..., Path]) -> Path:
    """The full network with few blocks, in FP16: the fused kernel's shapes, which `tiny_bundle` doesn't have."""
    config = NetworkConfig(extraction_blocks=1, reconstruction_blocks=1)
    return export_once("wide-half", random_network(config), Options(precision="fp16"))


@pytest.fixture(scope="session")
def bicubic_bundle(export_once: Callable[..., Path]) -> Path:
    """A bundle that enlarges bicubically and averages neighbours: for tests about anything but the network."""
    network = Network(BICUBIC)
    torch.nn.init.zeros_(network.reconstruction.last.weight)
    assert network.reconstruction.last.bias is not None
    torch.nn.init.zeros_(network.reconstruction.last.bias)
    return export_once("bicubic", network, Options(trained=False))


@pytest.fixture(scope="session")
def goldens() -> Path:
    """More of the reference network's data than the repository holds."""
    return reference_data("goldens", "the reference network's outputs")


@pytest.fixture(scope="session")
def golden() -> Callable[[str], tuple[NDArray[Any], NDArray[Any]]]:
    """By a case's name: a clip (N,H,W,3), and the reference network's outputs (2N-1,4H,4W,3)."""

    def load(case: str) -> tuple[NDArray[Any], NDArray[Any]]:
        file = ROOT / "tests" / "data" / f"{case}.npz"
        if not file.is_file():
            file = reference_data("goldens", "the reference network's outputs") / file.name
        with np.load(file) as data:
            return np.moveaxis(data["x"][0], 1, -1), np.moveaxis(data["y"][0], 1, -1)

    return load


@pytest.fixture(scope="session")
def full_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference weights (seed 1) for the full-size network, in the released checkpoint's format."""
    weights = reference_weights.state_dict(Network(NetworkConfig()), seed=1)
    path = tmp_path_factory.mktemp("weights") / "seed1.pth"
    torch.save({name: torch.from_numpy(values) for name, values in weights.items()}, path)
    return path


@pytest.fixture(scope="session")
def full_network(full_weights: Path) -> Network:
    """The full-size network with those weights."""
    return checkpoint.load(full_weights)


@pytest.fixture(scope="session")
def full_bundle(export_once: Callable[..., Path], full_network: Network) -> Path:
    """The same as a portable bundle."""
    return export_once("full", full_network, Options(portable=True))


@pytest.fixture(scope="session")
def clips() -> Path:
    """Real footage."""
    return reference_data("clips", "the footage")


@pytest.fixture
def edit_manifest(tiny_bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of `tiny_bundle` whose manifest has been changed."""

    def edit(**fields: object) -> Path:
        copy = tmp_path / "edited"
        copy.mkdir(exist_ok=True)
        for file in tiny_bundle.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        manifest = json.loads((copy / "manifest.json").read_text())
        manifest.update(fields)
        (copy / "manifest.json").write_text(json.dumps(manifest))
        return copy

    return edit


@pytest.fixture
def gpu() -> Gpu:
    return open_gpu()


@pytest.fixture(scope="session")
def built() -> Path:
    """The folder of the test build."""
    return build_preset("test")


@pytest.fixture
def libraries(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the built libraries, where zsm.plugins finds them."""
    monkeypatch.setenv("ZSM_PLUGIN_DIR", str(built / "lib"))
    return built / "lib"


@pytest.fixture
def tensorrt(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """TensorRT's bindings, with parser and builder but unable to run engines: see tensorrt_rtx.py."""
    if not (libraries / "libzsm_tensorrt11.so").exists():
        missing("tensorrt-headers", "built without TensorRT 11's headers, or nvcc; set ZSM_TENSORRT_INCLUDE_DIRS")
    module = tensorrt_rtx.load(libraries / "rtx")
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(bindings, "logger", tensorrt_rtx.logger)
    bindings.tensorrt.cache_clear()
    yield module
    bindings.tensorrt.cache_clear()
