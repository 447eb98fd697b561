"""`zsm::DeformConv2d` for OpenVINO, whose ONNX frontend doesn't know the operator.

With the native library it becomes an operation of our own, which calls the library's C interface. It is defined in
Python because a library that is linked with OpenVINO only runs with that one release of it. Without the native library
it becomes OpenVINO's DeformableConvolution.
"""

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13
from openvino.frontend import NodeContext
from openvino.frontend.onnx import ConversionExtension

from zsm.errors import PluginError
from zsm.plugins import operator
from zsm.plugins.native import Array, Attributes, Core, Shape, Tensors

DEFAULTS: dict[str, Any] = {
    "strides": [1, 1],
    "pads": [0, 0, 0, 0],
    "dilations": [1, 1],
    "group": 1,
    "offset_group": 1,
}
"""The attributes that a node may leave out, with the values that ONNX's `DeformConv` gives them."""

NAMES = ("kernel_shape", *DEFAULTS)

EMPTY: dict[str, Any] = {"kernel_shape": [0], **DEFAULTS, "library": "", "threads": 0}
"""The types of the operation's attributes, by which OpenVINO reads them."""


NAMESAKE = type(operator.NAME, (), {})()
"""What OpenVINO's half of an operation refers to: an object whose type has the operator's name.

It is meant to be the Python half, but then neither would ever be freed. So whoever needs operations keeps their Python
halves: a core the one that it was told of, a compiled model those that it consists of. Those that OpenVINO makes for
every inference, to learn the output's size, are not kept.
"""

_making = threading.Lock()
_collected: ContextVar["list[DeformConv2d] | None"] = ContextVar("_collected", default=None)


def core(library: Path | None, threads: int) -> ov.Core:
    """The `openvino.Core` that reads the operator; kept, and shared, until the process ends.

    `library`: the native library, which computes with that many threads; None for OpenVINO's DeformableConvolution.
    Raises PluginError if it can't be loaded.

    A core gives the thread that first uses it a stack for signal handlers, and unmaps that stack when it is deleted.
    Had two cores been created and then deleted in the same order, the thread would be left with the first one's stack,
    and the next signal, such as Ctrl-C's, would crash the process.
    """
    with _making:
        return _core(library, threads)


@cache
def _core(library: Path | None, threads: int) -> ov.Core:
    if library is not None:
        _load(str(library))

    def convert(context: NodeContext) -> list[ov.Output]:
        tensors = [context.get_input(number) for number in range(4)]
        values = {name: context.get_attribute(name, default) for name, default in DEFAULTS.items()}
        values["kernel_shape"] = context.get_attribute("kernel_shape")
        if library is None:
            return _from_standard_operations(*tensors, **values)
        node = DeformConv2d(tensors, {**values, "library": str(library), "threads": threads})
        return list(node.outputs())

    reader = ov.Core()
    with _collecting() as operations:
        reader.add_extension(
            [ConversionExtension(operator.NAME, operator.DOMAIN, convert), ov.OpExtension(DeformConv2d)]
        )
    reader.operations = operations
    return reader


def compile_model(
    reader: ov.Core, model: bytes, device: str, settings: Mapping[str, object] = MappingProxyType({})
) -> ov.CompiledModel:
    """Compile an ONNX model that contains the operator; `reader` is what `core` returned."""
    with _collecting() as operations:
        compiled = reader.compile_model(reader.read_model(model, b""), device, dict(settings))
    compiled.operations = operations
    return compiled


