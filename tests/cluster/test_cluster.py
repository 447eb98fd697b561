"""Films made on a Ray cluster equal those made in one process, whatever is lost on the way."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from tests.cluster.conftest import Nodes
from tests.needs import module
from tests.video.conftest import three_scenes
from tests.video.webserver import serving

from zsm.cluster.task import Film, check, conditions
from zsm.engine import Bundle
from zsm.engine.backends import measured
from zsm.errors import ClusterError
from zsm.runtime.video import encoders, open_source

Ffmpeg = Callable[..., bytes]
Command = Callable[..., list[str]]
Same = Callable[[Path], bool]

BUNDLE = "compact"
DOCUMENT = Path(__file__).parents[2] / "docs" / "cluster.md"
OPTIONS = ("--segment", "14", "--preset", "ultrafast", "--encoder-threads", "2")


@pytest.fixture(scope="session")
def clip(ffmpeg: Ffmpeg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes of 30 frames, with sound, in groups of pictures that refer to each other."""
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    return three_scenes(ffmpeg, path, "24x16", 30, "-x264-params", "open-gop=1:keyint=15:bframes=3")


@pytest.fixture(scope="session")
def is_whole(
    ffmpeg: Ffmpeg, clip: Path, command: Command, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], bool]:
    """Whether a file has the times, pictures and sound of the film that one process makes."""
    path = tmp_path_factory.mktemp("whole") / "whole.mkv"
    subprocess.run(command(BUNDLE, clip, path, *OPTIONS, ray=False), check=True, capture_output=True)

    def framemd5(path: Path) -> bytes:
        return ffmpeg("-i", path, "-fps_mode", "passthrough", "-f", "framemd5", "-")

    expected = framemd5(path)
    return lambda found: framemd5(found) == expected


def journal(target: Path) -> Any:
    return json.loads((target.parent / f".{target.name}.zsm" / "journal.json").read_text())


def interrupted(arguments: list[str], number: signal.Signals, after: int = 1) -> int:
    """Start a run, and send it a signal once some frames are written; the exit status."""
    with start(arguments) as run:
        if wait_for(run, after):
            run.send_signal(number)
        run.communicate()
        return run.returncode


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(run: subprocess.Popen[str], frames: int) -> bool:
    """Wait until a run has written so many frames; false if it ends before."""
    assert run.stdout is not None
    return any(json.loads(line).get("frame", 0) >= frames for line in run.stdout)


def test_begun_on_a_cluster_and_finished_by_one_process(
    is_whole: Same, clip: Path, command: Command, tmp_path: Path
) -> None:
    """The first Ctrl-C waits for what is being made, and begins no more."""
    target = tmp_path / "out.mkv"
    assert interrupted(command(BUNDLE, clip, target, *OPTIONS), signal.SIGINT) == 130
    made = journal(target)["segments"]
    assert 1 <= len(made) < 13
    assert {segment["made"]["node"] for segment in made.values()} <= {"127.0.0.2", "127.0.0.3"}
    assert {segment["made"]["backend"] for segment in made.values()} == {"onnxruntime"}
    subprocess.run(command(BUNDLE, clip, target, *OPTIONS, "--resume", ray=False), check=True, capture_output=True)
    assert is_whole(target)


