"""Sources that aren't files of this machine: URLs, and whatever a function opens."""

import io
import os
import pickle
import shutil
import ssl
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import fsspec  # type: ignore[import-untyped]
import pytest
from tests.video.conftest import REPEATER, three_scenes
from tests.video.webserver import Server, serving

from zsm.errors import ArgumentError, StoppedError, VideoError
from zsm.runtime.video import Encoding, find_jobs, open_source, read_frames, restore, web

Ffmpeg = Callable[..., bytes]
OPTIONS: dict[str, Any] = {"encoding": Encoding(preset="ultrafast", threads=1), "segment": 10}


@pytest.fixture(scope="module")
def folder(ffmpeg: Ffmpeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same film, with sound, in Matroska, and in MP4 with its index at the end and at the beginning."""
    folder = tmp_path_factory.mktemp("films")
    three_scenes(ffmpeg, folder / "film.mkv", "128x96", 20, "-g", "10", "-bf", "3", "-qp", "0")
    ffmpeg("-i", folder / "film.mkv", "-c", "copy", folder / "end.mp4")
    ffmpeg("-i", folder / "film.mkv", "-c", "copy", "-movflags", "faststart", folder / "start.mp4")
    return folder


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serving(folder) as server:
        yield server


@pytest.fixture(scope="module")
def whole(ffmpeg: Ffmpeg, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, str], bool]:
    """Whether a file has the pictures and sound that are made of a film's path."""
    made = tmp_path_factory.mktemp("whole")

    def framemd5(path: Path) -> bytes:
        return ffmpeg("-i", path, "-fps_mode", "passthrough", "-f", "framemd5", "-")

    def is_same(found: Path, name: str) -> bool:
        expected = made / f"{name}.mkv"
        if not expected.exists():
            restore(folder / name, expected, REPEATER, **OPTIONS)
        return framemd5(found) == framemd5(expected)

    return is_same


FILMS = ("film.mkv", "end.mp4", "start.mp4")


@pytest.mark.parametrize("name", FILMS)
def test_a_url_gives_what_the_file_gives(
    whole: Callable[[Path, str], bool], server: Server, tmp_path: Path, name: str
) -> None:
    restore(f"{server.url}/{name}", tmp_path / "out.mkv", REPEATER, **OPTIONS)
    assert whole(tmp_path / "out.mkv", name)


@pytest.mark.parametrize("name", FILMS)
def test_a_function_gives_what_the_file_gives(
    whole: Callable[[Path, str], bool], folder: Path, tmp_path: Path, name: str
) -> None:
    opened: list[BinaryIO] = []

    def open_film() -> BinaryIO:
        opened.append((folder / name).open("rb"))
        return opened[-1]

    restore(open_film, tmp_path / "out.mkv", REPEATER, **OPTIONS)
    assert whole(tmp_path / "out.mkv", name)
    assert opened
    assert all(file.closed for file in opened)


def test_a_film_in_an_object_store(whole: Callable[[Path, str], bool], folder: Path, tmp_path: Path) -> None:
    film = fsspec.open(f"file://{folder / 'film.mkv'}")  # as it would be s3://BUCKET/film.mkv
    restore(pickle.loads(pickle.dumps(film.open)), tmp_path / "out.mkv", REPEATER, **OPTIONS)
    assert whole(tmp_path / "out.mkv", "film.mkv")


@pytest.mark.parametrize("name", ["film.mkv", "end.mp4"])
def test_a_broken_connection_is_made_again(
    whole: Callable[[Path, str], bool], server: Server, tmp_path: Path, name: str
) -> None:
    server.drops, server.most = 6, 20_000
    restore(f"{server.url}/{name}", tmp_path / "out.mkv", REPEATER, **OPTIONS)
    assert server.drops == 0
    assert whole(tmp_path / "out.mkv", name)


def test_a_lost_connection_ends_the_run_which_can_be_resumed(
    whole: Callable[[Path, str], bool], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of the film isn't taken for the whole. The password and the query may have changed."""
    monkeypatch.setattr(web, "PATIENCE", 0.5)
    target, begun = tmp_path / "out.mkv", []
    with serving(folder) as server:
        server.drops, server.most = 10**6, 20_000

        def take_away(progress: Any) -> None:
            begun.append(progress.frame)
            server.folder = tmp_path

        url = f"{server.url}/film.mkv?signature=1"
        options = OPTIONS | {"resume": True}
        with pytest.raises(VideoError, match=r"reading http://\S+/film\.mkv failed: .*continue with --resume"):
            restore(url, target, REPEATER, listener=take_away, **options)
        assert 0 < len(begun) < 119
        server.drops, server.folder = 0, folder
        url = f"http://user:s3cret@127.0.0.1:{server.server_port}/film.mkv?signature=2"
        assert restore(url, target, REPEATER, **options).resumed_at >= 10
    assert whole(target, "film.mkv")


def test_another_film_under_the_same_url_is_not_resumed(server: Server, folder: Path, tmp_path: Path) -> None:
    run = partial(restore, f"{server.url}/x.mkv", tmp_path / "out.mkv", REPEATER, **OPTIONS, resume=True)
    stop = threading.Event()
    server.folder = tmp_path
    shutil.copy(folder / "film.mkv", tmp_path / "x.mkv")
    with pytest.raises(StoppedError):
        run(stop=stop, listener=lambda progress: stop.set() if progress.frame > 15 else None)
    shutil.copy(folder / "end.mp4", tmp_path / "x.mkv")
    with pytest.raises(VideoError, match="another job, with different input size"):
        run()


@pytest.mark.parametrize("name", ["film.mkv", "start.mp4"])
def test_a_server_that_sends_only_whole_files(
    whole: Callable[[Path, str], bool], server: Server, tmp_path: Path, name: str
) -> None:
    """Nothing can be sought, but coming back works, from the beginning."""
    server.ranges = False
    url = f"{server.url}/{name}"
    restore(url, tmp_path / "out.mkv", REPEATER, **OPTIONS)
    assert whole(tmp_path / "out.mkv", name)
    with closing(open_source(url)) as source:
        seen = [(frame.stamp, frame.digest()) for frame in source.frames()]
        assert [(frame.stamp, frame.digest()) for frame in source.frames()] == seen


def test_a_film_that_only_parts_can_be_read_of(server: Server) -> None:
    server.ranges = False
    with pytest.raises(
        VideoError, match=r"no frame of http://\S+/end\.mp4 could be decoded: .*; if the server sends whole files"
    ):
        open_source(f"{server.url}/end.mp4")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{}/absent.mkv", r"can't open http://127\S+/absent\.mkv: the server answers 404 Not Found"),
        (
            "http://user:s3cret@127.0.0.1:1/a.mkv?key=s3cret",
            r"can't open http://127\.0\.0\.1:1/a\.mkv: Connection refused",
        ),
        (
            "http://user:s3cret@absent.invalid/a.mkv",
            r"can't open http://absent\.invalid/a\.mkv: \w+",
        ),
        ("s3://user:s3cret@bucket/a.mkv", r"can't read s3://bucket/a\.mkv: of URLs only http and https"),
        ("file:///etc/passwd", r"can't read file:///etc/passwd: of URLs only http and https"),
    ],
)
def test_errors_say_what_is_wrong_and_no_secret(server: Server, url: str, message: str) -> None:
    with pytest.raises((VideoError, ArgumentError), match=message) as caught:
        open_source(url.format(server.url))
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_password_opens_a_film_and_is_written_nowhere(server: Server, bicubic_bundle: Path, tmp_path: Path) -> None:
    """Neither to the output, the journal or the cache, nor to what is printed."""
    server.password = "user:s3cret"
    with pytest.raises(VideoError, match="401 Unauthorized"):
        open_source(f"{server.url}/film.mkv")
    url = f"http://user:s3cret@127.0.0.1:{server.server_port}/film.mkv?key=s3cret"
    target, stop = tmp_path / "out.mkv", threading.Event()
    arguments = ["run", str(bicubic_bundle), url, str(target), "--frames", "5", "--preset", "ultrafast"]
    command = [sys.executable, "-c", "import sys; from zsm.cli import main; sys.exit(main())", *arguments]
    environment = os.environ | {"ZSM_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, check=True, capture_output=True)
    assert b"s3cret" not in done.stdout + done.stderr
    with pytest.raises(StoppedError):
        restore(url, tmp_path / "part.mkv", REPEATER, segment=10, stop=stop,
                listener=lambda progress: stop.set() if progress.frame > 15 else None)  # fmt: skip
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"out.mkv", "journal.json", "scan.jsonl"} <= {path.name for path in files}
    assert not [path for path in files if b"s3cret" in path.read_bytes()]


