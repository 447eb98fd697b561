"""The hidden folder beside the output, in which it grows and which an interrupted run leaves behind.

Finished segments are entered into a journal, which is replaced atomically: whenever a run is killed, the journal
describes what is there. The scan of the source grows beside it. A lock keeps a second run away while one is at work.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from filelock import FileLock, Timeout

from zsm import files
from zsm.errors import VideoError
from zsm.runtime.video import images
from zsm.runtime.video.location import Location, Url
from zsm.runtime.video.scan import Scan
from zsm.runtime.video.source import Info


@dataclass(kw_only=True)
class Segment:
    """A finished piece of the encoded output."""

    frames: int
    delay: int
    """The most frames by which a packet is out of order."""
    made: dict[str, str] = field(default_factory=dict)
    """Where and by what it was made, if not by the run itself."""
    builds: dict[str, str] = field(default_factory=dict)
    """The checksums of the engines that it was made with, if not by the run itself."""


@dataclass(kw_only=True)
class Journal:
    """The finished part of a job."""

    job: dict[str, str]
    """Everything that the result depends on; only an equal job can be resumed."""
    segments: dict[int, Segment] = field(default_factory=dict)
    """The finished segments by their numbers, in any order and with gaps."""
    threads: int = 1
    """The encoder's threads: frames may depend on them, so that a resumed run has as many, on whatever machine."""
    lean: bool = False
    """Whether the encoder is lean, which a resumed run keeps, whatever memory is free then."""
    builds: dict[str, str] = field(default_factory=dict)
    """The checksums of the engines that the frames are made with, by what they are for."""
    replaces: dict[str, str] = field(default_factory=dict)
    """Describes what stood in the output's place when the job began."""
    result: dict[str, str] = field(default_factory=dict)
    """Describes the finished result, once it is about to take that place."""


class Workspace:
    """The folder, its journal and its lock. Leaving the context with an error removes it, unless a part is finished.

    Raises VideoError if the output exists, if another run is at work or was interrupted there, or if the folder can't
    be written.
    """

    def __init__(
        self,
        target: Path,
        job: Mapping[str, str],
        *,
        resume: bool,
        overwrite: bool,
        pipe: bool = False,
        threads: int = 1,
        lean: bool = False,
    ) -> None:
        self.target = target
        self.remedy = "a pipe can't be resumed: start over with --overwrite" if pipe else "continue with --resume"
        self.folder = folder_of(target)
        self.images = self.folder / "frames"
        self.journal = Journal(job=dict(job), threads=threads, lean=lean)
        check_target(target, overwrite=overwrite, resume=resume)
        self._lock = self._locked()
        try:
            self._begin(resume=resume, overwrite=overwrite)
            self.scan = Scan(None if pipe else self.folder / "scan.jsonl")
        except BaseException:
            if not self._path.exists():
                shutil.rmtree(self.folder, ignore_errors=True)
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self.journal.segments and not any(self.images.glob("[0-9]*")):
            shutil.rmtree(self.folder, ignore_errors=True)
        self.scan.close()
        self._lock.release()

    def segment(self, number: int) -> Path:
        """The file of a segment."""
        return self.folder / f"segment-{number:06d}.mkv"

    def use(self, builds: Mapping[str, str]) -> None:
        """Enter the engines that the next frames are made with; raises VideoError if others made the finished part."""
        known = self.journal.builds
        for engine, checksum in builds.items():
            if known.get(engine, checksum) != checksum:
                raise VideoError(
                    f"the engine of {engine} is another build than the one that made the finished part, and may give "
                    "other pixels: copy the cache folder ($ZSM_CACHE) of the machine that began the run, which needs "
                    "the same driver, CUDA, TensorRT and plugin, or start over with --overwrite"
                )
        if builds.keys() - known.keys():
            known.update(builds)
            self.save()

    def save(self) -> None:
        """Replace the journal on disk."""
        try:
            files.write(self._path, json.dumps(asdict(self.journal)))
        except OSError as error:
            raise VideoError(f"can't write {self.folder}: {error.strerror}") from error

    def publish(self, result: Path) -> None:
        """Move the finished result to its place, and remove the folder.

        A file is replaced in one step; a folder that is in the way is removed first.
        """
        self.journal.result = _describe(result)
        self.save()
        if self.target.is_dir():
            shutil.rmtree(self.target)
        result.replace(self.target)
        with suppress(OSError):  # without the record, a later run only refuses to replace the output
            files.write(_record_of(self.target), _record(self.target, self.journal.job))
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _path(self) -> Path:
        return _journal_of(self.target)

    def _locked(self) -> FileLock:
        """Lock the folder. The system drops the lock of a process that ends, however it ends."""
        holder = self.folder / "process"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / "lock", timeout=0)
            lock.acquire()
            holder.write_text(str(os.getpid()))
        except Timeout:
            process = holder.read_text() if holder.exists() else "of unknown number"
            raise VideoError(
                f"another run (process {process}) is at work on {self.target}; let it finish, or stop it first"
            ) from None
        except OSError as error:
            raise VideoError(f"can't write beside {self.target}: {error.strerror}") from error
        return lock

    def _begin(self, *, resume: bool, overwrite: bool) -> None:
        if self._path.exists() and not resume:
            if not overwrite:
                raise VideoError(
                    f"an interrupted run of {self.target} is in {self.folder}: continue it with --resume, "
                    "or start over with --overwrite"
                )
            for path in self.folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name not in ("lock", "process"):
                    path.unlink()
        if self._path.exists():
            self._load()
            found = _describe(self.target)
            if found and found not in (self.journal.replaces, self.journal.result) and not overwrite:
                raise VideoError(f"{self.target} appeared after the run was interrupted; replace it with --overwrite")
        else:
            self.journal.replaces = _describe(self.target)
        self.save()

    def _load(self) -> None:
        try:
            found = msgspec.convert(json.loads(self._path.read_text()), Journal, str_keys=True)
        except (OSError, ValueError, msgspec.ValidationError) as error:
            raise VideoError(f"{self._path} is damaged ({error}); start over with --overwrite") from error
        changed = sorted(key for key in found.job | self.journal.job if found.job.get(key) != self.journal.job.get(key))
        if changed:
            tile = f" (it had --tile {found.job['tile']})" if "tile" in set(changed) & set(found.job) else ""
            raise VideoError(
                f"the interrupted run in {self.folder} was another job, with different {', '.join(changed)}{tile}; "
                "use the same options, or start over with --overwrite"
            )
        self.journal = found


