"""Scores as a table for the terminal, and as JSON. (`page` makes the HTML.)"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from zsm import __version__
from zsm.evaluation.scoring import ClipScores, MeanScores, Protocol, Scores, means


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of an evaluation, and how it was made."""

    data: str
    """The data set's name."""
    protocol: Protocol
    systems: Mapping[str, Mapping[str, Any]]
    """Facts about each system, by name, in the table's order."""
    clips: Sequence[ClipScores] = field(repr=False)
    complete: bool = True
    """Whether these are all clips of the data set."""

    @property
    def left_out(self) -> list[str]:
        """Names of the clips left out of all means, because a PSNR is infinite."""
        return [clip.name for clip in self.clips if not clip.comparable]

    def means(self) -> dict[str, dict[str, MeanScores]]:
        """Means by group and system; the last group is `all clips`."""
        groups = [group for group in dict.fromkeys(clip.group for clip in self.clips) if group]
        by_group = {group: means([clip for clip in self.clips if clip.group == group]) for group in groups}
        return by_group | {"all clips": means(self.clips)}


def table(report: Report) -> Table:
    """Make the table for a terminal: a row for each system on each clip, then the means if there are several clips."""
    result = Table(
        title=Text(f"{report.data}: PSNR in dB and SSIM on luma", style="table.title"),
        caption=_caption(report),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    result.add_column("", min_width=16, overflow="fold")
    for column in ("PSNR", "SSIM", "PSNR\noriginal", "PSNR\ninterp.", "PSNR\nwindows", "PSNR\ntemporal"):
        result.add_column(column, justify="right", no_wrap=True)
    for clip in report.clips:
        _rows(result, clip.name, clip.systems)
    if len(report.clips) > 1:
        for group, by_system in report.means().items():
            _rows(result, f"mean, {group}", by_system)
    return result


def to_json(report: Report) -> dict[str, Any]:
    """Return all scores, down to each frame, as JSON values. Infinite values and NaN become None."""
    values: dict[str, Any] = _finite(
        {
            "zsm": __version__,
            "data": report.data,
            "complete": report.complete,
            "protocol": asdict(report.protocol) | {"degradation": _text(report.protocol.degradation)},
            "systems": report.systems,
            "means": {
                group: {name: asdict(mean) for name, mean in by_system.items()}
                for group, by_system in report.means().items()
            },
            "left_out": report.left_out,
            "clips": [_clip_json(clip) for clip in report.clips],
        }
    )
    return values


def _rows(result: Table, title: str, systems: Mapping[str, Scores | MeanScores]) -> None:
    result.add_row(Text(title, style="bold"))
    for system, scores in systems.items():
        decibels = (scores.original.psnr, scores.interpolated.psnr, scores.windows.psnr, scores.temporal_psnr)
        figures = (f"{scores.all.psnr:.2f}", f"{scores.all.ssim:.4f}", *(f"{value:.2f}" for value in decibels))
        result.add_row(Padding(Text(system), (0, 0, 0, 2)), *figures)
    result.add_section()


def _caption(report: Report) -> Text | None:
    if not report.left_out:
        return None
    names = ", ".join(report.left_out)
    return Text(f"Left out of the means, because a PSNR is infinite: {names}", style="table.caption")


def _clip_json(clip: ClipScores) -> dict[str, Any]:
    return {
        "name": clip.name,
        "group": clip.group,
        "frames": clip.frames,
        "size": "{}x{}".format(*clip.size),
        "systems": {name: _scores_json(scores) for name, scores in clip.systems.items()},
    }


def _scores_json(scores: Scores) -> dict[str, Any]:
    parts = ("all", "original", "interpolated", "windows")
    return {
        **{part: asdict(getattr(scores, part)) for part in parts},
        "temporal_psnr": scores.temporal_psnr,
        "frames": {"psnr": scores.psnr, "ssim": scores.ssim},
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
