"""Engines on disk: found by everything they depend on, built once, never used if damaged."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from zsm.engine.backends.gpu.cuda import Gpu
from zsm.engine.backends.tensorrt import bindings as library
from zsm.engine.bundle.manifest import Bundle
from zsm.engine.bundle.shapes import SizeRange
from zsm.errors import CacheError
from zsm.files import Content, cache_folder, make_cache_folder
from zsm.files import write as write_file

log = logging.getLogger("zsm")


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """Everything an engine depends on. If any of it changes, another engine is needed."""

    stage: str
    graph: str
    """SHA-256 of the graph that it is built from."""
    precision: str
    sizes: Mapping[str, str]
    """The LR sizes `min`, `opt` and `max`, from which all shapes follow."""
    gpu: str
    capability: str
    driver: str
    cuda: str
    tensorrt: str
    plugin: str
    """Build id of the plugin library; empty for a stage that doesn't need it."""
    options: Mapping[str, Any]

    @classmethod
    def of(cls, bundle: Bundle, stage: str, gpu: Gpu, sizes: SizeRange, options: Mapping[str, Any]) -> Self:
        """The key of a bundle's stage on a GPU; `options` are those of the build."""
        return cls(
            stage=stage,
            graph=bundle.stage(stage).sha256,
            precision=bundle.manifest.precision,
            sizes=sizes.to_dict(),
            gpu=gpu.name,
            capability=gpu.capability,
            driver=gpu.driver,
            cuda=gpu.cuda,
            tensorrt=library.tensorrt().__version__,
            plugin=library.plugin(bundle.read(stage)),
            options=options,
        )

    @property
    def digest(self) -> str:
        """The key in 24 hexadecimal digits, with which the names of the engine's files begin."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An engine in the cache."""

    digest: str
    key: Mapping[str, Any]
    bytes: int
    built: float
    """Seconds since the epoch."""
    seconds: float
    """How long building it took."""
    sound: bool
    """Whether the file is as it was written."""


@dataclass(frozen=True, kw_only=True)
class Cleared(Content):
    """The result of `EngineCache.clear`."""

    in_use: tuple[str, ...]
    """Digests of engines that another process is building; they are kept."""


