"""Fetching the released checkpoint, from a server on this machine."""

import hashlib
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from zsm.errors import CacheError, DataError
from zsm.export import released

CONTENT = b"weights " * 50_000


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


@pytest.fixture
def blob(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The ID that git itself gives the content."""
    path = tmp_path_factory.mktemp("blob") / "content"
    path.write_bytes(CONTENT)
    return subprocess.run(["git", "hash-object", path], capture_output=True, text=True, check=True).stdout.strip()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_fetched_once_and_kept(server: str, cache: Path, blob: str) -> None:
    seen: list[tuple[int, int | None]] = []
    path = released.fetch(f"{server}/whole", blob, lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    requests = len(Server.requests)
    assert released.fetch(f"{server}/whole", blob) == path
    assert len(Server.requests) == requests
    assert files(cache) == [path]


def test_a_damaged_file_in_the_cache_is_fetched_again(server: str, cache: Path, blob: str) -> None:
    path = released.fetch(f"{server}/whole", blob)
    path.write_bytes(b"damaged")
    assert released.fetch(f"{server}/whole", blob).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("truncated", "broke off after 1000 of 400000|can't be fetched"),
        ("changed", "not the released checkpoint"),
        ("missing", "404"),
    ],
)
def test_a_failed_download_leaves_nothing(where: str, message: str, server: str, cache: Path, blob: str) -> None:
    with pytest.raises(DataError, match=message):
        released.fetch(f"{server}/{where}", blob)
    assert files(cache) == []


def test_an_unreachable_server_is_reported(cache: Path) -> None:
    with pytest.raises(DataError, match="can't be fetched"):
        released.fetch("http://127.0.0.1:9/nothing")


def test_git_blob_ids() -> None:
    assert released.git_blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert released.git_blob_id(b"x") == hashlib.sha1(b"blob 1\0x").hexdigest()


def test_an_unusable_cache_is_reported(server: str, cache: Path, blob: str) -> None:
    (cache / "weights").write_text("a file, where a folder should be")
    with pytest.raises(CacheError, match="set ZSM_CACHE to another folder"):
        released.fetch(f"{server}/whole", blob)
