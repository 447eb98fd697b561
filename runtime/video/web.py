"""A file on a web server, read as if it were here.

FFmpeg could fetch it itself, but loses frames: version 8.1 skips the first of an MP4 with its index at the end.
"""

import base64
import io
import time
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

TIMEOUT = 60.0
"""Seconds after which a silent server is given up."""
WAITS = (0, 1, 2, 4, 8, 16, 32)
"""Seconds before each attempt to go on after a broken connection."""
NEAR = 2**20
"""Bytes that are rather read and dropped than skipped with another request."""


class WebFile(io.RawIOBase):
    """A file at an http or https URL, to be read and, if the server sends parts of files, sought.

    Goes on where it was after the connection broke: servers also close those that wait for long. Raises OSError if the
    server can't be reached, refuses, or has another version of the file meanwhile. No error has the URL in it, whose
    parts may be secret.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._position = 0
        self._at = 0
        """The place that the answer has come to."""
        self._answer: HTTPResponse | None = self._request(0)
        self._version = _version(self._answer)
        self._parts = self._answer.status == 206
        length = self._answer.headers["Content-Length"]
        self._length = None if length is None else int(length)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._parts and self._length is not None

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if not self.seekable():
            raise io.UnsupportedOperation("the server sends whole files only")
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length or 0}
        self._position = bases[whence] + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        if self._length is not None and self._position >= self._length:
            return 0
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        self._at = self._position
        return len(data)

    def close(self) -> None:
        self._drop()
        super().close()

    def _read(self, size: int) -> bytes:
        """The next bytes; none at the end of a file of unknown length."""
        error: Exception = ConnectionError("the server broke the connection")
        for wait in WAITS:
            try:
                data = self._here().read(size)
                if data or self._length is None:
                    return data
            except (ConnectionError, TimeoutError, HTTPException) as caught:
                error = caught
            if not self.seekable():
                break
            self._drop()
            time.sleep(wait)
        raise OSError(f"the connection was lost ({str(error) or type(error).__name__})") from error

    def _here(self) -> HTTPResponse:
        """An answer that has come to the position."""
        if self._answer is not None and 0 <= self._position - self._at <= NEAR:
            while self._at < self._position and (dropped := self._answer.read(self._position - self._at)):
                self._at += len(dropped)
        if self._answer is None or self._at != self._position:
            self._drop()
            self._answer = self._request(self._position)
            self._at = self._position
            if _version(self._answer) != self._version:
                raise OSError("the file on the server has changed")
        return self._answer

    def _request(self, first: int) -> HTTPResponse:
        try:
            answer: HTTPResponse = urlopen(_get(self._url, first), timeout=TIMEOUT)
        except HTTPError as error:
            error.close()
            raise OSError(f"the server answers {error.code} {error.reason}") from None
        except URLError as error:
            if isinstance(error.reason, ConnectionError | TimeoutError):
                raise error.reason from None
            raise OSError(str(getattr(error.reason, "strerror", None) or error.reason)) from None
        return answer

    def _drop(self) -> None:
        if self._answer is not None:
            self._answer.close()
        self._answer = None


def _get(url: str, first: int) -> Request:
    """A request for a file from byte `first` on."""
    parts = urlsplit(url)
    account, _, host = parts.netloc.rpartition("@")
    bare = parts._replace(netloc=host, fragment="").geturl()
    request = Request(quote(bare, safe="%/:=&?~+!$,;'@()*[]"), headers={"Range": f"bytes={first}-"})
    if account:
        token = base64.b64encode(unquote(account).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _version(answer: HTTPResponse) -> tuple[str | None, ...]:
    """What tells two versions of a file apart."""
    total = (answer.headers["Content-Range"] or "").rpartition("/")[2]
    return answer.headers["ETag"], answer.headers["Last-Modified"], total
