"""A web server with the habits, good and bad, of those that films are fetched from."""

import base64
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


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
        self.requests = 0
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        path = self.server.folder / self.path.partition("?")[0].lstrip("/")
        if self.server.redirect is not None:
            self._refuse(302, Location=self.server.redirect)
        elif self.server.password is not None and self.headers["Authorization"] != _basic(self.server.password):
            self._refuse(401, **{"WWW-Authenticate": 'Basic realm="films"'})
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
        if wanted and self.server.ranges:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        body = content[first:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.drops and len(body) > self.server.most:
            self.server.drops -= 1
            body = body[: self.server.most]
            self.close_connection = True
        try:
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
