"""The bundle: a folder with one ONNX graph per stage, and `manifest.json`, which describes them."""

import hashlib
import importlib.resources
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

import msgspec

from zsm.engine.bundle.network import NetworkConfig
from zsm.errors import ArgumentError, BundleError

MANIFEST = "manifest.json"
FORMAT_VERSION = 1

OUTPUT_SIZE = "size"
"""The input of `emit` that holds the output's (height, width): TensorRT calls it a shape tensor."""

Precision = Literal["fp32", "fp16"]
Count = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """A stage's input or output. Dimensions are integers, or symbols such as `n`, `H`, `W/2`, `4H`."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One stage: its file, relative to the bundle's folder, and its inputs and outputs."""

    file: str
    sha256: str
    bytes: Count
    parameters: Count
    flop_per_pixel: float
    """Floating-point operations of one call on one frame, per LR pixel; a multiply-add counts as two."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.file).parts
        if not parts or parts[0] == "/" or ".." in parts or "\\" in self.file or "\0" in self.file:
            raise BundleError(f"a stage's file lies outside the bundle: {self.file!r}")


@dataclass(frozen=True, kw_only=True)
class QuantisedBlock:
    """A block of layers that could be int8, and what quantising it alone was measured to cost."""

    stage: str
    block: str
    layers: Count
    share: float
    """Part of the network's arithmetic, 0 to 1."""
    loss: float
    """Y-PSNR in dB, the mean over the calibration clips."""
    worst: float
    """The same for the clip that loses most."""
    admitted: bool
    """Whether it is int8 in this bundle."""


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """How a bundle's int8 layers were chosen."""

    method: str
    """How ranges were chosen: `minmax`, `percentile` or `mse`."""
    budget: float
    """Y-PSNR in dB that quantising could cost in the mean over the calibration clips."""
    loss: float
    """What it does cost there."""
    worst: float
    """The same for the clip that loses most."""
    blocks: tuple[QuantisedBlock, ...]

    @property
    def share(self) -> float:
        """Part of the network's arithmetic that is int8, 0 to 1."""
        return sum(block.share for block in self.blocks if block.admitted)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of `manifest.json`."""

    format_version: int
    network: NetworkConfig
    precision: Precision
    opset: int
    portable: bool
    """Whether the files embed the operator as an ONNX function, so that any ONNX Runtime can open them."""
    trained: bool
    weights_sha256: str
    """Digest of the weights file that was exported; empty if there was none."""
    licence: str
    stages: Mapping[str, StageSpec]
    quantisation: Quantisation | None = None
    """Which layers are int8, and why; everything else has the bundle's precision."""

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Parse `manifest.json`. Raises BundleError if it is malformed or in a newer format."""
        try:
            version = msgspec.json.decode(text, type=_Version).format_version
            if version > FORMAT_VERSION:
                raise BundleError(
                    f"its format version is {version}, and this zsm reads up to {FORMAT_VERSION}; upgrade zsm"
                )
            manifest = msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, ArgumentError, RecursionError, UnicodeDecodeError) as error:
            raise BundleError(str(error)) from error
        missing = sorted(_required(manifest.network) - manifest.stages.keys())
        if missing:
            raise BundleError(f"it has no stage {', '.join(missing)}")
        return manifest


@dataclass(frozen=True, kw_only=True)
class _Version:
    format_version: Annotated[int, msgspec.Meta(ge=1)]


def _required(network: NetworkConfig) -> set[str]:
    pixels = {f"{stage}_{dtype}" for stage in ("ingest", "emit") for dtype in ("uint8", "uint16", "float32")}
    return pixels | {"extract", "interpolate", "reconstruct"} | ({"propagate"} if network.directions else set())


def included() -> dict[str, Path]:
    """The bundles that come with zsm: their folders by name."""
    models = Path(str(importlib.resources.files("zsm") / "models"))
    return {file.parent.name: file.parent for file in sorted(models.glob(f"*/{MANIFEST}"))}


class Bundle:
    """A bundle on disk. Opening it reads the manifest only; `read` loads a stage's file and checks it."""

    def __init__(self, path: str | Path) -> None:
        """Open a folder, or a bundle that comes with zsm by its name, such as `compact`. A folder of that name wins.

        Raises BundleError if there is no bundle, or none that this version can read.
        """
        path = Path(path)
        exists = os.path.exists(path)  # noqa: PTH110 (a name that is too long doesn't exist; pathlib raises OSError)
        folder = path if exists else included().get(str(path), path)
        file = folder / MANIFEST
        try:
            self.manifest = Manifest.from_json(file.read_bytes())
            self.path = folder.absolute()  # stages are read later, when the program may have changed its folder
        except BundleError as error:
            raise BundleError(f"{file} can't be used: {error}") from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BundleError(
                f"{folder} is not a bundle: it has no {MANIFEST}; make one with zsm-export, or use one that comes "
                f"with zsm: {', '.join(included())}"
            ) from error
        except (OSError, ValueError) as error:
            raise BundleError(f"{file} can't be read: {error}") from error

    @property
    def network(self) -> NetworkConfig:
        """The configuration of the network that was exported."""
        return self.manifest.network

    def __repr__(self) -> str:
        return f"Bundle({str(self.path)!r}, {self.manifest.precision}, {len(self.manifest.stages)} stages)"

    def stage(self, name: str) -> StageSpec:
        """A stage's entry in the manifest. Raises BundleError if there is none."""
        try:
            return self.manifest.stages[name]
        except KeyError:
            known = ", ".join(self.manifest.stages)
            raise BundleError(f"{self.path} has no stage {name}; it has {known}") from None

    def read(self, name: str) -> bytes:
        """Read a stage's ONNX file. Raises BundleError if its digest isn't the manifest's."""
        spec = self.stage(name)
        file = self.path / spec.file
        if not file.resolve().is_relative_to(self.path.resolve()):
            raise BundleError(f"the file of stage {name} lies outside the bundle: {file.resolve()}")
        try:
            content = file.read_bytes()
        except OSError as error:
            raise BundleError(f"stage {name} can't be read: {error}; copy or export the bundle again") from error
        if hashlib.sha256(content).hexdigest() != spec.sha256:
            raise BundleError(
                f"{file} is damaged: its {len(content)} bytes don't match the manifest's digest "
                f"({spec.bytes} bytes were written); copy or export the bundle again"
            )
        return content
