"""A file on a web server, read as if it were here.

FFmpeg could fetch it itself, but loses frames: version 8.1 skips the first of an MP4 with its index at the end.
"""

import base64
import io
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse, responses
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

TIMEOUT = 30.0
"""Seconds to wait for a silent server."""
PATIENCE = 60.0
"""Seconds to go on trying after the connection broke."""
LONGEST_WAIT = 8.0
"""Seconds between two attempts, at most."""
NEAR = 2**20
"""Seek forward at most this far by reading on; beyond it, send a new request."""
PASSING = (408, 425, 429)
"""Refusals that are worth another attempt, as all from 500 on are."""
PART = re.compile(r"bytes (?P<first>\d+)-(?P<last>\d+)/(?P<length>\d+)")
PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True)
class Version:
    """What a server says of a file, which tells it from another one under the same URL."""

    length: int | None
    etag: str | None
    modified: str | None
    ranges: bool = field(compare=False)
    """Whether parts of it can be requested."""


class RefusedError(OSError):
    """An answer that another attempt wouldn't change."""


class WebFile(io.RawIOBase):
    """A file at an http or https URL, for reading and, if the server sends parts of files, seeking.

    Resumes where it was after the connection broke: servers also close those that wait for long. Raises OSError if the
    server can't be reached, refuses, or has another version of the file by now. No error has the URL in it, whose parts
    may be secret.
    """

    def __init__(self, url: str, version: Version | None = None) -> None:
        """Open a file, or reopen the given version of it, which sends no request before it is read."""
        self._url = url
        self._opener = build_opener(_Redirects)
        self._position = 0
        self._response: HTTPResponse | None = None
        self._at = 0
        """The place that the response has come to."""
        self._end: int | None = None
        """The place at which the response ends; None if it doesn't say."""
        self.version = version or self._request(0, TIMEOUT)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.version.ranges

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if not self.seekable():
            raise io.UnsupportedOperation("the server sends whole files only")
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.version.length or 0}
        self._position = bases[whence] + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        if self.version.length is not None and self._position >= self.version.length:
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
        deadline = time.monotonic() + PATIENCE
        wait = 0.0
        while True:
            error: Exception = ConnectionError("the server broke the connection")
            try:
                data = self._here(deadline).read(size)
                if data or self.version.length is None:
                    return data
            except RefusedError:
                raise
            except OSError as caught:
                error = caught
            except HTTPException:
                pass  # of what was announced, not all has come
            self._drop()
            begun = self._position > 0 and not self.seekable()
            if begun or time.monotonic() + wait >= deadline:
                raise OSError(f"the connection was lost ({_reason(error)})") from error
            time.sleep(wait)
            wait = min(2 * wait + 0.5, LONGEST_WAIT)

    def _here(self, deadline: float) -> HTTPResponse:
        """The response, positioned at `_position`."""
        if self._response is not None and 0 <= self._position - self._at <= NEAR:
            while self._at < self._position and (dropped := self._response.read(self._position - self._at)):
                self._at += len(dropped)
        if self._response is None or self._at != self._position or self._at == self._end:
            self._drop()
            timeout = min(TIMEOUT, max(deadline - time.monotonic(), 1))
            if self._request(self._position, timeout) != self.version:
                raise RefusedError("the file on the server has changed")
        assert self._response is not None
        return self._response

    def _request(self, first: int, timeout: float) -> Version:
        """Request the file from byte `first` on, and see which version of it comes."""
        self._response = self._send(first, timeout)
        try:
            self._at, self._end, version = _read_head(self._response)
            if self._at != first:
                raise OSError("the server sends another part of the file than was requested")
        except OSError:
            self._drop()
            raise
        return version

    def _send(self, first: int, timeout: float) -> HTTPResponse:
        try:
            response: HTTPResponse = self._opener.open(_get(self._url, {"Range": f"bytes={first}-"}), timeout=timeout)
            return response
        except HTTPError as error:
            error.close()
            if error.code == 416 and first == 0:
                raise RefusedError("it is empty") from None
            raise _refusal(error.code) from None
        except URLError as error:
            raise OSError(_reason(error.reason)) from None
        except OSError:
            raise
        except (HTTPException, ValueError) as error:
            raise OSError(_reason(error)) from None

    def _drop(self) -> None:
        if self._response is not None:
            self._response.close()
        self._response = None


class _Redirects(HTTPRedirectHandler):
    """Keeps the password on the same server. Follows only to http and https."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request:
        if urlsplit(newurl).scheme not in PORTS:
            raise HTTPError(req.full_url, code, msg, headers, fp)
        new = _get(newurl, req.headers)
        password = req.get_header("Authorization")
        if password is not None and not new.has_header("Authorization") and _origin(new) == _origin(req):
            new.add_unredirected_header("Authorization", password)
        return new


def _get(url: str, headers: Mapping[str, str]) -> Request:
    """A request for a URL, whose user and password become a header."""
    parts = urlsplit(url)
    account, _, host = parts.netloc.rpartition("@")
    if not host.isascii():
        host = host.encode("idna").decode()
    bare = parts._replace(netloc=host, fragment="").geturl()
    request = Request(quote(bare, safe="%/:=&?~+!$,;'@()*[]"), headers=dict(headers))
    if account:
        token = base64.b64encode(unquote(account).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _read_head(response: HTTPResponse) -> tuple[int, int | None, Version]:
    """Where a response begins and ends in the file, and what it says of the file."""
    headers, status = response.headers, response.status
    begin, end, length = 0, response.length, response.length
    if status == 206:
        part = PART.fullmatch(headers["Content-Range"] or "")
        if part is None:
            raise OSError("the server doesn't say which part of the file it sends")
        begin, end, length = int(part["first"]), int(part["last"]) + 1, int(part["length"])
    elif status != 200:
        raise _refusal(status)
    elif length is None and not response.chunked:
        raise OSError("the server doesn't say how long the file is; download it first")
    version = Version(length=length, etag=headers["ETag"], modified=headers["Last-Modified"], ranges=status == 206)
    return begin, end, version


def _origin(request: Request) -> tuple[str, str | None, int]:
    """What has to be the same for a server to be the same."""
    parts = urlsplit(request.full_url)
    return parts.scheme, parts.hostname, parts.port or PORTS[parts.scheme]


def _refusal(code: int) -> OSError:
    """The error for a status. The server's own words aren't repeated: there may be URLs in them."""
    text = f"the server answers {code} {responses.get(code, '')}".rstrip()
    if code >= 500 or code in PASSING:
        return OSError(text)
    return RefusedError(f"{text}, and leads nowhere" if 300 <= code < 400 else text)


def _reason(error: Any) -> str:
    """What is wrong, without any text of the server's, or of a URL."""
    if isinstance(error, HTTPException | ValueError) and not isinstance(error, OSError):
        return f"the server's answer isn't valid HTTP ({type(error).__name__})"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
