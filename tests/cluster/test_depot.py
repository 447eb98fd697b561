"""The depot as an actor, with tasks on two nodes; what Runtimes make of it is in tests/engine/test_exchange.py."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tests.cluster.conftest import Nodes

from zsm.runtime.video import images

SCRIPT = """
import os, sys
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from zsm.cluster.cluster import _connect, _here
from zsm.cluster.engines import Depot, ToDepot
from zsm.errors import CacheError

address, folder = sys.argv[1], Path(sys.argv[2])
sizes = {"min": "9x6", "opt": "9x6", "max": "9x6"}
asked = dict(stage="propagate", graph="ab", precision="fp16", sizes=sizes, gpu="Host", capability="9.0", driver="13.0",
             cuda="13.0", tensorrt="11.4", plugin="cd", options={})


def build(depot, content):
    found = ToDepot(depot).settle(asked, None)
    if content is None:
        os._exit(1)
    return ToDepot(depot).settle(asked, (asked, content)) if found is None else found


_connect(address)
nodes = {node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}


def on(number, *arguments):
    there = NodeAffinitySchedulingStrategy(nodes[f"127.0.0.{number}"], soft=False)
    task = ray.remote(num_cpus=1, max_retries=0, scheduling_strategy=there)(build)
    return ray.get(task.remote(*arguments))


depot = _here(ray, Depot, folder / "driver")
try:
    on(2, depot, None)
except ray.exceptions.WorkerCrashedError:
    print("said: lost")
assert on(3, depot, b"3" * 2**20) == (asked, b"3" * 2**20)
assert on(2, depot, b"2" * 2**20) == (asked, b"3" * 2**20)
print("said:", ray.get(depot.news.remote()))
again = _here(ray, Depot, folder / "driver")
assert on(2, again, b"2" * 2**20) == (asked, b"3" * 2**20)
(folder / "file").touch()
try:
    on(2, _here(ray, Depot, folder / "file"), b"2")
except CacheError as error:
    print("said:", error.cause)
"""


def test_all_nodes_get_the_first_build(nodes: Nodes, tmp_path: Path) -> None:
    """Though the first builder dies; and again in the next run, whoever comes first."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, nodes.address, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    # Ray prints, too.
    lost, news, error = [line[6:] for line in done.stdout.splitlines() if line.startswith("said: ")]
    assert lost == "lost"
    what = "builds TensorRT engines for 9x6 on Host, which takes minutes: propagate"
    assert news == str([f"node 127.0.0.2 {what}", f"node 127.0.0.3 {what}"])
    assert "set ZSM_CACHE" in error


def test_a_gpu_that_is_announced_but_absent(nodes: Nodes, command: Callable[..., list[str]], tmp_path: Path) -> None:
    """The worker gets as far as opening TensorRT, which fails without one."""
    (tmp_path / "in").mkdir()
    for number in range(3):
        images.write(tmp_path / "in" / f"{number:06d}.png", np.zeros((16, 24, 3), np.uint8))
    arguments = command("compact", tmp_path / "in", tmp_path / "out.mkv", "--ray-gpus", "1", "--backend", "tensorrt")
    with nodes.added(6, cpus=1, gpus=1):
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(r"TensorRT.*\(segment 0, on node 127\.0\.0\.6\)", done.stderr), done.stderr
