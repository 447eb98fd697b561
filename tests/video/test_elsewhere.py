"""Sources that aren't files of this machine: URLs, and whatever a function opens."""

import gc
import io
import os
import pickle
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
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
from zsm.runtime.video import Encoding, Options, find_jobs, is_finished, open_source, read_frames, restore, web
from zsm.runtime.video.source import Entry, Seen

Ffmpeg = Callable[..., bytes]
OPTIONS: dict[str, Any] = {"encoding": Encoding(preset="ultrafast", threads=1), "segment": 10}


@pytest.fixture(scope="module")
def folder(ffmpeg: Ffmpeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same film, with sound, in Matroska, and in MP4 with its index at the end and at the beginning."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "empty.mkv").touch()
    (folder / "nothing.mkv").write_text("nothing")
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


@pytest.mark.parametrize("name", FILMS)
def test_a_server_that_sends_little_at_a_time(
    whole: Callable[[Path, str], bool], server: Server, tmp_path: Path, name: str
) -> None:
    server.largest = 20_000
    restore(f"{server.url}/{name}", tmp_path / "out.mkv", REPEATER, **OPTIONS)
    assert whole(tmp_path / "out.mkv", name)


def test_a_server_that_sends_wrong_parts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PATIENCE", 0)
    server.shift, server.largest = 100, 20_000
    with pytest.raises(VideoError, match=r"the server sends another part of the file than was requested"):
        list(read_frames(f"{server.url}/film.mkv"))


def test_a_whole_file_must_say_where_it_ends(
    whole: Callable[[Path, str], bool], server: Server, tmp_path: Path
) -> None:
    server.ranges, url = False, f"{server.url}/film.mkv"
    server.framing = "chunks"
    restore(url, tmp_path / "out.mkv", REPEATER, **OPTIONS)
    assert whole(tmp_path / "out.mkv", "film.mkv")
    server.drops, server.most = 10**6, 100_000
    with pytest.raises(VideoError, match="the connection was lost"):
        list(read_frames(url))
    server.framing = "nothing"
    with pytest.raises(VideoError, match="the server doesn't say how long the file is; download it first"):
        list(read_frames(url))


def test_busy_servers_and_name_servers_are_asked_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "LONGEST_WAIT", 0.01)
    server.drops, server.most, server.statuses = 1, 20_000, [200, 503, 429, 502]
    assert len(list(read_frames(f"{server.url}/film.mkv"))) == 60
    look_up, calls = socket.getaddrinfo, []

    def look_up_sometimes(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) in (2, 3):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return look_up(*arguments, **named)

    server.drops = 1
    monkeypatch.setattr(socket, "getaddrinfo", look_up_sometimes)
    assert len(list(read_frames(f"{server.url}/film.mkv"))) == 60
    assert len(calls) == 4


