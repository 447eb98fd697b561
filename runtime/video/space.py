"""Whether the output will fit on the disk."""

import shutil
from pathlib import Path

from zsm.errors import VideoError
from zsm.runtime.video.encoders import Plan

BITS_PER_PIXEL = {"ffv1": 4.0, "prores_ks": 1.5}
"""A lower bound for lossless and intermediate codecs, by encoder."""
LOSSY_BITS_PER_PIXEL = 0.01
PNG_BITS_PER_PIXEL = 4.0


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
