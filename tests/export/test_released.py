"""Fetching the released checkpoint, from a server on this machine."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from zsm.errors import CacheError, DataError
from zsm.export import released

CONTENT = b"weights " * 50_000
BLOB = "e1cc6c4f556d4cc4ad412f67c92a3fe2e440450a"
"""The ID that `git hash-object` gives the content."""


class Server(BaseHTTPRequestHandler):
    """Serves the checkpoint whole, truncated, changed, or not at all."""

    requests: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        bodies = {"/whole": CONTENT, "/truncated": CONTENT[:1000], "/changed": CONTENT[::-1]}
        self.wfile.write(bodies[self.path])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZSM_CACHE", str(tmp_path))
    return tmp_path


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_fetched_once_and_kept(server: str, cache: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = released.fetch(f"{server}/whole", BLOB, lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    requests = len(Server.requests)
    assert released.fetch(f"{server}/whole", BLOB) == path
    assert len(Server.requests) == requests
    assert files(cache) == [path]


def test_a_damaged_file_in_the_cache_is_fetched_again(server: str, cache: Path) -> None:
    path = released.fetch(f"{server}/whole", BLOB)
    path.write_bytes(b"damaged")
    assert released.fetch(f"{server}/whole", BLOB).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("truncated", "broke off after 1000 of 400000|can't be fetched"),
        ("changed", "not the released checkpoint"),
        ("missing", "404"),
    ],
)
def test_a_failed_download_leaves_nothing(where: str, message: str, server: str, cache: Path) -> None:
    with pytest.raises(DataError, match=message):
        released.fetch(f"{server}/{where}", BLOB)
    assert files(cache) == []


def test_an_unreachable_server_is_reported(cache: Path) -> None:
    with pytest.raises(DataError, match="can't be fetched"):
        released.fetch("http://127.0.0.1:9/nothing")


def test_git_blob_ids() -> None:
    assert released.git_blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert released.git_blob_id(b"x") == hashlib.sha1(b"blob 1\0x").hexdigest()


def test_an_unusable_cache_is_reported(server: str, cache: Path) -> None:
    (cache / "weights").write_text("a file, where a folder should be")
    with pytest.raises(CacheError, match="set ZSM_CACHE to another folder"):
        released.fetch(f"{server}/whole", BLOB)
