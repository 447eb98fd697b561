"""What writing the output takes, on the disk and in memory."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from zsm.errors import VideoError
from zsm.runtime.video import encoders
from zsm.runtime.video.encoders import Plan
from zsm.runtime.video.options import Options, Settings
from zsm.runtime.video.source import Info

log = logging.getLogger("zsm")

BITS_PER_PIXEL = {"ffv1": 4.0, "prores_ks": 1.5}
"""A lower bound for lossless and intermediate codecs, by encoder."""
LOSSY_BITS_PER_PIXEL = 0.01
PNG_BITS_PER_PIXEL = 4.0

WAITING = 5
"""Outputs between the restorer and the encoder: in a queue, and in the hands of either."""


def check_space(target: Path, pixels: int, plan: Plan | None) -> None:
    """Raise VideoError if `pixels` pixels, encoded by `plan` or as PNG files, can hardly fit on the target's disk."""
    # Segments and the file made of them are on the disk at the same time.
    bits = 2 * BITS_PER_PIXEL.get(plan.encoder, LOSSY_BITS_PER_PIXEL) if plan else PNG_BITS_PER_PIXEL
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    free, needed = shutil.disk_usage(folder).free, int(pixels * bits / 8)
    if needed > free:
        raise VideoError(
            f"{target} will take about {needed >> 20} MiB, but only {free >> 20} MiB are free in {folder}; make room, "
            "choose another place, or skip this check with --no-space-check"
        )


def fitted(info: Info, target: Path | None, options: Options, settings: Settings) -> Options:
    """The options, with a lean encoder where the usual one would take more than half of the memory that is free."""
    room = settings.room
    taken = memory(info, target, options, settings.scale)
    if room is None or taken <= room // 2 or target is None or options.encoding.lean:
        return options
    suffix = target.suffix.lower()
    if suffix not in encoders.CONTAINERS or not encoders.can_be_lean(options.encoding, info, suffix):
        return options
    log.warning(
        "encoding would take %s of the %s MiB of memory that are free: the encoder gets by with less, and makes larger "
        "files (--lean)",
        f"{taken >> 20:,}",
        f"{room >> 20:,}",
    )
    return replace(options, encoding=replace(options.encoding, lean=True))


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
