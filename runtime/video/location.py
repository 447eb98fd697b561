"""Where a source is: a path, a URL, or a function that opens it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from zsm.errors import ArgumentError
from zsm.runtime.video.web import WebFile

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

    def __post_init__(self) -> None:
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
        return WebFile(self.full)


Location = Path | Url | Opener


def locate(text: str) -> Path | Url:
    """A URL, if it looks like one, else a path. Raises ArgumentError for an unsupported URL."""
    return Url(text) if URL.match(text) else Path(text)


def name_of(location: Any) -> str:
    """What messages call it."""
    return str(location) if isinstance(location, Path | Url) else "the input file"


def is_elsewhere(location: Location | None) -> bool:
    """Whether it is neither a path nor a pipe, so that a connection may be lost."""
    return not (location is None or isinstance(location, Path))
