"""A run's record: log lines, and curves and pictures for TensorBoard."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
from torch.utils.tensorboard.writer import SummaryWriter

from zsm.errors import OutputError
from zsm.training.validation import HeldOut, Score, summary

log = logging.getLogger("zsm")

PICTURED = 1
"""The frame shown in pictures: the first interpolated one."""


class Journal:
    """Logs, and writes TensorBoard files to `folder`; silent if `folder` is None. A context manager.

    Its methods raise OutputError if the folder can't be written.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        """Continue after `step`: hides what an interrupted run wrote about later steps."""
        self._folder = folder
        with self._writing():
            self._writer = None if folder is None else SummaryWriter(str(folder), purge_step=step + 1 if step else 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            with self._writing():
                self._writer.close()

    def losses(self, step: int, values: dict[str, float], seconds: float) -> None:
        """Record one step's losses and learning rate (`values`, by name), and the seconds spent so far."""
        if self._writer is None:
            return
        with self._writing():
            for name, value in values.items():
                self._writer.add_scalar(f"training/{name.replace('_', ' ')}", value, step)
        log.info("step %d, %.0f s: loss %.5f, rate %.2e", step, seconds, values["total"], values["learning rate"])

    def validation(self, step: int, scores: Sequence[Score], held_out: Sequence[HeldOut]) -> None:
        """Record each septuplet's scores, their means, and pictures: baseline, output, truth."""
        if self._writer is None or not scores:
            return
        for score in scores:
            log.info(
                "step %d, %s: original %.2f dB (%+.2f), interpolated %.2f dB (%+.2f)",
                step,
                score.name,
                score.original,
                score.original_gain,
                score.interpolated,
                score.interpolated_gain,
            )
        with self._writing():
            for score, held in zip(scores, held_out, strict=True):
                row = np.concatenate([clip[PICTURED] for clip in (held.baseline, score.restored, held.hr)], 1)
                self._writer.add_image(f"held out/{score.name}", row, step, dataformats="HWC")
            for name, value in summary(scores).items():
                self._writer.add_scalar(f"held out/{name.replace('_', ' ')}", value, step)
            self._writer.flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"can't write {self._folder}: {error}; free space, or give another --out") from error