class EngineCache:
    """Engines in a cache folder: `<digest>.engine` is TensorRT's file, `<digest>.json` describes it.

    The description is written last and holds the engine's SHA-256, and both appear only when complete, so the leftovers
    of a killed process are never used.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (folder or cache_folder()) / "engines"
        self.timing_folder = self.folder.with_name("timing")

    def find(self, key: EngineKey) -> bytes | None:
        """Read an engine; None if it is missing, or damaged, which is logged."""
        found = self._read(key.digest)
        if found is None:
            return None
        said, content = found
        if said.get("key") == _plain(key) and said.get("sha256") == hashlib.sha256(content).hexdigest():
            return content
        log.warning("%s is damaged and won't be used", self._engine(key.digest))
        return None

    def similar(self, key: EngineKey) -> list[EngineKey]:
        """The keys in the cache that differ from this one only in sizes and options, newest first."""
        wanted = {**_plain(key), "sizes": None, "options": None}
        found = []
        for description in self.folder.glob("*.json"):
            said = self._describe(description) or {}
            if {**said.get("key", {}), "sizes": None, "options": None} == wanted:
                found.append((said["built"], EngineKey(**said["key"])))
        return [key for _, key in sorted(found, key=lambda each: -each[0])]

    def find_or_build(self, key: EngineKey, build: Callable[[], bytes]) -> bytes:
        """Read an engine, or build it; other processes that need it wait meanwhile."""
        if (content := self.find(key)) is not None:
            return content
        with self._locked(key.digest, key.stage):
            if (content := self.find(key)) is not None:
                return content
            begin = time.monotonic()
            content = build()
            self._write(key, content, time.monotonic() - begin)
            return content

    def timing_file(self, gpu: str, capability: str, tensorrt: str) -> Path:
        """The file for TensorRT's kernel timings on a type of GPU, which make later builds faster."""
        name = "".join(c if c.isalnum() else "-" for c in f"{gpu}-{capability}-{tensorrt}")
        return self.timing_folder / f"{name}.cache"

    def entries(self) -> list[Entry]:
        """All engines, newest first."""
        digests = [file.stem for file in self.folder.glob("*.json")]
        found = [entry for digest in digests if (entry := self._entry(digest)) is not None]
        return sorted(found, key=lambda entry: -entry.built)

    def clear(self) -> Cleared:
        """Delete every engine except those being built."""
        files = size = 0
        in_use = []
        # An unfinished file is .<digest>.<random>.part.
        for digest in {file.name.lstrip(".").partition(".")[0] for file in self.folder.glob("*") if file.is_file()}:
            try:
                with self._lock(digest).acquire(timeout=0):
                    for file in (*self.folder.glob(f"{digest}.*"), *self.folder.glob(f".{digest}.*")):
                        files, size = files + 1, size + file.stat().st_size
                        file.unlink()
            except Timeout:
                in_use.append(digest)
        return Cleared(files=files, bytes=size, in_use=tuple(in_use))

    @contextmanager
    def _locked(self, digest: str, stage: str) -> Iterator[None]:
        """Hold the engine's lock, which the system releases if this process dies."""
        make_cache_folder(self.folder)
        lock = self._lock(digest)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("another process is building the engine of stage %s; waiting for it", stage)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _lock(self, digest: str) -> FileLock:
        return FileLock(self.folder / f"{digest}.lock")

    def _engine(self, digest: str) -> Path:
        return self.folder / f"{digest}.engine"

    def _read(self, digest: str) -> tuple[dict[str, Any], bytes] | None:
        """An engine's description and content; None if either is missing."""
        said, content = self._describe(self.folder / f"{digest}.json"), _content(self._engine(digest))
        return None if said is None or content is None else (said, content)

    def _describe(self, description: Path) -> dict[str, Any] | None:
        """What a description says: nothing if it is damaged, None if it is missing."""
        content = _content(description)
        if content is None:
            return None
        try:
            said = json.loads(content)
        except ValueError:
            return {}
        return said if isinstance(said, dict) else {}

    def _write(self, key: EngineKey, content: bytes, seconds: float) -> None:
        said = {
            "key": _plain(key),
            "sha256": hashlib.sha256(content).hexdigest(),
            "built": time.time(),
            "seconds": seconds,
        }
        for unfinished in self.folder.glob(f".{key.digest}.*.part"):
            unfinished.unlink(missing_ok=True)
        write(self._engine(key.digest), content)
        write(self.folder / f"{key.digest}.json", json.dumps(said, indent=1).encode())

    def _entry(self, digest: str) -> Entry | None:
        found = self._read(digest)
        if found is None:
            return None
        said, content = found
        return Entry(
            digest=digest,
            key=said.get("key", {}),
            bytes=len(content),
            built=said.get("built", 0.0),
            seconds=said.get("seconds", 0.0),
            sound=said.get("sha256") == hashlib.sha256(content).hexdigest(),
        )


def _content(file: Path) -> bytes | None:
    """A file of the cache; None if it is missing, as after another process has cleared the cache. Raises CacheError."""
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CacheError(f"{file} can't be read: {error}; see zsm cache clear") from error


def write(file: Path, content: bytes) -> None:
    """Write a file of the cache atomically; raises CacheError."""
    try:
        write_file(file, content)
    except OSError as error:
        raise CacheError(f"{file} can't be written: {error}; free some space, or set ZSM_CACHE") from error


def _plain(key: EngineKey) -> Any:
    """The key as JSON returns it, with lists for tuples."""
    return json.loads(json.dumps(asdict(key)))