def test_certificates_are_checked(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where an http URL leads to an https one."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(folder, context) as server, serving(folder) as plain:
        plain.redirect = f"{server.url}/film.mkv"
        for url in (f"{server.url}/film.mkv", f"{plain.url}/film.mkv"):
            with pytest.raises(VideoError, match=r"can't open http.*certificate verify failed"):
                open_source(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        for url in (f"{server.url}/film.mkv", f"{plain.url}/film.mkv"):
            assert len(list(read_frames(url, frames=3))) == 3


def test_functions_that_fail(folder: Path, tmp_path: Path) -> None:
    def absent() -> BinaryIO:
        return (tmp_path / "absent.mkv").open("rb")

    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 100_000:
                raise ConnectionResetError(104, "Connection reset by peer")
            return super().read(size)

    with pytest.raises(VideoError, match="can't open the input file: No such file or directory"):
        open_source(absent)
    with pytest.raises(VideoError, match="can't open the input file: Invalid data"):
        open_source(lambda: io.BytesIO(b"nothing"))
    content = (folder / "film.mkv").read_bytes()
    with pytest.raises(VideoError, match="reading the input file failed: Connection reset by peer"):
        restore(lambda: Breaking(content), tmp_path / "out.mkv", REPEATER)
    assert list(tmp_path.iterdir()) == []


def test_several_urls_keep_their_names(tmp_path: Path) -> None:
    urls = ["http://user:s3cret@host/a/one.mp4?x=1", "https://host/two.wmv"]
    jobs = find_jobs(urls, tmp_path)
    assert [(str(source), target.name) for source, target in jobs] == [
        ("http://host/a/one.mp4", "one.mp4"),
        ("https://host/two.wmv", "two.mkv"),
    ]
    assert find_jobs(urls[:1], tmp_path / "out.mkv")[0][1] == tmp_path / "out.mkv"


def test_an_excerpt_of_a_url(server: Server, folder: Path, tmp_path: Path) -> None:
    url = f"{server.url}/film.mkv"
    for source, target in ((url, tmp_path / "a.mkv"), (folder / "film.mkv", tmp_path / "b.mkv")):
        restore(source, target, REPEATER, **OPTIONS, start=1, frames=7)
    frames = [list(read_frames(tmp_path / name)) for name in ("a.mkv", "b.mkv")]
    assert len(frames[0]) == 13
    assert all((a == b).all() for a, b in zip(*frames, strict=True))
