"""The driver. It alone writes files; workers get segments to make, and return them as bytes."""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from zsm.cluster import task
from zsm.cluster.engines import Depot, ToDepot
from zsm.engine import Bundle
from zsm.engine.bundle.manifest import included
from zsm.engine.bundle.shapes import Size
from zsm.engine.devices import Device
from zsm.engine.tiling import Tiling
from zsm.errors import ArgumentError, ClusterError, Error
from zsm.files import cache_folder
from zsm.runtime import SCALE, windows
from zsm.runtime.video import Info, Listener, Options, Source, Summary, open_source, restore_elsewhere, space
from zsm.runtime.video.encoders import Plan
from zsm.runtime.video.location import Location
from zsm.runtime.video.pieces import Piece
from zsm.runtime.video.resume import Segment
from zsm.runtime.video.source import DEFAULT_RATE

log = logging.getLogger("zsm")

Deliver = Callable[[int, Segment, bytes], None]

RETRIES = 3
"""How often a segment is begun again after its worker or node was lost."""
POLL = 0.2
"""Seconds between looks at what is finished, while the scan goes on."""
PATIENCE = 5.0
"""Seconds between looks at what the cluster still has, while nothing is finished."""
CONNECTING = 10.0
"""Seconds to wait for a cluster's answer."""
BASE = 512 * 2**20
"""Bytes of a worker's memory for Python, its libraries and the decoder."""


