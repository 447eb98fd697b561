"""The hidden folder beside the output, in which it grows and which an interrupted run leaves behind.

Finished segments are entered into a journal, which is replaced atomically: whenever a run is killed, the journal
describes what is there.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from zsm import files
from zsm.errors import VideoError


@dataclass(kw_only=True)
class Segment:
    """A finished piece of the encoded output."""

    frames: int
    delay: int
    """The most frames by which a packet is out of order."""


@dataclass(kw_only=True)
class Journal:
    """The finished part of a job."""

    job: dict[str, str]
    """Everything that the result depends on; only an equal job can be resumed."""
    segments: list[Segment] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    """The scene beginnings found so far, at least as far as the output goes."""


class Workspace:
    """The folder and its journal. Leaving the context with an error removes the folder, unless a part is finished.

    Raises VideoError if the output exists, if another job was interrupted there, or if the folder can't be written.
    """

    def __init__(self, target: Path, job: Mapping[str, str], *, resume: bool, overwrite: bool) -> None:
        self.target = target
        self.folder = folder_of(target)
        self.images = self.folder / "frames"
        self.journal = Journal(job=dict(job))
        check_target(target, overwrite=overwrite or resume)
        if self.folder.exists() and not resume:
            if not overwrite:
                raise VideoError(
                    f"an interrupted run of {target} is in {self.folder}: continue it with --resume, "
                    "or start over with --overwrite"
                )
            shutil.rmtree(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VideoError(f"can't write beside {target}: {error.strerror}") from error
        self._load()
        self.save()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self.journal.segments and not any(self.images.glob("[0-9]*")):
            shutil.rmtree(self.folder, ignore_errors=True)

    def save(self) -> None:
        """Replace the journal on disk."""
        try:
            files.write(self.folder / "journal.json", json.dumps(asdict(self.journal)))
        except OSError as error:
            raise VideoError(f"can't write {self.folder}: {error.strerror}") from error

    def publish(self, result: Path) -> None:
        """Move the finished result to its place, in one step, and remove the folder."""
        if self.target.is_dir():
            shutil.rmtree(self.target)
        result.replace(self.target)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _load(self) -> None:
        path = self.folder / "journal.json"
        if not path.exists():
            return
        try:
            data = json.loads(path.read_text())
            found = Journal(
                job=data["job"], segments=[Segment(**segment) for segment in data["segments"]], cuts=data["cuts"]
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VideoError(f"{path} is damaged ({error}); start over with --overwrite") from error
        changed = sorted(key for key in found.job | self.journal.job if found.job.get(key) != self.journal.job.get(key))
        if changed:
            raise VideoError(
                f"the interrupted run in {self.folder} was another job, with different {', '.join(changed)}; "
                "use the same options, or start over with --overwrite"
            )
        self.journal = found


def identify(path: Path | None) -> dict[str, str]:
    """Describe a source, so that a run isn't resumed with another one."""
    if path is None or path.is_dir():
        return {"input": str(path)}
    stat = path.stat()
    return {"input": str(path.absolute()), "input size": str(stat.st_size), "input time": str(stat.st_mtime_ns)}


def folder_of(target: Path) -> Path:
    """The folder in which `target` grows."""
    return target.with_name(f".{target.name}.zsm")


def is_finished(target: Path) -> bool:
    """Whether the output exists, and no interrupted run would replace it."""
    return target.exists() and not folder_of(target).exists()


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise VideoError if something is in the way."""
    if target.exists() and not overwrite and not (target.is_dir() and not any(target.iterdir())):
        raise VideoError(f"{target} exists; replace it with --overwrite")
