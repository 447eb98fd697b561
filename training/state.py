"""A run's state on disk. With the configuration, it decides every weight that follows.

Nothing but the first weights draws from torch's generator, and example k is made from (seed, k) alone, so no
generator's state is kept.
"""

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import nn

from zsm.errors import DataError
from zsm.training.config import TrainingConfig


@dataclass
class Progress:
    """Where a run is: steps made, and seconds spent on them."""

    step: int = 0
    seconds: float = 0.0


class State:
    """The file, and what it holds."""

    def __init__(
        self,
        path: Path,
        config: TrainingConfig,
        objective: nn.Module,
        average: nn.Module,
        adam: torch.optim.Optimizer,
        progress: Progress,
    ) -> None:
        self._path, self._config, self._progress = path, config, progress
        self._modules = {"objective": objective, "average": average}
        self._adam = adam

    def save(self) -> None:
        """Write all of it; a kill leaves the former file whole."""
        content = {name: module.state_dict() for name, module in self._modules.items()}
        content |= {"adam": self._adam.state_dict(), "config": self._config.to_dict(), "progress": vars(self._progress)}
        temporary = self._path.with_suffix(".part")
        try:
            torch.save(content, temporary)
            temporary.replace(self._path)
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, device: torch.device) -> bool:
        """Go back to what was saved; False if there is nothing.

        Raises:
            DataError: the file can't be read, or another configuration wrote it.
        """
        if not self._path.is_file():
            return False
        try:
            content = torch.load(self._path, map_location=device, weights_only=True)
        except (UnpicklingError, RuntimeError, EOFError, OSError) as error:
            raise DataError(f"{self._path} can't be read: {error}") from error
        self._check(content["config"])
        for name, module in self._modules.items():
            module.load_state_dict(content[name])
        self._adam.load_state_dict(content["adam"])
        vars(self._progress).update(content["progress"])
        return True

    def _check(self, found: dict[str, dict[str, object]]) -> None:
        """How a run is watched (table `run`, but its seed) may change; what it learns may not."""
        wanted = self._config.to_dict()
        different = [
            f"{table}.{key}"
            for table in wanted
            for key in sorted(wanted[table].keys() | found[table].keys())
            if wanted[table].get(key) != found[table].get(key) and (table != "run" or key in ("seed", "precision"))
        ]
        if different:
            raise DataError(
                f"{self._path} belongs to a run with another {', '.join(different)};"
                " give another folder, or the configuration that it was begun with"
            )
