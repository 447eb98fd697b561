"""The bundle: a folder with one ONNX graph a stage, and `manifest.json`, which says what they are."""

import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

import msgspec

from zsm.engine.bundle.network import NetworkConfig
from zsm.errors import ArgumentError, BundleError

MANIFEST = "manifest.json"
INCLUDED = "compact"
"""The bundle that comes with zsm."""

FORMAT_VERSION = 1

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
    """One stage: its file, relative to the bundle's folder, and what goes in and out."""

    file: str
    sha256: str
    bytes: Count
    parameters: Count
    flop_per_pixel: float
    """Floating-point operations (a multiply-add is two) of one call on one frame, per LR pixel."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.file).parts
        if not parts or parts[0] == "/" or ".." in parts or "\\" in self.file or "\0" in self.file:
            raise BundleError(f"a stage points outside the bundle, to {self.file!r}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle says of itself."""

    format_version: int
    network: NetworkConfig
    precision: Precision
    opset: int
    portable: bool
    """Whether the files carry the operator's function, so that any ONNX Runtime opens them."""
    trained: bool
    weights_sha256: str
    """Digest of the weights file that the bundle was exported from; empty if there was none."""
    licence: str
    stages: Mapping[str, StageSpec]

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read `manifest.json`; raises BundleError for what no bundle of this format says."""
        try:
            version = msgspec.json.decode(text, type=_Version).format_version
            if version > FORMAT_VERSION:
                raise BundleError(
                    f"its format is version {version}, this zsm reads up to {FORMAT_VERSION}; upgrade zsm"
                )
            manifest = msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, ArgumentError, RecursionError, UnicodeDecodeError) as error:
            raise BundleError(str(error)) from error
        missing = sorted(_required(manifest.network) - manifest.stages.keys())
        if missing:
            raise BundleError(f"there is no stage {', '.join(missing)} in it")
        return manifest


@dataclass(frozen=True, kw_only=True)
class _Version:
    format_version: Annotated[int, msgspec.Meta(ge=1)]


def _required(network: NetworkConfig) -> set[str]:
    """The stages that a network's bundle has."""
    pixels = {f"{stage}_{dtype}" for stage in ("ingest", "emit") for dtype in ("uint8", "uint16", "float32")}
    return pixels | {"extract", "interpolate", "reconstruct"} | ({"propagate"} if network.directions else set())


def _find(path: Path) -> Path:
    """A folder as it is; a name that no folder has may be that of a bundle that comes with zsm."""
    included = Path(str(importlib.resources.files("zsm") / "models" / path.name))
    return included if str(path) == INCLUDED and not path.exists() else path


class Bundle:
    """A bundle on disk. Opening reads the manifest; a stage's file is read and checked when asked for."""

    def __init__(self, path: str | Path) -> None:
        """Open the folder `path`, or a bundle that comes with zsm by its name (`compact`).

        Raises BundleError when it is no bundle that this version reads.
        """
        self.path = _find(Path(path))
        file = self.path / MANIFEST
        try:
            self.manifest = Manifest.from_json(file.read_bytes())
        except BundleError as error:
            raise BundleError(f"{file} can't be used: {error}") from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BundleError(
                f"{self.path} is no bundle: there is no {MANIFEST} in it; make one with zsm-export, or try {INCLUDED}"
            ) from error
        except (OSError, ValueError) as error:
            raise BundleError(f"{file} can't be read: {error}") from error

    @property
    def network(self) -> NetworkConfig:
        """The network that the bundle was exported from."""
        return self.manifest.network

    def stage(self, name: str) -> StageSpec:
        """What the manifest says of a stage."""
        try:
            return self.manifest.stages[name]
        except KeyError:
            known = ", ".join(self.manifest.stages)
            raise BundleError(f"{self.path} has no stage {name}; it has {known}") from None

    def read(self, name: str) -> bytes:
        """A stage's ONNX file, checked against the manifest's digest."""
        spec = self.stage(name)
        file = self.path / spec.file
        if not file.resolve().is_relative_to(self.path.resolve()):
            raise BundleError(f"stage {name} points outside the bundle, to {file.resolve()}")
        try:
            content = file.read_bytes()
        except OSError as error:
            raise BundleError(f"stage {name} can't be read: {error}; copy or export the bundle again") from error
        if hashlib.sha256(content).hexdigest() != spec.sha256:
            raise BundleError(
                f"{file} is damaged: {len(content)} bytes that don't have the manifest's digest "
                f"({spec.bytes} bytes were written); copy or export the bundle again"
            )
        return content
