"""A run's state on disk, from which the run continues exactly.

It holds no random generator's state: only the initial weights are drawn from torch's generator, and example k is made
from (seed, k) alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zsm import files
from zsm.errors import DataError, OutputError
from zsm.training.config import TrainingConfig


@dataclass
class Progress:
    """Steps made so far, and seconds spent on them."""

    step: int = 0
    seconds: float = 0.0


class State:
    """The file, and the objects whose state it holds."""

    def __init__(
        self,
        path: Path,
        config: TrainingConfig,
        modules: Mapping[str, nn.Module],
        adam: torch.optim.Optimizer,
        progress: Progress,
    ) -> None:
        self._path, self._config, self._progress = path, config, progress
        self._modules, self._adam = modules, adam

    def save(self) -> None:
        """Write the state atomically. Raises OutputError."""
        content = {name: module.state_dict() for name, module in self._modules.items()}
        content |= {"adam": self._adam.state_dict(), "config": self._config.to_dict(), "progress": vars(self._progress)}
        try:
            with files.replacing(self._path) as temporary:
                torch.save(content, temporary)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            raise OutputError(f"can't write {self._path}: {error}") from error

    def load(self, device: torch.device) -> None:
        """Restore what was saved, if anything was.

        Raises DataError if the file can't be read, or belongs to a run with another configuration.
        """
        if not self._path.is_file():
            return
        content = self._read(device)
        self._check(content["config"])
        for name, module in self._modules.items():
            module.load_state_dict(content[name])
        # Keep this run's options: they depend on the device.
        options = self._adam.state_dict()["param_groups"]
        self._adam.load_state_dict({"state": content["adam"]["state"], "param_groups": options})
        vars(self._progress).update(content["progress"])

    def _read(self, device: torch.device) -> dict[str, Any]:
        problem: object = "something is missing"
        try:
            content = torch.load(self._path, map_location=device, weights_only=True)
            if isinstance(content, dict) and {*self._modules, "adam", "config", "progress"} <= content.keys():
                return content
        except Exception as error:  # what torch raises depends on the bytes that it finds
            problem = error
        raise DataError(f"{self._path} is not a run's state, or is damaged ({problem}); delete it to start again")

    def _check(self, found: dict[str, dict[str, object]]) -> None:
        """Raise DataError if a setting that affects the weights differs; of `run`, those are seed and precision.

        Settings that didn't exist when the file was written have their default, which keeps what runs did before.
        """
        wanted, before = self._config.to_dict(), TrainingConfig().to_dict()
        found = _completed(found, before)
        different = [
            f"{table}.{key}"
            for table in wanted
            for key in sorted(wanted[table].keys() | found[table].keys())
            if wanted[table].get(key) != found[table].get(key) and (table != "run" or key in ("seed", "precision"))
        ]
        if different:
            raise DataError(
                f"{self._path} belongs to a run with another {', '.join(different)};"
                " give another folder, or the run's own configuration"
            )


def _completed(found: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with defaults for those that are missing, in nested tables too."""
    tables = {key: _completed(found.get(key, {}), value) for key, value in defaults.items() if isinstance(value, dict)}
    return {**defaults, **found, **tables}
