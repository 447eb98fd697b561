"""Stages on OpenVINO: on CPUs, and on Intel's GPUs and NPUs."""

from functools import partial
from typing import Any

import onnx
import openvino as ov

from zsm import files
from zsm.engine import host
from zsm.engine.backends import uint8
from zsm.engine.backends.arrays import ArraySession, Stage, open_stages
from zsm.engine.bundle.manifest import Bundle
from zsm.engine.devices import Device, OpenOptions
from zsm.errors import BackendError
from zsm.limits import cores
from zsm.plugins import library
from zsm.plugins.openvino import compile_model, core, infer
from zsm.runtime import Backend, Session

VERSION = ov.__version__.split("-")[0]
HINT = "INFERENCE_PRECISION_HINT"
TYPES = {"fp32": ov.Type.f32, "fp16": ov.Type.f16, "bfloat16": ov.Type.bf16}
NAMES = {ov.Type.f32: "float32", ov.Type.f16: "float16", ov.Type.bf16: "bfloat16"}


def open_bundle(bundle: Bundle, options: OpenOptions) -> Backend:
    """Open a bundle; raises BackendError if the device is absent, lacks the precision or can't load a stage."""
    return OpenVinoBackend(bundle, options)


class Compiler:
    """OpenVINO on one device."""

    def __init__(self, bundle: Bundle, options: OpenOptions) -> None:
        on_cpu = options.device.kind == "cpu"
        self.threads = options.threads or cores()
        self.native = library("core") if on_cpu else None
        self._core = core(self.native, self.threads)
        self._device = _name(self._core, options.device)
        self._precision = TYPES[bundle.manifest.precision if options.precision == "bundle" else options.precision]
        folder = files.cache_folder() / "openvino"
        files.make_cache_folder(folder)
        self._settings: dict[str, Any] = {
            "CACHE_DIR": str(folder),
            HINT: self._precision,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if on_cpu:
            # Our operator's threads would inherit the core that OpenVINO's are tied to.
            self._settings |= {"INFERENCE_NUM_THREADS": self.threads, "ENABLE_CPU_PINNING": False}

    @property
    def processor(self) -> str:
        """The device's full name."""
        return str(self._core.get_property(self._device, "FULL_DEVICE_NAME"))

    def compile(self, stage: str, model: onnx.ModelProto, **settings: object) -> ov.CompiledModel:
        """Compile a stage's graph for tensors of any size; changes the graph. Raises BackendError."""
        del model.functions[:]  # or they would take precedence over our operator
        uint8.rewrite(model)
        _quantise_once(model.graph)
        try:
            compiled = compile_model(self._core, model.SerializeToString(), self._device, self._settings | settings)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO {VERSION} can't load stage {stage}: {error}") from error
        computes = compiled.get_property(HINT)
        # To OpenVINO the precision is a hint. FP16 may become float32, which is more exact, on processors without it.
        if computes != self._precision and (self._precision, computes) != (ov.Type.f16, ov.Type.f32):
            raise BackendError(
                f"{self.processor} doesn't compute in {NAMES[self._precision]}, and OpenVINO would silently use "
                f"{NAMES[computes]}; choose another precision or device"
            )
        return compiled


class OpenVinoBackend:
    """One compiled model per stage."""

    def __init__(self, bundle: Bundle, options: OpenOptions) -> None:
        self._device = options.device
        self._compiler = Compiler(bundle, options)
        self._computes = ov.Type.f32
        self._stages = open_stages(bundle, self._open)

    def _open(self, name: str, content: bytes) -> Stage:
        model = onnx.load_from_string(content)
        compiled = self._compiler.compile(name, model)
        self._computes = compiled.get_property(HINT)
        return partial(infer, compiled)

    def open(self, height: int, width: int) -> Session:
        """Prepare for frames of one size."""
        return ArraySession(self._stages, height, width)

    def adopt(self, frame: object) -> None:
        """None: frames are read from the host's memory, whatever the device."""

    def free_memory(self) -> int:
        return host.free_memory()

    def describe(self) -> dict[str, Any]:
        """Report what executes where."""
        return {
            "backend": "openvino",
            "version": VERSION,
            "device": str(self._device),
            "processor": self._compiler.processor,
            "computes_in": NAMES[self._computes],
            "threads": self._compiler.threads,
            "operator": str(self._compiler.native or "OpenVINO's DeformableConvolution"),
        }

    def close(self) -> None:
        """Release the stages."""
        self._stages.clear()


def _quantise_once(graph: onnx.GraphProto) -> None:
    """Drop the quantisation after each DepthToSpace that has the same one before it, which changes no number.

    ONNX Runtime shuffles bytes only if it finds both. OpenVINO shuffles bytes with the first alone; for the second it
    would convert to float32 and back.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}

    def parameters(node: onnx.NodeProto) -> list[float]:
        return [onnx.numpy_helper.to_array(constants[name]).item() for name in node.input[1:]]

    def maker(name: str, operator: str) -> onnx.NodeProto | None:
        found = makers.get(name)
        return found if found is not None and found.op_type == operator else None

    replaced = {}
    for node in graph.node:
        if (
            node.op_type == "DequantizeLinear"
            and (quantised := maker(node.input[0], "QuantizeLinear"))
            and (shuffle := maker(quantised.input[0], "DepthToSpace"))
            and (before := maker(shuffle.input[0], "DequantizeLinear"))
            and parameters(before) == parameters(quantised)
        ):
            replaced[node.output[0]] = shuffle.output[0]
    for node in graph.node:
        node.input[:] = [replaced.get(name, name) for name in node.input]


def _name(core: ov.Core, device: Device) -> str:
    """OpenVINO's name of a device; raises BackendError if this machine lacks it."""
    available = core.available_devices
    names = {"cpu": ["CPU"], "gpu": [f"GPU.{device.index}"], "npu": ["NPU"]}[device.kind]
    if device == Device(kind="gpu"):
        names.append("GPU")  # the only one
    for name in names:
        if name in available:
            return name
    raise BackendError(
        f"OpenVINO {VERSION} finds no {device} on this machine, only {', '.join(available).lower() or 'nothing'}; "
        "Intel's GPUs and NPUs need Intel's driver"
    )