def began_lean(target: Path) -> bool | None:
    """Whether the interrupted run of `target` has a lean encoder; None if there is no such run."""
    try:
        return bool(json.loads(_journal_of(target).read_text())["lean"])
    except (OSError, ValueError, KeyError, TypeError):  # a damaged journal is reported when the run begins
        return None


def identify(path: Path) -> dict[str, str]:
    """Describe a file or a folder of images by names, sizes and times, so that another one isn't taken for it."""
    content = {"images": _digest(images.find(path))} if path.is_dir() else _describe(path)
    return {"input": str(path.absolute())} | {f"input {key}": value for key, value in content.items()}


def identify_source(info: Info) -> dict[str, str]:
    """Describe a source, so that another one isn't taken for it: what isn't a path by what is known of it.

    The scan's checksums do the rest.
    """
    if isinstance(info.location, Path):
        return identify(info.location)
    found: dict[str, object] = {"size": info.length}
    if isinstance(info.location, Url) and info.location.version is not None:
        found |= {"ETag": info.location.version.etag, "time": info.location.version.modified}
    return {"input": info.name} | {f"input {key}": str(value) for key, value in found.items() if value is not None}


def is_known(location: Location | None) -> bool:
    """Whether another source would be described differently, even if it has the same length."""
    if isinstance(location, Url):
        return location.version is not None and (location.version.etag or location.version.modified) is not None
    return isinstance(location, Path)


def _describe(path: Path) -> dict[str, str]:
    """Describe a file or a folder by what it holds, not by its name; empty if there is nothing."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return {}
    if path.is_dir():
        return {"files": _digest(sorted(path.iterdir()))}
    stat = path.stat()
    return {"size": str(stat.st_size), "time": str(stat.st_mtime_ns)}


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        digest.update(repr((path.name, stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()


def folder_of(target: Path) -> Path:
    """The absolute path of the folder in which `target` grows."""
    return files.beside(target.absolute(), ".", ".zsm")


def _journal_of(target: Path) -> Path:
    return folder_of(target) / "journal.json"


def has_result(target: Path, job: Mapping[str, str]) -> bool:
    """Whether the output is the unchanged result of this job, and no interrupted run would replace it."""
    try:
        return not folder_of(target).exists() and _record_of(target).read_text() == _record(target, job)
    except (OSError, VideoError):
        return False


def check_target(target: Path, *, overwrite: bool, resume: bool = False) -> None:
    """Raise VideoError if something is in the way, unless an interrupted run was about to replace it."""
    if not target.exists() or overwrite or (target.is_dir() and not any(target.iterdir())):
        return
    if not resume:
        raise VideoError(f"{target} exists; replace it with --overwrite")
    if not _journal_of(target).exists():
        raise VideoError(f"{target} exists, but isn't the result of this run; replace it with --overwrite")


def _record_of(target: Path) -> Path:
    """Where the cache remembers that `target` was finished."""
    name = hashlib.sha256(os.fsencode(target.absolute())).hexdigest()
    return files.cache_folder() / "finished" / f"{name[:32]}.json"


def _record(target: Path, job: Mapping[str, str]) -> str:
    """Digests alone: the cache doesn't tell what was restored."""
    parts = (dict(job), identify(target))
    return json.dumps([hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for part in parts])
