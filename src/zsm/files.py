"""The user's cache folder: what was fetched and built, and can be made again."""

import os
import tempfile
from pathlib import Path

import platformdirs

VARIABLE = "ZSM_CACHE"


def cache_folder() -> Path:
    """`$ZSM_CACHE`, or the system's usual place for caches."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("zsm", appauthor=False))


def write_atomically(file: Path, content: bytes) -> None:
    """Write a file, and its folder, that has its name only when it is complete; raises OSError, and leaves nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f"{file.stem}.", suffix=".part", delete=False) as part:
        try:
            part.write(content)
            part.flush()
            os.fsync(part.fileno())
            Path(part.name).replace(file)
        except BaseException:
            Path(part.name).unlink()
            raise
