"""Work that is recorded once and then launched as one: a CUDA graph for each kind of work and shapes of tensors."""

import gc
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from zsm.engine.backends.gpu.device import Gpu, Graph, Stream, Tensor
from zsm.engine.backends.gpu.pool import DeviceMemory, Pool
from zsm.errors import BackendError

log = logging.getLogger("zsm")

recording = threading.RLock()
"""Held while work is recorded; who waits for a whole device takes it too, as that would end the recording."""

LARGEST = 2**28
"""Bytes of inputs. Larger work keeps a GPU busy however it is launched, and has no memory to spare."""

Tensors = Mapping[str, Tensor]
Compute = Callable[[Tensors], Tensors]


class Recordings:
    """What was recorded on one stream."""

    def __init__(self, gpu: Gpu, stream: Stream, memory: DeviceMemory) -> None:
        self._gpu = gpu
        self._stream = stream
        self._memory = memory
        self._known: dict[object, Recording | None] = {}
        self._within = False
        self._given_up = False
        memory.when_short = self._give_up

    def do(self, name: str, compute: Compute, tensors: Tensors) -> Tensors:
        """`compute(tensors)`, recorded the first time and then replayed; as a part of other such work, neither.

        What can't be recorded is done plainly from then on, and the log says why.
        """
        if self._within or self._given_up or sum(tensor.nbytes for tensor in tensors.values()) > LARGEST:
            return compute(tensors)
        key = (name, *((each, tensor.shape) for each, tensor in tensors.items()))
        if key not in self._known:
            with self._as_a_whole():
                outputs = compute(tensors)  # what is prepared at first use can't be recorded
                self._known[key] = None if self._given_up else self._record(name, compute, tensors)
            return outputs
        known = self._known[key]
        made = None if known is None else known.outputs()
        if known is None or made is None:
            return compute(tensors)
        with self._gpu.named(name):
            known.replay(tensors, made)
        return made

    def clear(self) -> None:
        """Forget all, as what stages use has moved."""
        try:
            self._stream.synchronize()
        finally:
            for known in self._known.values():
                if known is not None:
                    known.close()
            self._known.clear()

    def _give_up(self) -> None:
        if not self._given_up:
            self._given_up = True
            log.warning("memory is short: CUDA graphs are given up, what they did is launched kernel by kernel")
            self.clear()

    def _record(self, name: str, compute: Compute, tensors: Tensors) -> "Recording | None":
        made = Recording(self._stream, self._memory, Pool(self._gpu.allocate, self._gpu.free))
        try:
            made.record(compute, tensors)
        except BackendError as error:
            made.close()
            said = str(error)  # the error itself would keep the memory that its traceback refers to
            log.warning("%s is not recorded as a CUDA graph but launched kernel by kernel: %s", name, said)
            return None
        self._memory.trim()  # what it took to do the work plainly
        return made

    @contextmanager
    def _as_a_whole(self) -> Iterator[None]:
        self._within = True
        try:
            yield
        finally:
            self._within = False


class Recording:
    """A graph, and the memory that it uses, which is its own: a graph's addresses are fixed.

    What goes in is copied there and what comes out is copied from there, so that no replay overwrites what somebody
    still holds of an earlier one.
    """

    def __init__(self, stream: Stream, memory: DeviceMemory, pool: Pool) -> None:
        self._stream = stream
        self._memory = memory
        self._pool = pool
        self._inputs: Tensors = {}
        self._outputs: Tensors = {}
        self._graph: Graph | None = None

    def record(self, compute: Compute, tensors: Tensors) -> None:
        """Record the work on tensors like these; raises BackendError if that can't be done."""
        with self._memory.taken_from(self._pool):
            self._inputs = {name: self._memory.copy(tensor) for name, tensor in tensors.items()}
            compute(self._inputs)  # fills the pool: memory can't be allocated during a recording
            with _nothing_else():
                self._stream.begin_recording()
                try:
                    self._outputs = compute(self._inputs)
                except BaseException:
                    with suppress(BackendError):
                        self._stream.end_recording().close()
                    raise
                self._graph = self._stream.end_recording()

    def outputs(self) -> Tensors | None:
        """Tensors for what comes out; none if there was so little memory that the graph was given up."""
        made = {name: self._memory.new(tensor.shape, tensor.dtype) for name, tensor in self._outputs.items()}
        return made if self._graph is not None else None

    def replay(self, tensors: Tensors, outputs: Tensors) -> None:
        """Do the work on other tensors."""
        assert self._graph is not None
        for name, tensor in tensors.items():
            self._stream.copy(self._inputs[name].address, tensor.address, tensor.nbytes)
        self._stream.launch(self._graph)
        for name, tensor in outputs.items():
            self._stream.copy(tensor.address, self._outputs[name].address, tensor.nbytes)

    def close(self) -> None:
        """Give the graph and its memory back; nothing of it may be under way."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None
        self._inputs = self._outputs = {}
        self._pool.close()


@contextmanager
def _nothing_else() -> Iterator[None]:
    """Keep what is dropped elsewhere, or by the garbage collector, from waiting or recording meanwhile."""
    enabled = gc.isenabled()
    with recording:
        gc.disable()
        try:
            yield
        finally:
            if enabled:
                gc.enable()
