"""Stages recorded once and then launched as CUDA graphs."""

import gc
import logging
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress

from zsm.engine.backends.gpu.cuda import Gpu, Graph, Stream
from zsm.engine.backends.gpu.pool import DeviceMemory, Pool
from zsm.engine.backends.gpu.tensor import Tensor
from zsm.errors import BackendError

log = logging.getLogger("zsm")

LARGEST = 2**28
"""Bytes of inputs. A larger stage keeps the GPU busy however it is launched, and leaves no memory for a graph."""

Tensors = Mapping[str, Tensor]
Execute = Callable[[Tensors], Tensors]


class Graphs:
    """The graphs of one stream, one per stage and frame size."""

    def __init__(self, gpu: Gpu, stream: Stream, memory: DeviceMemory) -> None:
        self._gpu = gpu
        self._stream = stream
        self._memory = memory
        self._known: dict[Hashable, StageGraph | None] = {}
        self._given_up = False
        memory.when_short = self._give_up

    def run(self, stage: str, key: Hashable, execute: Execute, inputs: Tensors) -> Tensors:
        """Do `execute(inputs)`: without a graph the first time, when it is recorded, and from it afterwards.

        `key` stands for the stage and all shapes. A stage that can't be recorded is launched kernel by kernel from then
        on, and the log says why.
        """
        if self._given_up or sum(tensor.nbytes for tensor in inputs.values()) > LARGEST:
            return execute(inputs)
        if key not in self._known:
            outputs = execute(inputs)  # what is prepared at first use can't be recorded
            self._known[key] = None if self._given_up else self._record(stage, execute, inputs)
            return outputs
        graph = self._known[key]
        made = None if graph is None else graph.outputs()
        if graph is None or made is None:
            return execute(inputs)
        with self._gpu.named(stage):
            graph.replay(inputs, made)
        return made

    def clear(self) -> None:
        """Drop all graphs, once they have been executed."""
        try:
            self._stream.synchronize()
        finally:
            for graph in self._known.values():
                if graph is not None:
                    graph.close()
            self._known.clear()

    def _give_up(self) -> None:
        if not self._given_up:
            self._given_up = True
            log.warning("memory is short: CUDA graphs are given up, stages are launched kernel by kernel")
            self.clear()

    def _record(self, stage: str, execute: Execute, inputs: Tensors) -> "StageGraph | None":
        graph = StageGraph(self._stream, self._memory, Pool(self._stream, self._gpu.allocate, self._gpu.free))
        try:
            graph.record(execute, inputs)
        except BackendError as error:
            graph.close()
            reason = str(error)  # the error itself would keep the memory that its traceback refers to
            log.warning("%s can't be recorded as a CUDA graph, and is launched kernel by kernel: %s", stage, reason)
            return None
        self._memory.trim()  # the buffers of the execution before
        return graph


class StageGraph:
    """A graph, and the memory it uses, which is its own: a graph's addresses are fixed.

    Inputs are copied in and outputs copied out, so that no replay overwrites tensors of an earlier one.
    """

    def __init__(self, stream: Stream, memory: DeviceMemory, pool: Pool) -> None:
        self._stream = stream
        self._memory = memory
        self._pool = pool
        self._inputs: Tensors = {}
        self._outputs: Tensors = {}
        self._graph: Graph | None = None

    def record(self, execute: Execute, inputs: Tensors) -> None:
        """Record the execution on tensors like these; raises BackendError if it can't be recorded."""
        with self._memory.taken_from(self._pool):
            self._inputs = {name: self._memory.copy(tensor) for name, tensor in inputs.items()}
            execute(self._inputs)  # fills the pool: memory can't be allocated during the capture
            with _no_garbage_collection():
                self._stream.begin_recording()
                try:
                    self._outputs = execute(self._inputs)
                except BaseException:
                    with suppress(BackendError):
                        self._stream.end_recording().close()
                    raise
                self._graph = self._stream.end_recording()

    def outputs(self) -> Tensors | None:
        """Make tensors for the outputs; None if making them took so much memory that the graph was given up."""
        made = {name: self._memory.new(tensor.shape, tensor.dtype) for name, tensor in self._outputs.items()}
        return made if self._graph is not None else None

    def replay(self, inputs: Tensors, outputs: Tensors) -> None:
        """Execute on other tensors."""
        assert self._graph is not None
        for name, tensor in inputs.items():
            self._stream.copy(self._inputs[name].address, tensor.address, tensor.nbytes)
        self._stream.launch(self._graph)
        for name, tensor in outputs.items():
            self._stream.copy(tensor.address, self._outputs[name].address, tensor.nbytes)

    def close(self) -> None:
        """Free the graph and its memory; it must not be executing."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None
        self._inputs = self._outputs = {}
        self._pool.close()


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    # A buffer of a closed Runtime, collected now, would be freed, and cudaFree ends a capture in the same thread.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