class Cluster:
    """The workers of a Ray cluster, each of which has the bundle and makes one segment of a film at a time.

        with Cluster("compact", address="auto", cpus=4) as cluster:
            cluster.restore("film.mkv", "out.mkv")

    All nodes need the same versions of zsm and PyAV, and the bundle under the same path. The frames
    are those that `zsm.Runtime` with as many threads and `video.restore` give in one process, whatever workers there
    are, and whichever are lost. Close it, or use `with`.

    A process has one connection to Ray. If there is one already, it is used, and stays when this is closed.
    """

    def __init__(
        self,
        bundle: str | Path,
        *,
        address: str,
        cpus: int = 1,
        gpus: float = 0,
        backend: str = "auto",
        window: int = 4,
        overlap: int = 1,
        tile: str | None = "auto",
        memory: str | int | None = None,
    ) -> None:
        """Connect to a cluster.

        `address`: `auto` for the cluster that this process or machine belongs to, `local` for one of this machine's
        own, or HOST:PORT. `cpus`, `gpus`: what a segment takes; with a part of a GPU, such as 0.5, several share it.
        `backend`, `window`, `overlap`: as for `zsm.Runtime`; TensorRT engines are taken from this machine's cache, and
        what it lacks is built by a worker. `tile`: as there, but `auto` makes tiles only if `memory` is given and too
        small, because free memory differs between nodes.

        Raises BundleError, ArgumentError, WindowError or TileError for invalid arguments, ClusterError if there is no
        cluster, or if this process is connected to another one, and CacheError if engines can't be kept.
        """
        if cpus < 1 or gpus < 0:
            raise ArgumentError(f"a segment takes at least 1 CPU, and no less than 0 GPUs; got {cpus} and {gpus:g}")
        if not gpus <= 1 and not float(gpus).is_integer():
            raise ArgumentError(f"a segment takes a part of one GPU, or a whole number of GPUs; got {gpus:g}")
        self._window, self._overlap = windows.check(window, overlap)
        self._bundle = Bundle(bundle)
        comes_with_zsm = self._bundle.path == included().get(str(bundle))
        self._name = str(bundle) if comes_with_zsm else str(self._bundle.path)
        self._cpus, self._gpus = cpus, gpus
        self._device = "cuda:0" if gpus else "cpu"
        self._backend = backend
        self._limited = memory is not None and not gpus
        self._tiling = Tiling(
            self._bundle,
            Device.parse(self._device),
            lambda: 0,
            window=window,
            overlap=overlap,
            tile=None if tile == "auto" and memory is None else tile,
            memory=memory,
            backend=lambda: backend,
            used=lambda: BASE,
        )
        self._ray, self._owns_connection = _connect(address)
        try:
            self._depot = _here(self._ray, Depot, cache_folder()) if gpus else None
        except BaseException:
            self.close()
            raise

    @property
    def scale(self) -> int:
        """Enlargement of height and width."""
        return SCALE

    @property
    def window(self) -> int:
        """Input frames processed together."""
        return self._window

    @property
    def overlap(self) -> int:
        """Input frames that neighbouring windows share."""
        return self._overlap

    @property
    def identity(self) -> str:
        """Identifies the network and its precision."""
        return self._bundle.manifest.to_json()

    @property
    def room(self) -> int | None:
        """The bytes of a worker's memory, if a limit was given: free memory differs between nodes."""
        return self._tiling.room() if self._limited else None

    def tile(self, width: int, height: int, itemsize: int, *, besides: int = 0) -> str | None:
        """The tiles, `WxH`, in which frames of a size are processed; None if they are processed whole.

        `besides`: the bytes of a worker's memory that everything else takes.
        """
        return self._tiling.text(width, height, itemsize, besides)

    def restore(
        self,
        source: str | Location,
        target: str | Path,
        options: Options | None = None,
        *,
        stream: int | None = None,
        listener: Listener | None = None,
        stop: threading.Event | None = None,
    ) -> Summary:
        """Restore a video or a folder of images to a video file; arguments and errors as for `video.restore`.

        All nodes must be able to read the source: under the same path or URL, or by the same function, which Ray
        pickles.

        Once `stop` is set, no more segments are begun, and the run ends with StoppedError when those at work are
        finished. Raises ClusterError if no node has what a segment takes, if a node differs from this one, or if a
        segment's worker was lost again and again.
        """
        options = options or Options()
        rate = options.rate or DEFAULT_RATE
        with closing(open_source(source, rate=rate, stream=stream)) as opened:
            return self.restore_source(opened, Path(target), options, listener=listener, stop=stop)

    def restore_source(
        self,
        source: Source,
        target: Path,
        options: Options,
        *,
        listener: Listener | None = None,
        stop: threading.Event | None = None,
    ) -> Summary:
        """Restore an open source. Otherwise as `restore`."""
        stop = stop or threading.Event()
        options = space.fitted(source.info, target, options, self)

        def crew(plan: Plan, pieces: Iterator[Piece | None], deliver: Deliver) -> None:
            request = self._request(source.info, space.memory(source.info, target, options, SCALE))
            _Run(self._ray, self._film(source.info, plan), request, stop, self._depot).make(pieces, deliver)

        return restore_elsewhere(source, target, self, options, crew, listener=listener, stop=stop)

    def close(self) -> None:
        """Disconnect from the cluster, unless the process was connected before; one of this machine's own ends."""
        self._depot = None
        if self._owns_connection:
            self._owns_connection = False
            self._ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _film(self, info: Info, plan: Plan) -> task.Film:
        assert info.location is not None
        source = info.location.absolute() if isinstance(info.location, Path) else info.location
        runtime = {
            "device": self._device,
            "window": self._window,
            "overlap": self._overlap,
            "threads": self._cpus,
            "tile": self.tile(*info.size, np.dtype(info.colour.dtype).itemsize),
        }
        if self._depot is not None:
            runtime |= {"build": True, "exchange": ToDepot(self._depot)}
        return task.Film(
            source=source,
            rate=info.rate,
            stream=info.stream,
            bundle=self._name,
            backend=self._backend,
            runtime=tuple(runtime.items()),
            plan=plan,
            same=task.conditions(info, self._name),
        )

    def _request(self, info: Info, besides: int) -> dict[str, float]:
        """What a segment takes, as Ray calls it; `besides`: the bytes for everything but the network."""
        itemsize = np.dtype(info.colour.dtype).itemsize
        size = Size(*info.size)
        tile = self._tiling(*info.size, itemsize, besides)
        network = self._tiling.needs(size, size if tile is None else Size(*tile), itemsize)
        return {"CPU": self._cpus, "GPU": self._gpus, "memory": BASE + besides + (0 if self._gpus else network)}


