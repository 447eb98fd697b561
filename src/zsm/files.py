"""The cache folder, and writing files so that they are either complete or absent."""

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from zsm.errors import CacheError, Error, OutputError

VARIABLE = "ZSM_CACHE"
LONGEST_NAME = 255
"""In bytes; the limit of all common file systems."""


def cache_folder() -> Path:
    """`$ZSM_CACHE`, or the system's usual place for caches, as an absolute path. Raises CacheError if there is none."""
    chosen = os.environ.get(VARIABLE)
    try:
        folder = Path(chosen) if chosen else Path(platformdirs.user_cache_dir("zsm", appauthor=False)).expanduser()
        return folder.absolute()
    except (OSError, RuntimeError) as error:
        raise CacheError(f"there is no place for the cache: {error}; set ZSM_CACHE to a folder's full path") from error


def make_cache_folder(folder: Path) -> None:
    """Make a folder of the cache, unless it exists. Raises CacheError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(f"the cache folder {folder} can't be made: {error}; set ZSM_CACHE to another") from error


@dataclass(frozen=True, kw_only=True)
class Content:
    """How much a folder holds."""

    files: int
    bytes: int


def content(folder: Path) -> Content:
    """Count the files in a folder and below; none if it is absent. Raises OSError."""
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    return Content(files=len(sizes), bytes=sum(sizes))


def clear(folder: Path) -> Content:
    """Delete everything in a folder, and return how much it was. Raises OSError."""
    held = content(folder)
    for path in folder.glob("*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return held


def beside(path: Path, prefix: str, suffix: str) -> Path:
    """`path` with a prefix and a suffix around its name, which is hashed if the file system couldn't hold it."""
    name = f"{prefix}{path.name}{suffix}"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f"{prefix}{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}{suffix}"
    return path.with_name(name)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the name of a temporary file beside `path`, to be written; on success it replaces `path` in one step.

    On an error it is removed, and `path` stays as it was. Folders are created as needed. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(6)}.part")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`, to be filled and renamed to it; what isn't renamed is removed.

    Raises OutputError.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise OutputError(f"{folder} can't be written: {error}") from error
    try:
        temporary.chmod(0o755)
        yield temporary
    except Error:
        raise
    except OSError as error:
        raise OutputError(f"{folder} can't be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write(path: Path, content: bytes | str) -> None:
    """Write a whole file atomically; text is encoded as UTF-8. Raises OSError."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def check_result(path: Path) -> None:
    """Raise OutputError if `path` obviously can't be written, so that a mistake is found before long work."""
    if path.is_dir():
        raise OutputError(f"can't write {path}: it is a folder; give a file's name")
    if not path.parent.is_dir():
        raise OutputError(f"can't write {path}: there is no folder {path.parent}")


def write_result(path: Path, content: str) -> None:
    """Write a whole text file atomically. Raises OutputError."""
    try:
        write(path, content)
    except OSError as error:
        raise OutputError(f"can't write {path}: {error.strerror}") from error