def test_begun_by_one_process_and_finished_on_a_cluster(
    is_whole: Same, clip: Path, command: Command, tmp_path: Path
) -> None:
    target = tmp_path / "out.mkv"
    assert interrupted(command(BUNDLE, clip, target, *OPTIONS, ray=False), signal.SIGKILL, 50) == -9
    done = subprocess.run(command(BUNDLE, clip, target, *OPTIONS, "--resume"), check=True, capture_output=True)
    assert json.loads(done.stdout.splitlines()[-1])["frames_out"] == 179
    assert is_whole(target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ray-cpus", "99"], "no node of the cluster has 99 CPU"),
        (["--ray-gpus", "1"], "no node of the cluster has 1 CPU, 1 GPU"),
        (["--ray", "127.0.0.1:1"], "can't connect to the Ray cluster '127.0.0.1:1': Connection refused"),
        (["--ray", "nonsense"], "give auto, local or HOST:PORT"),
    ],
)
def test_what_no_cluster_can_do_is_said_at_once(
    clip: Path, command: Command, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = subprocess.run(
        command(BUNDLE, clip, tmp_path / "out.mkv") + arguments, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nodes_that_would_take_different_backends_are_refused(
    clip: Path, command: Command, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one of three, OpenVINO was measured to be faster."""
    module("openvino", "openvino", "pip install 'zsm[openvino]'")
    with monkeypatch.context() as there:
        there.setenv("ZSM_CACHE", str(tmp_path / "cache"))
        measured.remember(Bundle(BUNDLE), {"onnxruntime": 2.0, "openvino": 1.0})
        nodes.add(7)
    arguments = command(BUNDLE, clip, tmp_path / "out.mkv", *OPTIONS)
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        differ = r"onnxruntime on 127\.0\.0\.[23], openvino on 127\.0\.0\.7"
        assert re.search(rf"nodes would take different backends: {differ}; give the same", done.stderr), done.stderr
        assert not (tmp_path / "out.mkv").exists()
        subprocess.run([*arguments, "--backend", "onnxruntime"], capture_output=True, check=True)
    finally:
        nodes.kill(7)


@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_this_machine_s_cluster_is_found_where_ray_looks(
    clip: Path, command: Command, tmp_path: Path, variable: str
) -> None:
    """Nothing listens at the address that is left there."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_TMPDIR")}
    done = subprocess.run(
        [*command(BUNDLE, clip, tmp_path / "out.mkv"), "--ray", "auto"],
        env=environment | {variable: str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "can't connect to the Ray cluster 'auto': Connection refused" in done.stderr


def test_a_frame_that_a_worker_decodes_differently_is_an_error(clip: Path, command: Command, tmp_path: Path) -> None:
    target = tmp_path / "out.mkv"
    assert interrupted(command(BUNDLE, clip, target, *OPTIONS, ray=False), signal.SIGKILL, 50) == -9
    scan = tmp_path / ".out.mkv.zsm" / "scan.jsonl"
    lines = scan.read_text().splitlines()
    kind, *values = json.loads(lines[-2])
    values[4] ^= 1
    lines[-2] = json.dumps([kind, *values])
    scan.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        command(BUNDLE, clip, target, *OPTIONS, "--resume"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"frame {len(lines) - 2} of {clip} was decoded differently before" in done.stderr
    assert "on node 127.0.0." in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_workers_that_are_killed(
    is_whole: Same, clip: Path, command: Command, nodes: Nodes, tmp_path: Path, seed: int
) -> None:
    """With SIGKILL, at random moments; their segments are made again."""
    random, killed = np.random.default_rng(seed), 0
    with start(command(BUNDLE, clip, tmp_path / "out.mkv", *OPTIONS)) as run:
        while run.poll() is None and killed < 3:
            time.sleep(random.uniform(0.1, 1))
            for process in nodes.workers()[:1]:
                os.kill(process, signal.SIGKILL)
                killed += 1
        _, errors = run.communicate()
    assert run.returncode == 0, errors
    assert killed
    assert is_whole(tmp_path / "out.mkv")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_drivers_that_are_killed(is_whole: Same, clip: Path, command: Command, tmp_path: Path, seed: int) -> None:
    """With SIGKILL, again and again; finished segments stay."""
    random = np.random.default_rng(seed)
    target, finished = tmp_path / "out.mkv", [0]
    while not target.exists():
        with start(command(BUNDLE, clip, target, *OPTIONS, "--resume")) as run:
            if wait_for(run, finished[-1] + int(random.integers(1, 80))):
                run.kill()
        if not target.exists():
            finished.append(sum(segment["frames"] for segment in journal(target)["segments"].values()))
    assert len(finished) > 2
    assert finished == sorted(finished)
    assert is_whole(target)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kill", [Nodes.kill, Nodes.kill_raylet])
def test_a_node_that_is_killed_while_another_joins(
    is_whole: Same,
    clip: Path,
    command: Command,
    nodes: Nodes,
    tmp_path: Path,
    kill: Callable[[Nodes, int], None],
    seed: int,
) -> None:
    """With everything on it, or its raylet alone, whose loss ends the rest."""
    with start(command(BUNDLE, clip, tmp_path / "out.mkv", *OPTIONS)) as run:
        wait_for(run, int(np.random.default_rng(seed).integers(1, 100)))
        kill(nodes, 3)
        nodes.add(4)
        _, errors = run.communicate()
    nodes.kill(4)
    nodes.add(3)
    assert run.returncode == 0, errors
    assert is_whole(tmp_path / "out.mkv")


@pytest.mark.slow
def test_a_resumed_film_may_have_another_number_of_workers(
    is_whole: Same, clip: Path, command: Command, nodes: Nodes, tmp_path: Path
) -> None:
    """One, then two, then one."""
    target = tmp_path / "out.mkv"
    arguments = command(BUNDLE, clip, target, *OPTIONS, "--resume")
    with nodes.without(3):
        assert interrupted(arguments, signal.SIGKILL, 30) == -9
    assert interrupted(arguments, signal.SIGKILL, 90) == -9
    made = journal(target)["segments"].values()
    assert 90 <= sum(segment["frames"] for segment in made) < 179
    assert {segment["made"]["node"] for segment in made} == {"127.0.0.2", "127.0.0.3"}
    with nodes.without(3):
        subprocess.run(arguments, check=True, capture_output=True)
    assert is_whole(target)


def test_workers_fetch_a_film_by_its_url(is_whole: Same, clip: Path, command: Command, tmp_path: Path) -> None:
    """Begun on the cluster, finished in one process."""
    target = tmp_path / "out.mkv"
    with serving(clip.parent) as server:
        url = f"{server.url}/{clip.name}?key=s3cret"
        assert interrupted(command(BUNDLE, url, target, *OPTIONS), signal.SIGINT) == 130
        assert journal(target)["segments"]
        subprocess.run(command(BUNDLE, url, target, *OPTIONS, "--resume", ray=False), check=True, capture_output=True)
    assert is_whole(target)


SCRIPT = """
import sys
from zsm.cluster import Cluster
from zsm.runtime.video import Encoding, Options

options = Options(segment=14, encoding=Encoding(preset="ultrafast", threads=2))
with Cluster("compact", address="local") as cluster:
    print(cluster.restore(sys.argv[1], sys.argv[2], options).frames_out)
"""


@pytest.mark.slow
def test_one_machine_s_own_cluster_from_python(is_whole: Same, clip: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", SCRIPT, str(clip), str(tmp_path / "out.mkv")]
    assert subprocess.run(arguments, check=True, capture_output=True).stdout.splitlines()[-1] == b"179"
    assert is_whole(tmp_path / "out.mkv")


OPENING = """
import sys
import threading
from functools import partial
from pickle import PicklingError
from zsm.cluster import Cluster
from zsm.errors import ArgumentError
from zsm.runtime.video import Encoding, Options

class Stubborn(partial):
    def __reduce__(self):
        raise PicklingError("stubborn")


source, target, address = sys.argv[1:]
options = Options(segment=14, encoding=Encoding(preset="ultrafast", threads=2))
with Cluster("compact", address=address) as cluster:
    lock = threading.Lock()
    try:
        cluster.restore(lambda: lock and open(source, "rb"), target, options)
    except ArgumentError as error:
        print(error)
    try:
        cluster.restore(Stubborn(open, source, "rb"), target, options)
    except ArgumentError as error:
        print(error)
    cluster.restore(partial(open, source, "rb"), target, options)
"""


def test_workers_open_a_film_by_a_function(is_whole: Same, clip: Path, nodes: Nodes, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", OPENING, str(clip), str(tmp_path / "out.mkv"), nodes.address]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    refused = "the function that opens the source can't be sent to workers"
    assert done.stdout.count(refused) == 2
    assert f"{refused} (stubborn); give one" in done.stdout
    assert is_whole(tmp_path / "out.mkv")


CONNECTIONS = """
import os
import sys

import platformdirs
import ray

from zsm.cluster import Cluster
from zsm.errors import CacheError, ClusterError


def attempt(kind, address, **options):
    try:
        Cluster("compact", address=address, **options)
    except kind as error:
        print("said:", error)


def fail(*names, **options):
    raise RuntimeError("no home")


address = sys.argv[1]
ray.init(address=address, log_to_driver=False)
with Cluster("compact", address="auto"), Cluster("compact", address=address):
    print("said:", ray.is_initialized())
print("said:", ray.is_initialized())
for other in ("local", "127.0.0.1:1", "nonsense", sys.argv[2]):
    attempt(ClusterError, other)
ray.shutdown()

cluster = Cluster("compact", address=address)
cluster.close()
print("said:", ray.is_initialized())
ray.init(address=address, log_to_driver=False)
cluster.close()
print("said:", ray.is_initialized())
ray.shutdown()

os.environ.pop("ZSM_CACHE", None)
platformdirs.user_cache_dir = fail
attempt(CacheError, address, gpus=1)
print("said:", ray.is_initialized())
"""


def test_a_connection_is_used_and_closed_by_whoever_made_it(nodes: Nodes) -> None:
    """Not twice, not by another one, and also if what needed it fails."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        elsewhere = f"127.0.0.1:{other.getsockname()[1]}"
        arguments = [sys.executable, "-c", CONNECTIONS, nodes.address, elsewhere]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [line[6:] for line in done.stdout.splitlines() if line.startswith("said: ")]
    assert said[:2] == ["True", "True"]
    for address, message in zip(("local", "127.0.0.1:1", "nonsense", elsewhere), said[2:6], strict=True):
        assert re.match(rf"this process is connected to .*:\d+, and can't use '{address}' as well; give auto", message)
    assert said[6:8] == ["False", "True"]
    assert "set ZSM_CACHE" in said[8]
    assert said[9:] == ["False"]


def test_each_film_is_checked_though_another_one_looked_the_same(clip: Path) -> None:
    """Functions have no names: a worker that could call one may be unable to call the next."""

    def open_clip() -> BinaryIO:
        return clip.open("rb")

    def fail() -> BinaryIO:
        raise OSError("no access")

    with closing(open_source(open_clip)) as source:
        same = conditions(source.info, BUNDLE)
        plan = encoders.uncompressed(source.info, None, Fraction(25), 4, raw=True)
    film = partial(Film, rate=Fraction(25), stream=0, bundle=BUNDLE, backend="auto", runtime=(), plan=plan, same=same)
    check(film(source=open_clip), "10.0.0.7")
    with pytest.raises(ClusterError, match=r"node 10\.0\.0\.7 can't take part: can't open .*no access"):
        check(film(source=fail), "10.0.0.7")


def test_a_node_that_differs_is_refused(clip: Path) -> None:
    with closing(open_source(clip)) as source:
        found = dict(conditions(source.info, BUNDLE))
        plan = encoders.uncompressed(source.info, None, Fraction(25), 4, raw=True)
    film = Film(
        source=clip,
        rate=Fraction(25),
        stream=0,
        bundle=BUNDLE,
        backend="auto",
        runtime=(),
        plan=plan,
        same=tuple((found | {"zsm": "9.9"}).items()),
    )
    with pytest.raises(ClusterError, match=r"node 10\.0\.0\.7 can't take part, because it has zsm .* instead of 9\.9"):
        check(film, "10.0.0.7")
    with pytest.raises(ClusterError, match=r"node 10\.0\.0\.7 can't take part: can't open .*absent\.mkv"):
        check(replace(film, source=clip.with_name("absent.mkv")), "10.0.0.7")


@pytest.mark.slow
@pytest.mark.parametrize("language", ["sh", "python"])
def test_the_documented_command_and_script(
    clip: Path, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    [code] = re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    command = code.splitlines()[-1].replace("BUNDLE", BUNDLE)
    arguments = ["bash", "-c", command] if language == "sh" else [sys.executable, "-c", code]
    shutil.copy(clip, tmp_path / "film.mkv")
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    with nodes.added(5, cpus=4):
        subprocess.run(arguments, check=True, capture_output=True, cwd=tmp_path)
    with closing(open_source(tmp_path / "out.mkv")) as made:
        assert (made.info.size, len(list(made.frames()))) == ((96, 64), 179)