class _Run:
    """One film on the cluster."""

    def __init__(self, ray: Any, film: task.Film, request: dict[str, float], stop: threading.Event, depot: Any) -> None:
        self._ray = ray
        self._request = request
        self._stop = stop
        self._film = film
        self._pending: dict[Any, int] = {}
        """The number of the segment that each task makes."""
        self._depot = depot
        self._news = None if depot is None else depot.news.remote()

    def make(self, pieces: Iterator[Piece | None], deliver: Deliver) -> None:
        """Make all pieces, unless a stop is asked for; see `Crew`."""
        self._check_room()
        film = self._put(replace(self._film, backend=self._settle_backend(self._put(self._film))))
        switch = _here(self._ray, _Switch)
        make = self._ray.remote(
            num_cpus=self._request["CPU"],
            num_gpus=self._request["GPU"],
            memory=self._request["memory"],
            max_calls=0,
            max_retries=RETRIES,
            scheduling_strategy="SPREAD",
        )(_make)
        try:
            looked = time.monotonic()
            for piece in pieces:
                if self._stop.is_set():
                    break
                if piece is not None:
                    self._pending[make.remote(film, piece, switch)] = piece.number
                if time.monotonic() - looked > POLL:
                    self._collect(deliver, timeout=0)
                    looked = time.monotonic()
            self._wait(deliver, switch)
        finally:
            # After an error, tasks that haven't begun don't begin. Cancelling would race with tasks that end just then,
            # and abort the process.
            if self._pending:
                switch.stop.remote()

    def _put(self, film: task.Film) -> Any:
        """Send what all segments have in common; raises ArgumentError if it can't be pickled."""
        try:
            return self._ray.put(film)
        except self._ray.exceptions.RayError:
            raise
        except Exception as error:  # pickling raises whatever the function's own objects do
            reason = (str(error) or type(error).__name__).partition("\n")[0]
            raise ArgumentError(
                f"the function that opens the source can't be sent to workers ({reason}); give one that can be pickled"
            ) from error

    def _wait(self, deliver: Deliver, switch: Any) -> None:
        """Wait for what was begun; after a stop, tasks that weren't yet begin no more."""
        switched = False
        looked = time.monotonic()
        while self._pending:
            if self._stop.is_set() and not switched:
                self._ray.get(switch.stop.remote())
                switched = True
            if self._collect(deliver, timeout=POLL):
                looked = time.monotonic()
            elif time.monotonic() - looked > PATIENCE:
                self._warn_without_room()
                looked = time.monotonic()

    def _collect(self, deliver: Deliver, timeout: float) -> int:
        """Deliver what is finished, and log what is being built; returns how many tasks were finished."""
        if self._news is not None and self._ray.wait([self._news], timeout=0)[0]:
            for line in self._ray.get(self._news):
                log.warning(line)
            self._news = self._depot.news.remote()
        if not self._pending:
            return 0
        waiting = list(self._pending)
        done, _ = self._ray.wait(waiting, num_returns=1 if timeout else len(waiting), timeout=timeout)
        for reference in done:
            made = self._result(reference)
            number = self._pending.pop(reference)
            if made is not None:
                deliver(number, *made)
        return len(done)

    def _result(self, reference: Any) -> tuple[Segment, bytes] | None:
        """A segment, or None if its task came after a stop; raises the task's own error, or ClusterError."""
        what = f"segment {self._pending[reference]}"
        try:
            made: tuple[Segment, bytes] | None = self._get(reference, what)
            return made
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().partition("\n")[0]
            raise ClusterError(f"{what} was lost with its worker {RETRIES + 1} times: {reason}") from error

    def _get(self, reference: Any, what: str) -> Any:
        """What a task returns; raises its own error, or Ray's if the task is lost."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Error):
                raise error.cause from error
            raise ClusterError(f"{what} failed on a worker: {error.cause!r}") from error

    def _nodes(self) -> list[Any]:
        """The nodes that have what a segment takes."""
        alive = [node for node in self._ray.nodes() if node["Alive"]]
        return [
            node
            for node in alive
            if all(node["Resources"].get(name, 0) >= amount for name, amount in self._request.items())
        ]

    def _check_room(self) -> None:
        """Raise ClusterError if nothing fits: Ray would wait silently."""
        if not self._nodes():
            largest = {
                name: max((node["Resources"].get(name, 0) for node in self._ray.nodes() if node["Alive"]), default=0)
                for name in self._request
            }
            raise ClusterError(
                f"no node of the cluster has {_amounts(self._request)}, which a segment takes; the most that one has "
                f"is {_amounts(largest)}"
            )

    def _warn_without_room(self) -> None:
        if not self._nodes():
            log.warning("no node of the cluster has %s at the moment: waiting for one", _amounts(self._request))

    def _settle_backend(self, film: Any) -> str:
        """Let every node check itself, and return the backend that all have; nodes that join later must have it too."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        check = self._ray.remote(num_cpus=0, max_retries=RETRIES)(_check)
        chosen: dict[str, str] = {}
        for reference in [
            check.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(film)
            for node in self._nodes()
        ]:
            with suppress(self._ray.exceptions.RayError):  # a node that is lost takes no part
                backend, address = self._get(reference, "the check of a node")
                chosen.setdefault(backend, address)
        if len(chosen) > 1:
            differ = ", ".join(f"{backend} on {address}" for backend, address in sorted(chosen.items()))
            raise ClusterError(f"nodes would take different backends: {differ}; give the same to all (--backend)")
        return next(iter(chosen), self._film.backend)