def infer(compiled: ov.CompiledModel, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Run a model; returns its outputs by name.

    Raises what an operation raised, which OpenVINO may ignore, returning the outputs of the run before. Called from the
    main thread, it runs operations in another one, because Python raises KeyboardInterrupt in whatever the main thread
    executes.
    """
    if compiled.operations and threading.current_thread() is threading.main_thread():
        with ThreadPoolExecutor(1) as beside:
            return beside.submit(_infer, compiled, inputs).result()
    return _infer(compiled, inputs)


def _infer(compiled: ov.CompiledModel, inputs: Mapping[str, Array]) -> dict[str, Array]:
    try:
        found = compiled(dict(inputs))
    finally:
        failures = [operation.failure for operation in compiled.operations if operation.failure is not None]
        for operation in compiled.operations:
            operation.failure = None
        if failures:
            raise failures[0]
    return {name: value for output, value in found.items() for name in output.names}


@contextmanager
def _collecting() -> Iterator["list[DeformConv2d]"]:
    """The operations that are made within."""
    operations: list[DeformConv2d] = []
    token = _collected.set(operations)
    try:
        yield operations
    finally:
        _collected.reset(token)


class DeformConv2d(ov.Op):  # type: ignore[misc]
    """The operator, computed by the native library."""

    class_type_info = ov.DiscreteTypeInfo(operator.NAME, operator.DOMAIN)

    def __init__(self, tensors: list[ov.Output] | None = None, values: dict[str, Any] | None = None) -> None:
        """Without arguments, one to be filled by `visit_attributes`: OpenVINO does that with models from its cache."""
        super().__init__(NAMESAKE)
        self.failure: BaseException | None = None
        """What the last evaluation raised."""
        if (operations := _collected.get()) is not None:
            operations.append(self)
        self._values = dict(values or EMPTY)
        if tensors is not None:
            self.set_arguments(tensors)
            self.constructor_validate_and_infer_types()

    def validate_and_infer_types(self) -> None:
        x, offset_mask, weight, _ = (self.get_input_partial_shape(number) for number in range(4))
        shape = ov.PartialShape([x[0], weight[0], offset_mask[2], offset_mask[3]])
        self.set_output_type(0, self.get_input_element_type(0), shape)

    def clone_with_new_inputs(self, tensors: list[ov.Output]) -> "DeformConv2d":
        return DeformConv2d(tensors, self._values)

    def visit_attributes(self, visitor: Any) -> bool:
        visitor.on_attributes(self._values)
        return True

    def has_evaluate(self) -> bool:
        return True

    def evaluate(self, outputs: list[ov.Tensor], inputs: list[ov.Tensor]) -> bool:
        try:
            self._compute(outputs, inputs)
        except BaseException as error:
            self.failure = error
            raise
        return True

    def _compute(self, outputs: list[ov.Tensor], inputs: list[ov.Tensor]) -> None:
        x, _, weight, _ = inputs
        attributes = Attributes(**{name: self._values[name] for name in NAMES})
        shape = Shape.of(tuple(x.shape), weight.shape[0], attributes)
        native = _load(self._values["library"])
        operands = native.operands(shape)
        _check(operands, inputs[1:])
        outputs[0].shape = [x.shape[0], weight.shape[0], *operands["offset_mask"][2:]]
        addresses = Tensors(*(tensor.data.ctypes.data for tensor in (*inputs, *outputs)))
        native.cpu_at(shape, x.element_type.to_dtype(), addresses, self._values["threads"])


def _check(expected: dict[str, tuple[int, ...]], tensors: list[ov.Tensor]) -> None:
    for (name, shape), tensor in zip(expected.items(), tensors, strict=True):
        if tuple(tensor.shape) != shape:
            raise PluginError(f"{operator.NAME}'s {name} has shape {tuple(tensor.shape)}; expected {shape}")


@cache
def _load(path: str) -> Core:
    return Core(Path(path))


def _from_standard_operations(
    x: ov.Output, offset_mask: ov.Output, weight: ov.Output, bias: ov.Output, **values: Any
) -> list[ov.Output]:
    logits = offset_mask.get_partial_shape()[1].get_length() // 3
    offsets, mask = opset13.variadic_split(offset_mask, 1, [2 * logits, logits]).outputs()
    y = opset13.deformable_convolution(
        x,
        offsets,
        weight,
        values["strides"],
        values["pads"][:2],
        values["pads"][2:],
        values["dilations"],
        mask=opset13.sigmoid(mask),
        group=values["group"],
        deformable_group=values["offset_group"],
        bilinear_interpolation_pad=True,  # beyond the border there are zeros, as in ONNX
    )
    return list(opset13.add(y, opset13.unsqueeze(bias, np.array([0, 2, 3]))).outputs())
