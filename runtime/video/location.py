"""Where a source is: a path, a URL, or a function that opens it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from zsm.errors import ArgumentError
from zsm.runtime.video.web import Version, WebFile

URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+)://(?:[^/?#]*@)?(?P<rest>[^?#]*)", re.IGNORECASE)
SCHEMES = ("http", "https")

Opener = Callable[[], BinaryIO]
"""Opens a source from its beginning, as often as it is called, for reading and seeking."""


@dataclass(frozen=True)
class Url:
    """An http or https URL. Its text is without user, password and query, which may be secret.

    Raises ArgumentError for any other.
    """

    full: str = field(repr=False)
    version: Version | None = None
    """The version of the file that is read, once it has been opened; opening another is an error."""

    def __post_init__(self) -> None:
        if not _is_clear(self.full):
            raise ArgumentError(
                "invalid URL: host and port can't be told from user and password; write the characters / ? # @ of a "
                "password, and any @ after the host, as %2F %3F %23 %40"
            )
        match = URL.match(self.full)
        if match is None or match["scheme"].lower() not in SCHEMES:
            raise ArgumentError(
                f"can't read {self}: of URLs only http and https are supported; download the file, or in Python give a "
                "function that opens it"
            )

    def __str__(self) -> str:
        match = URL.match(self.full)
        return "a URL" if match is None else f"{match['scheme']}://{match['rest']}"

    def __call__(self) -> Any:
        """Open it; raises OSError."""
        return WebFile(self.full, self.version)


Location = Path | Url | Opener


def _is_clear(url: str) -> bool:
    """Whether a URL's password ends where it seems to, so that it can be left out of messages."""
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        doubled = "@" in parts.path + parts.query + parts.fragment and ("@" in parts.netloc or parts.port is not None)
        return not (doubled or parts.port == 0 or parts.netloc.endswith(":"))
    except ValueError:
        return False


def locate(text: str) -> Path | Url:
    """A URL, if it looks like one, else a path. Raises ArgumentError for an unsupported URL."""
    return Url(text) if URL.match(text) else Path(text)


def name_of(location: Any) -> str:
    """What messages call it."""
    return str(location) if isinstance(location, Path | Url) else "the input file"


def is_elsewhere(location: Location | None) -> bool:
    """Whether it is neither a path nor a pipe, so that a connection may be lost."""
    return not (location is None or isinstance(location, Path))