class _Switch:
    """Tells tasks that wait in Ray's queue that they are no longer wanted: the driver can't tell them from others."""

    def __init__(self) -> None:
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    def stopped(self) -> bool:
        return self._stopped


def _make(film: task.Film, piece: Piece, switch: Any) -> tuple[Segment, bytes] | None:
    import ray

    if ray.get(switch.stopped.remote()):
        return None
    return task.make(film, piece, ray.util.get_node_ip_address())


def _check(film: task.Film) -> tuple[str, str]:
    import ray

    address = ray.util.get_node_ip_address()
    task.check(film, address)
    return film.choose_backend(), address


def _connect(address: str) -> tuple[Any, bool]:
    """Connect to a cluster; returns Ray, and whether this process wasn't connected before. Raises ClusterError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        _check_connection(ray, address)
        return ray, False
    options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # of Ray's, some are nothing more
        reason = (getattr(error, "strerror", None) or str(error)).strip().partition("\n")[0]
        raise ClusterError(
            f"can't connect to the Ray cluster {address!r}: {reason}; start one with `ray start --head`, or give "
            "local to use this machine alone"
        ) from error
    return ray, True


def _check_connection(ray: Any, address: str) -> None:
    """Raise ClusterError if this process is connected to another cluster than the one that is asked for."""
    there = ray.get_runtime_context()
    same = address == "auto"
    if address == "local":
        same = [node["NodeID"] for node in ray.nodes() if node["Alive"]] == [there.get_node_id()]
    elif address != "auto":
        with suppress(OSError, ValueError):  # nothing listens there
            same = _endpoint(address) == _endpoint(there.gcs_address)
    if not same:
        raise ClusterError(
            f"this process is connected to the Ray cluster {there.gcs_address}, and can't use {address!r} as well; "
            "give auto to use that one, or call ray.shutdown() first"
        )


def _here(ray: Any, kind: type, *arguments: Any) -> Any:
    """Start an actor on this machine, so that it is lost only with the driver."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(kind).remote(*arguments)


def _reach(address: str) -> None:
    """Raise OSError if nothing listens at a cluster's address: Ray itself would go on trying for many minutes."""
    found: str | None = address
    if address == "auto":
        found = os.environ.get("RAY_ADDRESS") or _current()
    if found is not None and found != "local":
        _endpoint(found)


def _endpoint(address: str) -> tuple[str, int]:
    """The IP address and port behind HOST:PORT, where something must listen; all addresses of this machine are one.

    Raises OSError or ValueError.
    """
    host, colon, port = address.strip().rpartition(":")
    if not (host and colon and port.isdecimal()):
        raise ValueError("give auto, local or HOST:PORT")
    with socket.create_connection((host, int(port)), timeout=CONNECTING) as connection:
        there, here = connection.getpeername()[0], connection.getsockname()[0]
    return "here" if there == here else there, int(port)


def _current() -> str | None:
    """The address that `ray start` leaves of the cluster it has started or joined; None if it isn't where Ray looks."""
    folder = os.environ.get("RAY_TMPDIR") or (sys.platform == "linux" and os.environ.get("TMPDIR")) or "/tmp"
    with suppress(FileNotFoundError):
        return (Path(folder) / "ray" / "ray_current_cluster").read_text()
    return None


def _amounts(resources: dict[str, float]) -> str:
    parts = [f"{resources['CPU']:g} CPU", f"{resources['memory'] / 2**30:.1f} GiB of memory"]
    if resources["GPU"]:
        parts.insert(1, f"{resources['GPU']:g} GPU")
    return ", ".join(parts[:-1]) + " and " + parts[-1]
