"""The released checkpoint: fetched into the user's cache, and recognised by its git blob ID."""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from zsm.errors import CacheError, DataError
from zsm.files import cache_folder, write

FILE = "xiang2020zooming.pth"
BLOB = "96b6d2a9b0d54cb24ab698a871dc29277fcc7657"
URL = f"https://github.com/Mukosame/Zooming-Slow-Mo-CVPR-2020/raw/master/experiments/pretrained_models/{FILE}"
LICENCE = "GPL-3.0 (weights of github.com/Mukosame/Zooming-Slow-Mo-CVPR-2020)"

Progress = Callable[[int, int | None], None]
"""Called with the bytes received so far, and the total if the server announces it."""


def git_blob_id(content: bytes) -> str:
    """Git's hash of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def is_released(content: bytes) -> bool:
    """Whether a file's content is the released checkpoint."""
    return git_blob_id(content) == BLOB


def fetch(url: str = URL, blob: str = BLOB, progress: Progress = lambda done, total: None) -> Path:
    """Return the path of the released checkpoint in the cache, downloading it if necessary.

    Raises DataError if the download fails or isn't the released file, and keeps nothing; CacheError if the cache can't
    be used.
    """
    target = cache_folder() / "weights" / FILE
    try:
        if target.is_file() and git_blob_id(target.read_bytes()) == blob:
            return target
        content = _download(url, progress)
        found = git_blob_id(content)
        if found != blob:
            raise DataError(
                f"{url} returned {len(content)} bytes with git blob ID {found}, not the released checkpoint ({blob}); "
                "nothing was kept: try again, or give another --url"
            )
        write(target, content)
    except OSError as error:
        raise CacheError(f"{target} can't be read or written: {error}; set ZSM_CACHE to another folder") from error
    return target


def _download(url: str, progress: Progress) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            total = response.headers.get("Content-Length")
            content = bytearray()
            while chunk := response.read(1 << 20):
                content += chunk
                progress(len(content), int(total) if total else None)
    except (OSError, ValueError, http.client.HTTPException, urllib.error.URLError) as error:
        raise DataError(f"{url} can't be fetched: {error}; check the network, or give another --url") from error
    if total and len(content) < int(total):
        raise DataError(f"{url} broke off after {len(content)} of {total} bytes; try again")
    return bytes(content)
