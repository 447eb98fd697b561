"""One build of each TensorRT engine for all workers: two builds of one engine may differ in pixels."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsm.engine.backends.tensorrt.backend import find_best
from zsm.engine.backends.tensorrt.cache import EngineCache, EngineKey
from zsm.engine.devices import Engine


class Depot:
    """Keeps the engines that all workers use, in the cache of the driver's machine, where it is an actor.

    What the cache lacks is built by a worker, and the first build that is offered enters it. Nobody waits for another
    one's build, which may never come: workers that begin together may each build, but all use the first.
    """

    def __init__(self, folder: Path) -> None:
        self._cache = EngineCache(folder)
        self._settled: dict[str, Engine] = {}
        self._building: dict[str, list[str]] = {}

    def settle(self, asked: Mapping[str, Any], found: Engine | None, node: str) -> Engine | None:
        """See `Exchange`; without an engine the node is about to build one."""
        key = EngineKey(**asked)
        if key.digest not in self._settled:
            engine = find_best(self._cache, key)
            if engine is None and found is not None:
                said, content = found
                engine = said, self._cache.find_or_build(EngineKey(**said), lambda: content)
            if engine is None:
                what = f"node {node} builds TensorRT engines for {key.sizes['opt']} on {key.gpu}, which takes minutes"
                self._building.setdefault(what, []).append(key.stage)
                return None
            self._settled[key.digest] = engine
        return self._settled[key.digest]

    def news(self) -> list[str]:
        """Tell which nodes have begun to build what since the last call."""
        building, self._building = self._building, {}
        return [f"{what}: {', '.join(stages)}" for what, stages in building.items()]


@dataclass(frozen=True)
class ToDepot:
    """A worker's exchange."""

    depot: Any
    """The actor."""

    def settle(self, asked: Mapping[str, Any], found: Engine | None) -> Engine | None:
        """See `Exchange`; raises CacheError if the driver's cache can't be read or written."""
        import ray

        try:
            settled: Engine | None = ray.get(self.depot.settle.remote(asked, found, ray.util.get_node_ip_address()))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        return settled
