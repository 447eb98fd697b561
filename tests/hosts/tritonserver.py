"""A real Triton server on this machine's CPU, from the wheel `nvidia-pytriton`, which carries one."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.needs import missing


@dataclass(frozen=True)
class Server:
    """Where a running server listens."""

    http: str
    grpc: str
    log: Path


@contextmanager
def running(repository: Path, folder: Path) -> Iterator[Server]:
    """Serve a model repository until the context ends; `folder` is for the server's files."""
    wheel = _wheel()
    ports = _free_ports(2)
    http, grpc = (f"127.0.0.1:{port}" for port in ports)
    server = Server(http, grpc, folder / "server.log")
    command = [
        str(wheel / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={_backends(wheel, folder)}",
        *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc")),
        *(f"--{kind}-port={port}" for kind, port in zip(("http", "grpc"), ports, strict=True)),
        "--allow-metrics=false",
        "--exit-timeout-secs=5",
        "--backend-config=python,stub-timeout-seconds=300",  # for a busy machine
    ]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # whose Python runs the model
        "LD_LIBRARY_PATH": f"{wheel / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}",
    }
    with server.log.open("wb") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            _wait(server, process)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _wheel() -> Path:
    """The folder in which the wheel is installed. It isn't imported, as it needs an old NumPy."""
    found = importlib.util.find_spec("pytriton")
    if found is None or not found.submodule_search_locations:
        missing("triton", "there is no Triton server: make test-hosts")
    return Path(found.submodule_search_locations[0]).parent


def _backends(wheel: Path, folder: Path) -> Path:
    """The Python backend for this version of Python."""
    carried = wheel / "pytriton" / "tritonserver"
    backend = folder / "backends" / "python"
    shutil.copytree(carried / "backends" / "python", backend, ignore=shutil.ignore_patterns("__pycache__"))
    version = ".".join(map(str, sys.version_info[:2]))
    shutil.copy(carried / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    return backend.parent


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait(server: Server, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the server and its models are ready."""
    deadline = time.monotonic() + 300  # seconds; it takes 5 where nothing else runs
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://{server.http}/v2/health/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the server didn't start:\n{server.log.read_text()}")
