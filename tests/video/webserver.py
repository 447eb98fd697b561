"""A web server with the habits, good and bad, of those that films are fetched from."""

import base64
import re
import ssl
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit


class Server(ThreadingHTTPServer):
    """Serves the files of a folder. What it does may be changed while it runs."""

    daemon_threads = True

    def __init__(self, folder: Path, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.folder = folder
        self.ranges = True
        """Whether parts of a file are sent."""
        self.drops = 0
        """How many more answers are broken off after `most` bytes."""
        self.most = 0
        self.password: str | None = None
        """USER:PASSWORD that every request needs."""
        self.redirect: str | None = None
        """Where all requests are sent to."""
        self.elsewhere: dict[str, str] = {}
        """Where requests of single paths are sent to."""
        self.largest: int | None = None
        """The most bytes of a part."""
        self.shift = 0
        """How far from where it should a part begins, unless it begins at 0."""
        self.framing = "length"
        """What tells the end of a whole file: `length`, `chunks`, or `nothing` but the end of the connection."""
        self.versions = True
        """Whether there are ETags."""
        self.statuses: list[int] = []
        """What the next requests are answered with; 200 stands for the file."""
        self.nonsense: bytes | None = None
        """What all requests are answered with, instead of HTTP."""
        self.silence = 0.0
        """Seconds before the rest of each answer is sent after `most` bytes."""
        self.asked: list[str] = []
        """The hosts of all requests."""
        self.requests = 0
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.server.asked.append(self.headers["Host"])
        name = unquote(urlsplit(self.path).path).lstrip("/")
        path = self.server.folder / name
        if self.server.nonsense is not None:
            self.wfile.write(self.server.nonsense)
            self.close_connection = True
        elif (status := self.server.statuses.pop(0) if self.server.statuses else 200) != 200:
            self._refuse(status)
        elif self.server.redirect is not None:
            self._refuse(302, Location=self.server.redirect)
        elif self.server.password is not None and self.headers["Authorization"] != _basic(self.server.password):
            self._refuse(401, **{"WWW-Authenticate": 'Basic realm="films"'})
        elif name in self.server.elsewhere:
            self._refuse(302, Location=self.server.elsewhere[name])
        elif not path.is_file():
            self._refuse(404)
        else:
            self._send(path.read_bytes())

    def _refuse(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, content: bytes) -> None:
        wanted = re.match(r"bytes=(\d+)-", self.headers["Range"] or "")
        first = int(wanted[1]) if wanted and self.server.ranges else 0
        if first:
            first += self.server.shift
        body = content[first:]
        if wanted and self.server.ranges:
            if not body:
                self._refuse(416, **{"Content-Range": f"bytes */{len(content)}"})
                return
            body = body[: self.server.largest]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if self.server.versions:
            self.send_header("ETag", f'"{zlib.crc32(content)}"')
        self._end_headers(body)
        self._write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if self.server.framing == "chunks" else body)

    def _end_headers(self, body: bytes) -> None:
        """Say how the body ends."""
        if self.server.framing == "length":
            self.send_header("Content-Length", str(len(body)))
        elif self.server.framing == "chunks":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.close_connection = True
        self.end_headers()

    def _write(self, body: bytes) -> None:
        server = self.server
        if server.drops and len(body) > server.most:
            server.drops -= 1
            body = body[: server.most]
            self.close_connection = True
        try:
            if server.silence:
                self.wfile.write(body[: server.most])
                body = body[server.most :]
                time.sleep(server.silence)
            self.wfile.write(body)
        except OSError:  # the client has seen enough
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


def _basic(password: str) -> str:
    return f"Basic {base64.b64encode(password.encode()).decode()}"


@contextmanager
def serving(folder: Path, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Serve a folder at `server.url` in a thread."""
    with Server(folder, context) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
