"""What writing the output takes, on the disk and in memory."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from zsm import files
from zsm.errors import VideoError
from zsm.runtime.video import encoders
from zsm.runtime.video.encoders import Plan
from zsm.runtime.video.options import Options, Settings
from zsm.runtime.video.resume import began_lean, folder_of
from zsm.runtime.video.source import Info

log = logging.getLogger("zsm")

BITS_PER_PIXEL = {"ffv1": 4.0, "prores_ks": 1.5}
"""A lower bound for lossless and intermediate codecs, by encoder."""
LOSSY_BITS_PER_PIXEL = 0.01
PNG_BITS_PER_PIXEL = 4.0

WAITING = 5
"""Outputs between the restorer and the encoder: in a queue, and in the hands of either."""


def check_space(target: Path, pixels: int, plan: Plan | None, *, begun: bool) -> None:
    """Raise VideoError if `pixels` pixels, encoded by `plan` or as PNG files, can hardly fit on the target's disk.

    `begun`: whether a part of them may be there already.
    """
    # Segments and the file made of them are on the disk at the same time.
    bits = 2 * BITS_PER_PIXEL.get(plan.encoder, LOSSY_BITS_PER_PIXEL) if plan else PNG_BITS_PER_PIXEL
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    free, needed = shutil.disk_usage(folder).free, int(pixels * bits / 8)
    there = files.content(folder_of(target)).bytes if begun else 0
    if needed - there > free:
        raise VideoError(
            f"{target} will take about {needed >> 20} MiB, but only {free >> 20} MiB are free in {folder}; make room, "
            "choose another place, or skip this check with --no-space-check"
        )


def fitted(info: Info, target: Path, options: Options, settings: Settings, *, quiet: bool = False) -> Options:
    """The options, with a lean encoder where the usual one would take more than half of the memory that is free.

    A resumed run keeps the encoder that it began with. Raises VideoError if it is to become lean. Unless `quiet`, the
    choice is logged.
    """
    begun = began_lean(target) if options.resume else None
    if options.encoding.lean:
        if begun is False:
            raise VideoError(
                f"the interrupted run of {target} began without --lean: leave that out, or start over with --overwrite"
            )
        return options
    lean = _is_short(info, target, options, settings) if begun is None else begun
    if lean and not quiet:
        log.warning("memory is short: the encoder gets by with less of it, and makes larger files (--lean)")
    return replace(options, encoding=replace(options.encoding, lean=lean))


def _is_short(info: Info, target: Path, options: Options, settings: Settings) -> bool:
    """Whether the encoder would take more than half of the memory, and can be made lean."""
    suffix, room = target.suffix.lower(), settings.room
    return (
        room is not None
        and suffix in encoders.CONTAINERS
        and encoders.can_be_lean(options.encoding, info, suffix)
        and memory(info, target, options, settings.scale) > room // 2
    )


def memory(info: Info, target: Path | None, options: Options, scale: int) -> int:
    """The bytes that restored frames take on their way to a target (None for a pipe), and in its encoder."""
    width, height = info.size
    waiting = WAITING * 3 * np.dtype(info.colour.dtype).itemsize * width * height * scale**2
    suffix = "" if target is None else target.suffix.lower()
    if suffix not in encoders.CONTAINERS:
        return waiting
    expected = options.frames_expected(info)
    frames = options.segment if expected is None else min(expected, options.segment)
    return waiting + encoders.memory(options.encoding, info, suffix, frames, scale)
