"""Writes a bundle: traces every stage, verifies the whole against the network, then puts it in place in one step."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, ValueInfoProto

from zsm import files
from zsm.engine.bundle.manifest import FORMAT_VERSION, MANIFEST, Bundle, Manifest, Precision, StageSpec, TensorSpec
from zsm.errors import OutputError
from zsm.export import check, graphs, int8, pixels, released
from zsm.export.int8 import Int8Options, Plan
from zsm.export.model import Network, checkpoint
from zsm.export.stages import stages
from zsm.plugins.operator import OPSET, make_portable

Progress = Callable[[str], None]
"""Called with a description of each step."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to export."""

    precision: Precision = "fp32"
    portable: bool = False
    """Embed the operator as an ONNX function, so that any ONNX Runtime opens the files."""
    overwrite: bool = False
    trained: bool = True
    weights_sha256: str = ""
    licence: str = "unknown"
    """The licence of the weights."""
    int8: Int8Options | None = None
    """Quantise as many layers as a loss budget allows; the rest keep `precision`."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A finished bundle, and how its outputs differ from the network's."""

    bundle: Bundle
    error: check.Difference


def export_bundle(
    network: Network, out: Path, options: Options | None = None, progress: Progress = lambda _: None
) -> Exported:
    """Export a network to the folder `out`, which must not exist unless `options.overwrite` is set.

    The bundle is verified before it gets its name, and a failure leaves nothing behind. Raises OutputError if it can't
    be written or differs from the network; with `options.int8`, also DataError or ArgumentError.
    """
    options = options or Options()
    out = out.resolve()
    _check_target(out, options)
    plan = None if options.int8 is None else _plan(network, out, options.int8, progress)
    with files.staging(out) as folder:
        _fill(folder, network, options, plan, progress)
        progress("verifying")
        error = check.compare(network, folder)
        if not error.acceptable:
            raise OutputError(f"the exported graphs differ from the network: {error}; no bundle was written")
        _put_in_place(folder, out)
    return Exported(bundle=Bundle(out), error=error)


def _plan(network: Network, out: Path, options: Int8Options, progress: Progress) -> Plan:
    """Choose int8 layers by running the network in float32, from a temporary folder beside `out`."""
    progress("reading clips")
    samples = int8.read(options.clips)
    with files.staging(out) as folder:
        _fill(folder, network, Options(), None, progress)
        progress(f"calibrating on {len(samples)} windows of {len({sample.clip for sample in samples})} clips")
        return int8.plan(Bundle(folder), samples, options, progress)


def _fill(folder: Path, network: Network, options: Options, plan: Plan | None, progress: Progress) -> None:
    """Write every file of a bundle."""
    specs = {}
    for name, model, parameters, flop in _models(network.eval(), options.precision, progress):
        quantised = model if plan is None else plan.apply(name, model)
        specs[name] = _write(folder, name, quantised, parameters, flop, options)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        network=network.config,
        precision=options.precision,
        opset=OPSET,
        portable=options.portable,
        trained=options.trained,
        weights_sha256=options.weights_sha256,
        licence=options.licence,
        stages=specs,
        quantisation=None if plan is None else plan.quantisation,
    )
    (folder / MANIFEST).write_text(manifest.to_json(), "utf-8")


def export_weights(
    weights: Path,
    out: Path,
    *,
    precision: Precision = "fp32",
    portable: bool = False,
    overwrite: bool = False,
    licence: str | None = None,
    quantise: Int8Options | None = None,
    progress: Progress = lambda _: None,
) -> Exported:
    """Export a weights file: safetensors, or a PyTorch checkpoint in the released format.

    The file's metadata goes into the bundle; `licence` overrides the licence it states. Raises DataError for invalid
    weights, and what `export_bundle` raises.
    """
    network = checkpoint.load(weights)
    metadata = checkpoint.metadata(weights)
    content = weights.read_bytes()
    if licence is None:
        licence = released.LICENCE if released.is_released(content) else metadata.get("licence", "unknown")
    options = Options(
        precision=precision,
        portable=portable,
        overwrite=overwrite,
        trained=metadata.get("trained", "true") == "true",
        weights_sha256=hashlib.sha256(content).hexdigest(),
        licence=licence,
        int8=quantise,
    )
    return export_bundle(network, out, options, progress)


def _models(network: Network, precision: Precision, progress: Progress) -> Iterator[tuple[str, ModelProto, int, float]]:
    for pixel_type in pixels.PIXEL_TYPES:
        yield f"ingest_{pixel_type}", pixels.ingest(pixel_type, precision, network.config), 0, 0
    for stage in stages(network):
        progress(f"tracing {stage.name}")
        parameters = sum(tensor.numel() for tensor in stage.module.parameters())
        flop = graphs.flop_per_pixel(stage)
        yield stage.name, graphs.trace(stage, precision), parameters, flop
    for pixel_type in pixels.PIXEL_TYPES:
        yield f"emit_{pixel_type}", pixels.emit(pixel_type, precision), 0, 0


def _write(folder: Path, name: str, model: ModelProto, parameters: int, flop: float, options: Options) -> StageSpec:
    if options.portable:
        make_portable(model)
    content = model.SerializeToString(deterministic=True)
    file = f"{name}.onnx"
    (folder / file).write_bytes(content)
    return StageSpec(
        file=file,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        parameters=parameters,
        flop_per_pixel=flop,
        inputs=tuple(map(_tensor_spec, model.graph.input)),
        outputs=tuple(map(_tensor_spec, model.graph.output)),
    )


def _tensor_spec(value: ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    return TensorSpec(
        name=value.name,
        dtype=onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name,
        shape=tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim),
    )


def _check_target(out: Path, options: Options) -> None:
    if not out.exists():
        return
    if not options.overwrite:
        raise OutputError(f"{out} already exists; give another folder, or --overwrite")
    if not (out / MANIFEST).is_file():
        raise OutputError(f"{out} isn't a bundle, so it won't be overwritten; give another folder")


def _put_in_place(folder: Path, out: Path) -> None:
    """Rename the finished folder; an older bundle is deleted only once the new one is in place."""
    if not out.exists():
        folder.rename(out)
        return
    old = folder.with_name(folder.name + ".old")
    out.rename(old)
    try:
        folder.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old)
