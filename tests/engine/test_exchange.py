"""Runtimes with caches of their own that share an exchange, as a cluster's workers do; see test_engines.py."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine.test_engines import RANGE, Builder, clip_of
from tests.engine.test_engines import tensorrt as tensorrt

from zsm.cluster.engines import Depot
from zsm.engine import Bundle, Runtime
from zsm.engine.backends.tensorrt.build import build_engines
from zsm.engine.backends.tensorrt.cache import EngineCache
from zsm.engine.devices import Engine
from zsm.errors import BackendError, StoppedError, VideoError
from zsm.runtime.video import images, restore

Machine = Callable[[str], None]


@dataclass(frozen=True)
class Node:
    name: str
    depot: Depot

    def settle(self, asked: Mapping[str, Any], found: Engine | None) -> Engine | None:
        return self.depot.settle(asked, found, self.name)


@pytest.fixture
def machine(tensorrt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Go to a machine, with a cache of its own. No two builds of an engine are equal."""
    build = Builder.build
    monkeypatch.setattr(Builder, "build", lambda self: build(self) + len(Builder.built).to_bytes(4, "big"))
    return lambda name: monkeypatch.setenv("ZSM_CACHE", str(tmp_path / name))


def builds_of(bundle: Path, depot: Depot, node: str) -> dict[str, str]:
    """Process frames on a node; the checksums of its engines."""
    with (
        Runtime(bundle, device="cuda:0", backend="tensorrt", build=True, exchange=Node(node, depot)) as rt,
        Runtime(bundle, threads=1) as cpu,
    ):
        np.testing.assert_array_equal(rt(clip_of()), cpu(clip_of()))
        return rt.builds


def test_what_one_worker_builds_all_use(tiny_bundle: Path, machine: Machine, tmp_path: Path) -> None:
    depot = Depot(tmp_path / "driver")
    machine("a")
    first = builds_of(tiny_bundle, depot, "a")
    assert set(first) >= {f"{stage} for 9x6 on Host" for stage in ("extract", "propagate", "reconstruct")}
    (news,) = depot.news()
    assert news.startswith("node a builds TensorRT engines for 9x6 on Host, which takes minutes: ingest_uint8, ")
    built = len(Builder.built)
    machine("b")
    assert builds_of(tiny_bundle, depot, "b") == first
    assert len(Builder.built) == built
    assert depot.news() == []


def test_a_worker_s_own_engines_give_way_and_stay(tiny_bundle: Path, machine: Machine, tmp_path: Path) -> None:
    """Whether they were built for the same sizes or others."""
    depot = Depot(tmp_path / "driver")
    alone = {}
    for name in ("b", "c"):
        machine(name)
        alone[name] = builds_of(tiny_bundle, Depot(tmp_path / name), name)
    build_engines(Bundle(tiny_bundle), "cuda:0", RANGE, lambda progress: None)
    assert alone["b"] != alone["c"]
    machine("a")
    first = builds_of(tiny_bundle, depot, "a")
    for name, own in alone.items():
        machine(name)
        before = [entry.digest for entry in EngineCache().entries()]
        assert builds_of(tiny_bundle, depot, name) == first != own
        assert [entry.digest for entry in EngineCache().entries()] == before
        assert builds_of(tiny_bundle, Depot(tmp_path / name), name) == own


def test_the_driver_s_cache_outlives_the_workers(tiny_bundle: Path, machine: Machine, tmp_path: Path) -> None:
    """Of the next run, too, the first worker may have engines of its own."""
    machine("b")
    builds_of(tiny_bundle, Depot(tmp_path / "b"), "b")
    machine("a")
    first = builds_of(tiny_bundle, Depot(tmp_path / "driver"), "a")
    machine("b")
    assert builds_of(tiny_bundle, Depot(tmp_path / "driver"), "b") == first


def test_nobody_waits_for_a_builder_that_fails(
    tiny_bundle: Path, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depot = Depot(tmp_path / "driver")
    machine("a")
    with monkeypatch.context() as broken:
        broken.setattr(Builder, "build", lambda self: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception, match="killed"):
            builds_of(tiny_bundle, depot, "a")
    machine("b")
    assert builds_of(tiny_bundle, depot, "b")
    assert [news.partition(" builds")[0] for news in depot.news()] == ["node a", "node b"]


def test_without_building_a_missing_engine_is_an_error(tiny_bundle: Path, machine: Machine, tmp_path: Path) -> None:
    machine("a")
    exchange = Node("a", Depot(tmp_path / "driver"))
    with (
        Runtime(tiny_bundle, device="cuda:0", backend="tensorrt", exchange=exchange) as rt,
        pytest.raises(BackendError, match="there is no TensorRT engine of ingest_uint8"),
    ):
        rt(clip_of())


def test_a_run_is_resumed_with_the_engines_it_began_with(tiny_bundle: Path, machine: Machine, tmp_path: Path) -> None:
    for number, frame in enumerate(clip_of()[:2]):
        (tmp_path / "in").mkdir(exist_ok=True)
        images.write(tmp_path / "in" / f"{number:06d}.png", frame)
    stop = threading.Event()

    def run(cache: str) -> int:
        machine(cache)
        with Runtime(tiny_bundle, device="cuda:0", backend="tensorrt", build=True) as rt:
            return restore(tmp_path / "in", tmp_path / "out", rt, resume=True, stop=stop).frames_out

    stop.set()
    with pytest.raises(StoppedError):
        run("a")
    stop.clear()
    with pytest.raises(VideoError, match=r"for 9x6 on Host is another build .* copy the cache folder .* --overwrite"):
        run("b")
    assert run("a") == 3
