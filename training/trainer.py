"""The training loop.

A run's folder holds `state.pt` (from which a stopped or killed run continues), `latest.safetensors` (the averaged
weights at the last validation, with configuration and scores) and `logs/` for TensorBoard. On several GPUs, torchrun
starts one process per GPU, and each takes its share of every batch.
"""

import copy
import json
import logging
import math
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from zsm.errors import Error, OutOfMemoryError, OutputError, TrainingError
from zsm.export.model import Network, checkpoint
from zsm.training import initial, parallel, state, validation
from zsm.training.config import Start, TrainingConfig
from zsm.training.data import Examples
from zsm.training.distributed import Processes
from zsm.training.journal import Journal
from zsm.training.losses import Losses
from zsm.training.sources import Sources
from zsm.training.step import Batch, Step

log = logging.getLogger("zsm")

LATEST = "latest.safetensors"


class Trainer:
    """A run in `folder`, new or resumed."""

    def __init__(self, config: TrainingConfig, folder: Path, processes: Processes) -> None:
        """Make the folder and the network, or restore what a run left in the folder.

        Raises TrainingError if the batch can't be divided among the processes, OutputError if the folder can't be made,
        and DataError if it holds a run with another configuration, or `start.weights` can't be used.
        """
        if config.optimiser.batch % processes.count:
            raise TrainingError(
                f"optimiser.batch is {config.optimiser.batch}, which {processes.count} processes can't share evenly;"
                f" give a multiple of {processes.count}"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"can't make the folder {folder}: {error.strerror}; give another with --out") from error
        self.config, self.folder, self.processes = config, folder, processes
        file = folder / "state.pt"
        torch.manual_seed(config.run.seed)
        network = initial.network(config.network, Start() if file.is_file() else config.start)
        self._began = copy.deepcopy(network).to(processes.device) if config.start.keep else None
        self.step = Step(config, network, processes)
        self.progress = state.Progress()
        modules = {"objective": self.step.objective, "average": self.step.average}
        if self._began is not None:
            modules["began"] = self._began
        self._state = state.State(file, config, modules, self.step.adam, self.progress)
        self._state.load(processes.device)

    def run(self, sources: Sources) -> None:
        """Train to the end of the schedule. An interruption loses the steps since the state was last written.

        Raises TrainingError if the loss becomes infinite or NaN, or a worker dies, and OutputError if a file can't be
        written.
        """
        if self.progress.step:
            log.info("resuming at step %d in %s", self.progress.step, self.folder)
        with Journal(self.folder / "logs" if self.processes.first else None, self.progress.step) as journal:
            try:
                if self.progress.step == 0:
                    self._validate(journal, sources)
                self._train(journal, sources)
            except torch.OutOfMemoryError as error:
                raise OutOfMemoryError(
                    f"{self.processes.device} hasn't enough memory; lower optimiser.batch, data.outputs or data.crop"
                ) from error
            except RuntimeError as error:
                if "DataLoader worker (pid" not in str(error):  # an exception in a worker lacks the "(pid"
                    raise
                raise parallel.killed(self.config.run.workers) from error
            except (BrokenPipeError, EOFError) as error:  # a worker died before it read what it is to do
                raise parallel.killed(self.config.run.workers) from error
        log.info("trained %d steps in %.0f s", self.progress.step, self.progress.seconds)

    def _train(self, journal: Journal, sources: Sources) -> None:
        started = time.perf_counter()
        for batch in self._batches(sources) if not self._done() else ():
            rate = self.config.schedule.rate(self.progress.step, self.progress.seconds)
            losses = self.step(batch, rate)
            self.progress.step += 1
            self.progress.seconds += self.processes.agree(time.perf_counter() - started)
            self._after_step(journal, sources, losses, rate)
            if self._done():
                break
            started = time.perf_counter()

    def _done(self) -> bool:
        return self.config.schedule.progress(self.progress.step, self.progress.seconds) >= 1

    def _after_step(self, journal: Journal, sources: Sources, losses: Losses, rate: float) -> None:
        run, step = self.config.run, self.progress.step
        log_it, validate, save = (
            step % often == 0 or self._done() for often in (run.log_every, run.validate_every, run.checkpoint_every)
        )
        if not (log_it or validate or save):
            return
        means = {name: self.processes.mean(value) for name, value in vars(losses).items()}
        if not math.isfinite(means["total"]):
            raise TrainingError(
                f"the loss at step {step} is {means['total']}; lower schedule.learning_rate and start again"
            )
        if log_it:
            journal.losses(step, {**means, "learning rate": rate}, self.progress.seconds)
        if validate:
            self._validate(journal, sources)
        if save and self.processes.first:
            self._state.save()

    def _batches(self, sources: Sources) -> Iterator[Batch]:
        """Yield this process's share of each batch, endlessly, beginning with the next step's."""
        data, batch, processes = self.config.data, self.config.optimiser.batch, self.processes
        examples = Examples(
            septuplets=sources.training,
            seed=self.config.run.seed,
            crop=data.crop,
            outputs=data.outputs,
            candidates=data.candidates,
            degradation=data.degrade,
        )
        mine = range(processes.rank, batch, processes.count)
        loader: DataLoader[Batch] = DataLoader(
            examples,
            batch_sampler=Numbers(self.progress.step, batch, mine),
            num_workers=self.config.run.workers,
            worker_init_fn=parallel.begin_worker,
            multiprocessing_context=parallel.clean_processes() if self.config.run.workers else None,
            pin_memory=processes.device.type == "cuda",
        )
        try:
            yield from loader
        except Error as error:
            # A worker's error arrives with a traceback before its message.
            raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from error

    def _validate(self, journal: Journal, sources: Sources) -> None:
        """Score the weights on the held-out septuplets, and write them."""
        if self.processes.first:
            network = self._result()
            scores = [validation.score(network, held, self.processes.device) for held in sources.held_out]
            journal.validation(self.progress.step, scores, sources.held_out)
            self._write_weights(network, scores)
        self.processes.wait()

    def _result(self) -> Network:
        """The averaged weights, and what the run keeps of those that it began with."""
        if self._began is None:
            return self.step.average
        network = copy.deepcopy(self.step.average)
        for weight, began in zip(network.parameters(), self._began.parameters(), strict=True):
            weight.lerp_(began, self.config.start.keep)
        return network

    def _write_weights(self, network: Network, scores: list[validation.Score]) -> None:
        metadata = {
            "training": json.dumps(self.config.to_dict()),
            "steps": str(self.progress.step),
            "validation": json.dumps([score.figures() for score in scores]),
        }
        try:
            checkpoint.save(network, self.folder / LATEST, metadata)
        except OSError as error:
            raise OutputError(f"can't write {self.folder / LATEST}: {error}") from error


class Numbers:
    """Example numbers for one process's share of each batch, endlessly, beginning with step `first`."""

    def __init__(self, first: int, batch: int, places: range) -> None:
        self._first, self._batch, self._places = first, batch, places

    def __iter__(self) -> Iterator[list[int]]:
        for step in count(self._first):
            yield [step * self._batch + place for place in self._places]
