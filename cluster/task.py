"""What runs on a worker. It writes nothing there but temporary files."""

import hashlib
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import av

import zsm
from zsm.engine import Bundle, Runtime
from zsm.engine.backends import choose_backend
from zsm.engine.devices import Device, OpenOptions
from zsm.errors import ClusterError, Error
from zsm.runtime.video import Info, Source, open_source
from zsm.runtime.video.encoders import Plan
from zsm.runtime.video.location import Location
from zsm.runtime.video.pieces import Piece, render
from zsm.runtime.video.resume import Segment, identify_source

Pairs = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Film:
    """What all segments of a film have in common."""

    source: Location = field(compare=False)
    """Functions come to each task as other objects, so that `run` tells films apart."""
    run: str = field(default_factory=lambda: uuid4().hex)
    rate: Fraction
    """Frames per second of a folder of images."""
    stream: int
    bundle: str
    backend: str
    runtime: Pairs
    """The other arguments of `zsm.Runtime`."""
    plan: Plan
    same: Pairs
    """What `conditions` must find on every node."""

    def open(self) -> Source:
        """Open the source; raises VideoError."""
        if isinstance(self.source, Path) and self.source.is_dir():
            return open_source(self.source, rate=self.rate)
        return open_source(self.source, stream=self.stream)

    def choose_backend(self) -> str:
        """The backend that this machine takes. Raises BackendError."""
        options = OpenOptions(device=Device.parse(dict(self.runtime)["device"]))
        return choose_backend(Bundle(self.bundle), self.backend, options)[0]


def conditions(source: Info, bundle: str) -> Pairs:
    """Find what the frames depend on, on this machine. Raises BundleError."""
    manifest = Bundle(bundle).manifest.to_json()
    found = {
        "zsm": zsm.__version__,
        "PyAV": av.__version__,
        "bundle": hashlib.sha256(manifest.encode()).hexdigest()[:12],
    }
    return tuple((found | identify_source(source)).items())


@lru_cache
def check(film: Film, node: str) -> None:
    """Raise ClusterError if this node can't read the source or the bundle, or would make other frames."""
    try:
        with closing(film.open()) as source:
            found = dict(conditions(source.info, film.bundle))
    except (Error, OSError) as error:
        raise ClusterError(f"node {node} can't take part: {error}") from error
    other = [f"{key} {found.get(key)} instead of {value}" for key, value in film.same if found.get(key) != value]
    if other:
        raise ClusterError(f"node {node} can't take part, because it has {', '.join(other)}")


def make(film: Film, piece: Piece, node: str) -> tuple[Segment, bytes]:
    """Restore a segment, and return its description and file. Errors say on which node they happened."""
    check(film, node)
    try:
        runtime = _open(film.bundle, (("backend", film.backend), *film.runtime))
        with closing(film.open()) as source, tempfile.TemporaryDirectory(prefix="zsm-") as folder:
            path = Path(folder) / "segment.mkv"
            segment = render(source, piece, runtime, film.plan, path)
            said = {key: str(value) for key, value in runtime.describe().items() if key != "builds"}
            segment.made = {"node": node} | said
            return segment, path.read_bytes()
    except Error as error:
        raise type(error)(f"{error} (segment {piece.number}, on node {node})") from error


_opened: dict[tuple[str, Pairs], Runtime] = {}


def _open(bundle: str, options: Pairs) -> Runtime:
    """The Runtime of this process, kept for its next segment; another film's is closed before."""
    if (bundle, options) not in _opened:
        for other in _opened.values():
            other.close()
        _opened.clear()
        _opened[bundle, options] = Runtime(bundle, **dict(options))
    return _opened[bundle, options]
