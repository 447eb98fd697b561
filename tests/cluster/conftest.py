"""A real Ray cluster on this machine: a head that only manages, and two nodes with a CPU each."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.needs import module
from tests.video.conftest import ffmpeg as ffmpeg

# Ray would make a token in the home folder, which tests leave alone.
os.environ["RAY_AUTH_MODE"] = "disabled"

RAY = "import sys; from ray.scripts.scripts import main; sys.exit(main())"
ZSM = "import sys; from zsm.cli import main; sys.exit(main())"
ATTEMPTS = 4


class Nodes:
    """Ray's nodes, each with all of its processes in a session of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sessions: dict[str, subprocess.Popen[bytes]] = {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"

    def head(self) -> None:
        """Start what manages the cluster."""
        port = self.address.rpartition(":")[2]
        self._start(
            "head", "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false",
            f"--temp-dir={self._folder / 'ray'}",
        )  # fmt: skip

    def add(self, number: int, cpus: int = 1, gpus: int = 0) -> None:
        """Add a node at 127.0.0.NUMBER, which offers so many CPUs and GPUs, be they there or not."""
        ip = f"127.0.0.{number}"
        self._start(
            ip, f"--address={self.address}", f"--node-ip-address={ip}", f"--num-cpus={cpus}", f"--num-gpus={gpus}",
            f"--memory={4 * 2**30}",
        )  # fmt: skip

    def kill(self, number: int) -> None:
        """Kill a node with everything on it."""
        self._kill(f"127.0.0.{number}")

    def kill_raylet(self, number: int) -> None:
        """Kill what manages a node's workers, and wait for the rest of the node to notice and to end."""
        node = self._sessions.pop(f"127.0.0.{number}")
        (raylet,) = self._processes(node.pid, b"raylet")
        os.kill(raylet, signal.SIGKILL)
        node.wait()

    @contextmanager
    def added(self, number: int, cpus: int, gpus: int = 0) -> Iterator[None]:
        """Add a node, and kill it afterwards."""
        self.add(number, cpus, gpus)
        try:
            yield
        finally:
            self.kill(number)

    @contextmanager
    def without(self, number: int) -> Iterator[None]:
        """Kill a node, and add it again afterwards."""
        self.kill(number)
        try:
            yield
        finally:
            self.add(number)

    def close(self) -> None:
        for name in list(self._sessions):
            self._kill(name)

    def workers(self) -> list[int]:
        """The processes that make a segment now."""
        return [pid for node in self._sessions.values() for pid in self._processes(node.pid, b"ray::_make")]

    def _processes(self, session: int, name: bytes) -> list[int]:
        """A session's processes whose program has a name that begins with `name`."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                program = path.joinpath("cmdline").read_bytes().partition(b"\0")[0].rpartition(b"/")[2]
                if os.getsid(int(path.name)) == session and program.startswith(name):
                    found.append(int(path.name))
        return found

    def _start(self, name: str, *arguments: str) -> None:
        """Start a node, and wait until it is up. Ray gives up after 30 s, which a busy machine may exceed."""
        log = self._folder / f"{name}.log"
        command = [sys.executable, "-c", RAY, "start", "--block", "--disable-usage-stats",
                   f"--object-store-memory={100 * 2**20}", *arguments]  # fmt: skip
        for _ in range(ATTEMPTS):
            with log.open("wb") as file:
                self._sessions[name] = subprocess.Popen(
                    command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
                )
            while self._sessions[name].poll() is None:
                if b"Ray runtime started" in log.read_bytes():
                    return
                time.sleep(0.1)
            self._kill(name)
        raise AssertionError(log.read_text())

    def _kill(self, name: str) -> None:
        process = self._sessions.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    module("ray", "ray", "pip install 'zsm[cluster]'")
    with tempfile.TemporaryDirectory(prefix="zsm-", ignore_cleanup_errors=True) as folder:  # sockets have short names
        cluster = Nodes(Path(folder))
        try:
            cluster.head()
            cluster.add(2)
            cluster.add(3)
            yield cluster
        finally:
            cluster.close()


@pytest.fixture(scope="session")
def command(nodes: Nodes) -> Callable[..., list[str]]:
    """The command line of `zsm run` on these nodes, or in one process that has as many threads as a worker."""

    def run(*arguments: str | Path, ray: bool = True) -> list[str]:
        where = ["--ray", nodes.address] if ray else ["--threads", "1"]
        return [sys.executable, "-c", ZSM, "run", *map(str, arguments), *where, "--json"]

    return run