def test_reconnecting_ends_at_once_if_refused_and_soon_if_not_answered(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.drops, server.most, server.statuses = 1, 20_000, [200, 403]
    with pytest.raises(VideoError, match="the server answers 403 Forbidden"):
        list(read_frames(f"{server.url}/film.mkv"))
    assert server.requests == 2
    monkeypatch.setattr(web, "TIMEOUT", 0.2)
    monkeypatch.setattr(web, "PATIENCE", 1)
    server.silence = 3
    begin = time.monotonic()
    with pytest.raises(VideoError, match="timed out"):
        list(read_frames(f"{server.url}/end.mp4"))
    assert time.monotonic() - begin < 10


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


@pytest.mark.parametrize("ranges", [True, False])
def test_another_film_under_the_same_url_is_not_resumed(
    server: Server, folder: Path, tmp_path: Path, ranges: bool
) -> None:
    server.ranges = server.versions = ranges
    run = partial(restore, f"{server.url}/x.mkv", tmp_path / "out.mkv", REPEATER, **OPTIONS, resume=True)
    stop = threading.Event()
    server.folder = tmp_path
    shutil.copy(folder / "film.mkv", tmp_path / "x.mkv")
    with pytest.raises(StoppedError):
        run(stop=stop, listener=lambda progress: stop.set() if progress.frame > 15 else None)
    shutil.copy(folder / "start.mp4", tmp_path / "x.mkv")
    with pytest.raises(VideoError, match=r"another job, with different (input ETag, )?input size"):
        run()


def test_only_the_same_version_is_finished(server: Server, folder: Path, tmp_path: Path) -> None:
    """What can't be told from another one of its length never is."""
    film, target = tmp_path / "x.mkv", tmp_path / "out.mkv"
    shutil.copy(folder / "film.mkv", film)
    server.folder = tmp_path
    options = Options(encoding=Encoding(preset="ultrafast", threads=1), segment=10)

    def finished_again(source: Any) -> bool:
        restore(source, target, REPEATER, **OPTIONS, overwrite=True)
        return finished(source)

    def finished(source: Any) -> bool:
        with closing(open_source(source)) as opened:
            return is_finished(opened, target, REPEATER, options)

    url = f"{server.url}/x.mkv"
    assert finished_again(url)
    film.write_bytes(film.read_bytes()[:-1] + b"!")
    assert not finished(url)
    server.versions = False
    assert not finished_again(url)
    assert not finished_again(partial(film.open, "rb"))


def test_a_film_that_is_replaced_during_the_run(server: Server, folder: Path, tmp_path: Path) -> None:
    """One film's pictures don't get another one's sound."""
    shutil.copy(folder / "start.mp4", tmp_path / "film.mkv")

    def replace(progress: Any) -> None:
        server.folder = tmp_path

    with pytest.raises(VideoError, match=r"can't open http.*the file on the server has changed.*--resume"):
        restore(f"{server.url}/film.mkv", tmp_path / "out.mkv", REPEATER, listener=replace, **OPTIONS)


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


def test_a_server_without_ranges_needs_an_index_at_the_start(server: Server) -> None:
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
        ("{}/empty.mkv", r"can't open http://127\S+/empty\.mkv: it is empty"),
        ("http://user:s3cret/?@host/a.mkv", "invalid URL: host and port can't be told"),
        ("http://user:?s3cret@host/a.mkv", "invalid URL: host and port can't be told"),
        ("http://user:x@s3cret/x@host/a.mkv", "invalid URL: host and port can't be told"),
        ("http://user:12/s3cret@host/a.mkv", "invalid URL: host and port can't be told"),
        ("http://user:12?s3cret@host/a.mkv", "invalid URL: host and port can't be told"),
        ("http://user:12#s3cret@host/a.mkv", "invalid URL: host and port can't be told"),
        ("s3://user:s3cret/x@bucket/a.mkv", "invalid URL: host and port can't be told"),
        ("http://[s3cret/a.mkv", "invalid URL: host and port can't be told"),
        ("http://host..s3cret/a.mkv", "invalid URL: host and port can't be told"),
        ("s3://user:s3cret@bucket/a.mkv", r"can't read s3://bucket/a\.mkv: of URLs only http and https"),
        ("file:///etc/passwd", r"can't read file:///etc/passwd: of URLs only http and https"),
    ],
)
def test_errors_say_what_is_wrong_and_no_secret(server: Server, url: str, message: str) -> None:
    with pytest.raises((VideoError, ArgumentError), match=message) as caught:
        open_source(url.format(server.url))
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_servers_that_answer_strangely(server: Server) -> None:
    """None of it is repeated."""
    url = f"{server.url}/film.mkv"
    for target in ("ftp://user:s3cret@host/", "http://[s3cret/", "http://127.0.0.1:s3cret/", f"{url}?s3cret"):
        server.redirect = target
        with pytest.raises(VideoError, match=r"can't open http.*(leads nowhere|isn't valid HTTP)") as caught:
            open_source(url)
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))
        assert "\n" not in str(caught.value)
    for nonsense in (b"s3cret\r\n\r\n", b"HTTP/1.1 s3cret\r\n\r\n", b"HTTP/1.1 206 s3cret\r\n\r\n", b""):
        server.nonsense = nonsense
        with pytest.raises(VideoError, match=r"can't open http.*: (the server|Remote end closed)") as caught:
            open_source(url)
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_redirect_keeps_the_password_on_the_same_server(server: Server, folder: Path) -> None:
    with serving(folder) as other:
        server.password = other.password = "user:s3cret"
        server.elsewhere = {"near.mkv": "/film.mkv", "far.mkv": f"{other.url}/film.mkv"}
        url = f"http://user:s3cret@127.0.0.1:{server.server_port}"
        assert len(list(read_frames(f"{url}/near.mkv", frames=3))) == 3
        with pytest.raises(VideoError, match="401 Unauthorized"):
            open_source(f"{url}/far.mkv")


