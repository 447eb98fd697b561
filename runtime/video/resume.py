"""The hidden folder beside the output in which it grows, and which an interrupted run leaves to be resumed.

What is finished is entered into a journal, which is replaced as a whole: whenever a run is killed, the
journal describes what is there.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from zsm.errors import VideoError


@dataclass(kw_only=True)
class Segment:
    """A finished piece of the encoded output."""

    frames: int
    delay: int
    """By how many frames its packets are out of order, at most."""


@dataclass(kw_only=True)
class Journal:
    """What has been done of a job."""

    job: dict[str, str]
    """What the result depends on: to be resumed, a job must be the same."""
    segments: list[Segment] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    """The scene beginnings found so far, at least as far as the output goes."""


class Workspace:
    """The folder and its journal. Use as a context: on an error, a folder in which nothing is finished goes."""

    def __init__(self, target: Path, job: Mapping[str, str], *, resume: bool, overwrite: bool) -> None:
        self.target = target
        self.folder = folder_of(target)
        self.journal = Journal(job=dict(job))
        check_target(target, overwrite=overwrite or resume)
        if self.folder.exists() and not resume:
            if not overwrite:
                raise VideoError(
                    f"an interrupted run of {target} is in {self.folder}: continue it with --resume, "
                    "or start anew with --overwrite"
                )
            shutil.rmtree(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VideoError(f"can't write beside {target}: {error.strerror}") from error
        self._load()
        self.save()

    def save(self) -> None:
        """Replace the journal on disk."""
        partial = self.folder / "journal.part"
        try:
            partial.write_text(json.dumps(asdict(self.journal)))
            partial.replace(self.folder / "journal.json")
        except OSError as error:
            raise VideoError(f"can't write {self.folder}: {error.strerror}") from error

    def publish(self, result: Path) -> None:
        """Put the finished result in its place, in one step, and remove the rest."""
        if self.target.is_dir():
            shutil.rmtree(self.target)
        result.replace(self.target)
        shutil.rmtree(self.folder, ignore_errors=True)

    def discard(self) -> None:
        """Remove the folder."""
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
            raise VideoError(f"{path} is damaged ({error}); start anew with --overwrite") from error
        changed = sorted(key for key in found.job | self.journal.job if found.job.get(key) != self.journal.job.get(key))
        if changed:
            raise VideoError(
                f"the interrupted run in {self.folder} was another job: {', '.join(changed)} differ; "
                "give the same, or start anew with --overwrite"
            )
        self.journal = found


def folder_of(target: Path) -> Path:
    """Where the output `target` grows."""
    return target.with_name(f".{target.name}.zsm")


def is_finished(target: Path) -> bool:
    """Whether the output is there, and no interrupted run that would replace it."""
    return target.exists() and not folder_of(target).exists()


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise VideoError if something is in the way."""
    if target.exists() and not overwrite and not (target.is_dir() and not any(target.iterdir())):
        raise VideoError(f"{target} exists; give --overwrite to replace it")


def restart(done: int, cuts: Sequence[int], window: int, overlap: int) -> int:
    """The input frame from which a stream has to begin, to give output `done` and those after it again.

    A scene's windows lie on a grid that begins with the scene, except for the last, which is slid back. The
    place is on the grid, early enough that output `done` depends on no window before it, and that the scene
    is known to go on for a window's length, so that the last window is the same.
    """
    scene = max((cut for cut in cuts if 2 * cut <= done), default=0)
    step = window - overlap
    latest = done // 2 + 1 - window
    return scene + max(0, latest - scene) // step * step
