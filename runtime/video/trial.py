"""Which properties of a picture an output can hold, found by writing a small one."""

import tempfile
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from zsm.runtime.video import colour as colours
from zsm.runtime.video import mux, sidedata
from zsm.runtime.video.encoders import Plan
from zsm.runtime.video.sinks import SegmentWriter, Timeline

SIZE = (256, 256)
"""In pixels; no encoder known takes more at least."""


def adapt(plan: Plan, suffix: str) -> Plan:
    """Convert to limited range if the output can't say that its range is full, and note a stereo layout it can't hold.

    ProRes has no flag for the range, for example.
    """
    unusual = plan.colour.full_range and plan.colour.matrix != colours.RGB
    if not unusual and plan.stereo is None:
        return plan
    found = _written(plan, suffix)
    if found is None:
        return plan
    full_range, stereo = found
    if unusual and not full_range:
        plan = replace(plan, colour=replace(plan.colour, full_range=False))
    if plan.stereo is not None and stereo is None:
        lost = f"the stereo 3D layout ({plan.stereo}), which {suffix} can't hold, is left out"
        plan = replace(plan, notes=(*plan.notes, lost), stereo=None)
    return plan


def _written(plan: Plan, suffix: str) -> tuple[bool, str | None] | None:
    """Write a frame as a run would, and read its range and stereo layout; None if it can't be written at this size."""
    with tempfile.TemporaryDirectory(prefix="zsm-") as name:
        segment, target = Path(name, "segment.mkv"), Path(name, f"result{suffix}")
        try:
            writer = SegmentWriter(segment.with_suffix(".part"), replace(plan, size=SIZE))
            writer.write(np.zeros((*SIZE, 3), np.uint8))
            delay = writer.close(segment).delay
            timeline = Timeline(times=[0], time_base=1 / plan.rate, last_duration=1)
            mux.assemble([segment], target, mux.Picture(timeline=timeline, delay=delay, aspect=plan.aspect), None)
            with av.open(str(target)) as container:
                frame = next(container.decode(video=0))
                full = frame.color_range == colours.FULL_RANGE
                stereo = sidedata.stereo(sidedata.read(frame)) or container.streams.video[0].metadata.get("stereo_mode")
                return full, stereo
        except (FFmpegError, OSError, ValueError):
            return None