def test_names_of_any_alphabet(server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    shutil.copy(folder / "film.mkv", tmp_path / "für alle.mkv")
    server.folder = tmp_path
    for name in ("für alle.mkv", "f%C3%BCr%20alle.mkv"):
        assert len(list(read_frames(f"http://bücher.example/{name}", frames=3))) == 3
    assert set(server.asked) == {"xn--bcher-kva.example"}


def test_a_password_opens_a_film_and_is_written_nowhere(server: Server, tmp_path: Path) -> None:
    """Neither to the output, the journal or the cache, nor to what is printed."""
    server.password = "user:s3cret"
    with pytest.raises(VideoError, match="401 Unauthorized"):
        open_source(f"{server.url}/film.mkv")
    url = f"http://user:s3cret@127.0.0.1:{server.server_port}/film.mkv?key=s3cret"
    target, stop = tmp_path / "out.mkv", threading.Event()
    run = [sys.executable, "-c", "import sys; from zsm.cli import main; sys.exit(main())", "run", "compact", url]
    environment = os.environ | {"ZSM_CACHE": str(tmp_path / "cache")}
    command = [*run, str(target), "--frames", "3", "--preset", "ultrafast"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True)
    assert b"s3cret" not in done.stdout + done.stderr
    with (tmp_path / "pipe.y4m").open("wb") as pipe:
        process = subprocess.Popen([*run, "-", "--json"], env=environment, stdout=pipe, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.readline() + process.stderr.readline()
    process.send_signal(signal.SIGINT)
    said += process.communicate()[1]
    assert process.returncode == 130
    assert b"/film.mkv" in said
    assert b"s3cret" not in said
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


@pytest.mark.parametrize("number", range(4))
def test_a_connection_lost_at_any_opening(folder: Path, tmp_path: Path, number: int) -> None:
    """The film is opened for its pictures, then for its sound, which isn't dropped."""
    content = (folder / "film.mkv").read_bytes()
    opened: list[BinaryIO] = []

    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if opened.index(self) == number and self.tell() > 30_000:
                raise ConnectionResetError(104, "Connection reset by peer")
            return super().read(size)

    def open_film() -> BinaryIO:
        opened.append(Breaking(content))
        return opened[-1]

    with pytest.raises(VideoError, match="reading the input file failed: Connection reset by peer"):
        restore(open_film, tmp_path / "out.mkv", REPEATER, start=2.2, **OPTIONS)


@pytest.mark.parametrize("number", range(4))
def test_ctrl_c_at_any_opening(folder: Path, tmp_path: Path, number: int) -> None:
    """While FFmpeg waits for data: PyAV swallows it then, and FFmpeg asks again."""
    content = (folder / "film.mkv").read_bytes()
    opened: list[BinaryIO] = []

    class Interrupted(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if opened.index(self) == number and 30_000 < self.tell() < len(content):
                self.seek(0, io.SEEK_END)
                raise KeyboardInterrupt
            return super().read(size)

    def open_film() -> BinaryIO:
        opened.append(Interrupted(content))
        return opened[-1]

    with pytest.raises(KeyboardInterrupt):
        restore(open_film, tmp_path / "out.mkv", REPEATER, start=2.2, **OPTIONS)


@pytest.mark.parametrize("name", ["film.mkv", "end.mp4"])
def test_coming_back_over_a_dead_connection(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    opened: list[Any] = []

    class Mortal(io.BytesIO):
        dead = False

        def read(self, size: int | None = -1, /) -> bytes:
            self.check()
            return super().read(size)

        def seek(self, offset: int, whence: int = 0, /) -> int:
            self.check()
            return super().seek(offset, whence)

        def check(self) -> None:
            if self.dead:
                raise TimeoutError("timed out")

    def open_film() -> BinaryIO:
        opened.append(made := Mortal(content))
        return made

    with closing(open_source(open_film)) as source:
        seen = [
            Seen(time=f.time, stamp=f.stamp, duration=f.duration, key=f.key, digest=f.digest(), scene=False)
            for f in source.frames()
        ]
        keys = [frame.stamp for frame in seen[20::-1] if frame.key and frame.stamp is not None]
        for _ in range(2):
            opened[-1].dead = True
            found = source.enter(Entry(first=20, frames=seen[20:], keys=keys))
            assert [frame.stamp for frame in found] == [frame.stamp for frame in seen[20:]]


def test_files_are_closed_without_the_garbage_collector(folder: Path) -> None:
    opened: list[BinaryIO] = []

    def open_film(name: str) -> BinaryIO:
        opened.append((folder / name).open("rb"))
        return opened[-1]

    gc.disable()
    try:
        source = open_source(partial(open_film, "film.mkv"))
        for _ in range(2):
            next(source.frames())
            assert [file.closed for file in opened[:-1]] == [True] * (len(opened) - 1)
        source.close()
        with pytest.raises(VideoError):
            open_source(partial(open_film, "nothing.mkv"))
        assert len(opened) == 3
        assert all(file.closed for file in opened)
    finally:
        gc.enable()


HANGING = """
import io, sys, threading
from pathlib import Path
from zsm.runtime.video import open_source
from zsm.runtime.video.source import Entry, Seen

hanging, hangs, data = False, threading.Event(), threading.Event()
opened = []

def wait():
    if hanging:
        hangs.set()
        data.wait()

class Film(io.BytesIO):
    def read(self, size=-1):
        wait()
        return super().read(size)

    def seek(self, offset, whence=0):
        wait()
        return super().seek(offset, whence)

def open_film():
    wait()
    opened.append(Film(content))
    return opened[-1]

content = Path(sys.argv[1]).read_bytes()
source = open_source(open_film)
seen = [Seen(f.time, f.stamp, f.duration, f.key, f.digest(), False) for f in source.frames()]
keys = [frame.stamp for frame in seen[25::-1] if frame.key]
frames = source.frames() if sys.argv[2] == "again" else source.enter(Entry(first=25, frames=seen[25:], keys=keys))
found = []
reader = threading.Thread(target=lambda: found.extend(frames))
hanging = True
reader.start()
hangs.wait()
source.close()
hanging = False
data.set()
reader.join()
print(len(found), all(film.closed for film in opened))
"""


@pytest.mark.parametrize(("how", "frames"), [("again", 60), ("entering", 35)])
def test_a_source_may_be_closed_while_its_reader_hangs(folder: Path, how: str, frames: int) -> None:
    """In whatever the reader does: opening the file again, or seeking. The reader closes it in the end."""
    command = [sys.executable, "-c", HANGING, str(folder / "film.mkv"), how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{frames} True\n", "")


def test_a_closed_source_is_not_read_to_a_false_end(folder: Path) -> None:
    source = open_source(folder / "film.mkv")
    frames = source.frames()
    next(frames)
    source.close()
    with pytest.raises(VideoError, match=r"film\.mkv was closed before all of it was read"):
        next(frames)


@pytest.mark.parametrize("error", [ValueError("odd"), RuntimeError("odd"), KeyError("odd"), EOFError("odd")])
def test_errors_of_any_kind_from_a_function(folder: Path, tmp_path: Path, error: Exception) -> None:
    content = (folder / "end.mp4").read_bytes()

    class Odd(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if 50_000 < self.tell() < 100_000:
                raise error
            return super().read(size)

    class Unseekable(io.BytesIO):
        def seek(self, offset: int, whence: int = 0, /) -> int:
            raise error

    def refuse() -> BinaryIO:
        raise error

    for opener in (refuse, partial(Unseekable, content)):
        with pytest.raises(VideoError, match=f"can't open the input file: {type(error).__name__}: .*odd"):
            open_source(opener)
    with pytest.raises(VideoError, match=f"reading the input file failed: {type(error).__name__}: .*odd"):
        restore(partial(Odd, content), tmp_path / "out.mkv", REPEATER, **OPTIONS)
    for strange in (lambda: None, lambda: io.StringIO("text")):
        with pytest.raises(VideoError, match="can't open the input file: "):
            open_source(strange)  # type: ignore[arg-type]


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
    with pytest.raises(VideoError, match="can't open the input file: it is empty"):
        open_source(io.BytesIO)
    content = (folder / "film.mkv").read_bytes()
    with pytest.raises(VideoError, match="reading the input file failed: Connection reset by peer"):
        restore(lambda: Breaking(content), tmp_path / "out.mkv", REPEATER)
    assert list(tmp_path.iterdir()) == []


def test_several_urls_keep_their_names(tmp_path: Path) -> None:
    urls = ["http://user:s3cret@host/a/one.mp4?x=1", "https://host/two.wmv", "http://host/x%2FMy%20Film.mov"]
    jobs = find_jobs(urls, tmp_path)
    assert [(str(source), target.name) for source, target in jobs] == [
        ("http://host/a/one.mp4", "one.mp4"),
        ("https://host/two.wmv", "two.mkv"),
        ("http://host/x%2FMy%20Film.mov", "My Film.mov"),
    ]
    assert find_jobs(urls[:1], tmp_path / "out.mkv")[0][1] == tmp_path / "out.mkv"


def test_an_excerpt_of_a_url(server: Server, folder: Path, tmp_path: Path) -> None:
    url = f"{server.url}/film.mkv"
    for source, target in ((url, tmp_path / "a.mkv"), (folder / "film.mkv", tmp_path / "b.mkv")):
        restore(source, target, REPEATER, **OPTIONS, start=1, frames=7)
    frames = [list(read_frames(tmp_path / name)) for name in ("a.mkv", "b.mkv")]
    assert len(frames[0]) == 13
    assert all((a == b).all() for a, b in zip(*frames, strict=True))
