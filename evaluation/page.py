"""The report as one self-contained HTML page: tables, a chart per clip, crops."""

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import isfinite, nan
from pathlib import Path

from zsm.evaluation import pictures
from zsm.evaluation.degradations import Noise
from zsm.evaluation.report import Report, to_json
from zsm.evaluation.scoring import ClipScores, MeanScores, Scored, Scores

_COLUMNS = ("PSNR", "SSIM", "original", "interpolated", "whole windows", "temporal")
_CROP = (112, 84)
_SERIES = 5
_EXPLANATIONS = {
    "original / interpolated": "frames whose low-resolution version was the input / frames in between.",
    "whole windows": "only the frames that fill windows of 7, which are the ones the paper's released script scores.",
    "temporal": "PSNR in dB of the change from frame to frame: flicker lowers it, a constant blur doesn't.",
    "PSNR, SSIM": "on luma of 8-bit RGB, no border cropped; SSIM with an 11x11 Gaussian window of sigma 1.5.",
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Pictures of one clip, encoded, and small enough to keep for many clips."""

    scores: ClipScores
    overview: bytes
    """A true frame with the region outlined, JPEG."""
    rows: Mapping[str, Mapping[str, tuple[bytes, float]]]
    """By title and label: the region as PNG, and the PSNR of the whole frame (NaN for input and truth)."""


def picture(scored: Scored) -> Picture:
    """Show the region that moves most, in the interpolated and the original frame nearest the middle of the clip."""
    truth = scored.trial.truth
    original = len(truth) // 4 * 2
    region = pictures.moving_region(truth[original : original + 3], *_CROP)
    shown = {f"Frame {original + 1}, original": original}
    if original + 1 < len(truth):
        shown = {f"Frame {original + 2}, interpolated": original + 1, **shown}
    return Picture(
        scores=scored.scores,
        overview=pictures.jpeg(region.drawn_on(truth[max(shown.values())])),
        rows={title: _crops(scored, region, index) for title, index in shown.items()},
    )


def render(report: Report, shown: Sequence[Picture]) -> str:
    """Return the page's HTML, with pictures of the clips in `shown`."""
    css = Path(__file__).with_name("page.css").read_text()
    body = "".join(
        (
            _header(report),
            "<h2>Means over clips</h2>",
            _table((f"mean, {group}", systems) for group, systems in report.means().items()),
            _left_out(report),
            "<h2>Where to look</h2>" if shown else "",
            *(_clip(one) for one in shown),
            "<h2>Every clip</h2>",
            _table((clip.name, clip.systems) for clip in report.clips),
            _footer(report),
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.data)}, restored</title><style>{css}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def _crops(scored: Scored, region: pictures.Region, index: int) -> dict[str, tuple[bytes, float]]:
    lr = pictures.enlarged(scored.trial.lr[index // 2])
    crops = {"Input" if index % 2 == 0 else "Input, frame before": (pictures.png(region.of(lr)), nan)}
    for name, frames in scored.restored.items():
        crops[name] = pictures.png(region.of(frames[index])), scored.scores.systems[name].psnr[index]
    crops["Truth"] = pictures.png(region.of(scored.trial.truth[index])), nan
    return crops


def _header(report: Report) -> str:
    frames = sum(clip.frames for clip in report.clips)
    protocol = report.protocol
    scored = f"{len(report.clips)} clips, {frames} frames scored"
    if protocol.frames:
        scored += f", of each clip at most {protocol.frames}"
    if protocol.whole_windows:
        scored += ", only whole windows of 7"
    how = "Bicubic 4x down, every other frame dropped"
    if protocol.degradation:
        how += f", then {protocol.degradation}"
        if isinstance(protocol.degradation, Noise):
            how += f" (seed {protocol.seed})"
    untrained = [name for name, facts in report.systems.items() if facts.get("trained") is False]
    notice = (
        f'<p class="notice"><b>{escape(", ".join(untrained))}</b> is untrained: the scores show that '
        "everything runs, not how well a trained network does.</p>"
        if untrained
        else ""
    )
    return f'<h1>{escape(report.data)}, restored</h1><p class="soft">{scored}. {escape(how)}.</p>{notice}'


def _table(parts: Iterable[tuple[str, Mapping[str, Scores | MeanScores]]]) -> str:
    heads = "".join(f"<th>{escape(column)}</th>" for column in ("", "", *_COLUMNS))
    bodies = "".join(f"<tbody>{_rows(title, systems)}</tbody>" for title, systems in parts)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>{bodies}</table></div>'


def _rows(title: str, systems: Mapping[str, Scores | MeanScores]) -> str:
    figures = {name: _figures(scores) for name, scores in systems.items()}
    best = [_best([row[column][0] for row in figures.values()]) for column in range(len(_COLUMNS))]
    rows = []
    for index, (name, row) in enumerate(figures.items()):
        cells = "".join(
            f"<td{' class=best' if value == best[column] else ''}>{text}</td>"
            for column, (value, text) in enumerate(row)
        )
        rows.append(f"<tr><td>{'' if index else escape(title)}</td><td>{escape(name)}</td>{cells}</tr>")
    return "".join(rows)


def _figures(scores: Scores | MeanScores) -> list[tuple[float, str]]:
    """For each column its value, rounded as displayed so that ties look like ties, and its text."""
    parts = (scores.original, scores.interpolated, scores.windows)
    return [
        (round(scores.all.psnr, 2), f"{scores.all.psnr:.2f}"),
        (round(scores.all.ssim, 4), f"{scores.all.ssim:.4f}"),
        *((round(part.psnr, 2), f"{part.psnr:.2f} / {part.ssim:.4f}") for part in parts),
        (round(scores.temporal_psnr, 2), f"{scores.temporal_psnr:.2f}"),
    ]


def _best(values: Sequence[float]) -> float | None:
    """The largest value; None if all are equal, so that nothing is highlighted."""
    return max(values) if len(set(values)) > 1 else None


def _left_out(report: Report) -> str:
    if not report.left_out:
        return ""
    names = escape(", ".join(report.left_out))
    return f'<p class="soft">Left out of the means, because a PSNR is infinite: {names}.</p>'


def _clip(shown: Picture) -> str:
    scores = shown.scores
    width, height = scores.size
    rows = "".join(
        f"<h4>{escape(title)}</h4><div class=crops>{''.join(map(_crop, crops, crops.values()))}</div>"
        for title, crops in shown.rows.items()
    )
    return (
        f'<article class="clip"><h3>{escape(scores.name)}</h3>'
        f'<p class="soft">{scores.frames} frames of {width}x{height}</p>'
        f'<div class="overview"><figure>{_image("jpeg", shown.overview, "the whole frame")}</figure>'
        f"<div>{_chart(scores.systems)}{_legend(scores.systems)}</div></div>{rows}</article>"
    )


def _crop(label: str, content: tuple[bytes, float]) -> str:
    data, psnr = content
    figure = f"<small class=soft>{psnr:.2f} dB</small>" if isfinite(psnr) else ""
    return f"<figure>{_image('png', data, label)}<figcaption>{escape(label)}{figure}</figcaption></figure>"


def _image(kind: str, data: bytes, what: str) -> str:
    return f'<img src="data:image/{kind};base64,{b64encode(data).decode()}" alt="{escape(what)}">'


def _chart(systems: Mapping[str, Scores]) -> str:
    """Draw the PSNR of every frame; lines zigzag where interpolated frames are worse than original ones."""
    values = [value for scores in systems.values() for value in scores.psnr if isfinite(value)]
    if not values:
        return ""
    low, high = min(values), max(values)
    margin = max(0.5, (high - low) * 0.08)
    chart = _Axes(low=low - margin, high=high + margin, frames=len(next(iter(systems.values())).psnr))
    lines = "".join(_line(chart, index, scores.psnr) for index, scores in enumerate(systems.values()))
    return f'<svg viewBox="0 0 640 240" role="img" aria-label="PSNR of every frame">{chart.grid()}{lines}</svg>'


@dataclass(frozen=True, kw_only=True)
class _Axes:
    low: float
    high: float
    frames: int

    def x(self, frame: int) -> float:
        return 46 + 584 * (frame / max(1, self.frames - 1))

    def y(self, psnr: float) -> float:
        return 10 + 200 * (self.high - psnr) / (self.high - self.low)

    def grid(self) -> str:
        step = next((step for step in (0.5, 1, 2, 5, 10) if (self.high - self.low) / step <= 6), 20)
        ticks = [step * number for number in range(int(self.low // step) + 1, int(self.high // step) + 1)]
        marks = "".join(
            f'<line class="grid" x1="46" x2="630" y1="{self.y(tick):.1f}" y2="{self.y(tick):.1f}"/>'
            f'<text x="38" y="{self.y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
            for tick in ticks
        )
        return (
            f'{marks}<text x="46" y="234">frame 1</text><text x="0" y="12">dB</text>'
            f'<text x="630" y="234" text-anchor="end">frame {self.frames}</text>'
        )


def _line(chart: _Axes, index: int, psnr: Sequence[float]) -> str:
    points = [(frame, chart.x(frame), chart.y(value)) for frame, value in enumerate(psnr) if isfinite(value)]
    path = " ".join(f"{x:.1f},{y:.1f}" for _, x, y in points)
    dots = "".join(
        f'<circle class="s{index % _SERIES} {"interpolated" if frame % 2 else "original"}" '
        f'cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>'
        for frame, x, y in points
        if len(psnr) <= 60
    )
    return f'<g class="s{index % _SERIES}"><polyline points="{path}"/>{dots}</g>'


def _legend(systems: Iterable[str]) -> str:
    entries = "".join(
        f'<span><i class="s{index % _SERIES}"></i>{escape(name)}</span>' for index, name in enumerate(systems)
    )
    return f'<div class="legend">{entries}<span>PSNR of each frame; hollow: interpolated</span></div>'


def _footer(report: Report) -> str:
    meaning = "".join(f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" for word, text in _EXPLANATIONS.items())
    facts = {key: value for key, value in to_json(report).items() if key in ("zsm", "protocol", "systems")}
    return (
        f"<h2>What the columns mean</h2><dl>{meaning}</dl><details><summary>How it was run</summary>"
        f"<pre>{escape(json.dumps(facts, indent=2))}</pre></details>"
    )
