"""Score a bundle, or another system's frames, on clips whose true frames are known.

HR clips are shrunk 4x by bicubic and every other frame is dropped; what comes back is compared with the
truth: PSNR and SSIM on luma, original and interpolated frames apart, temporal consistency, beside the
baseline (bicubic enlargement and frame averaging).
"""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from zsm.cli.options import add_runtime_options, runtime_options
from zsm.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zsm.evaluation import scoring

SUMMARY = "score a bundle or another system's frames: PSNR, SSIM, temporal consistency"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("bundle", nargs="?", type=Path, metavar="BUNDLE", help="the bundle to score")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the data set's folder")
    parser.add_argument(
        "--layout",
        choices=("vid4", "vimeo", "clips"),
        default="clips",
        help="clips: videos or folders of images; vid4: a folder of PNGs a clip; vimeo: septuplets and lists",
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="score another system's frames, DIR/CLIP/*.png; may be repeated",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure, down to each frame")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page with pictures")
    parser.add_argument("--pictures", type=int, default=8, metavar="N", help="clips shown (default: %(default)s)")
    _configure_protocol(parser)
    add_runtime_options(parser)


def _configure_protocol(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is scored")
    group.add_argument("--frames", type=int, metavar="N", help="take at most N frames of each clip")
    group.add_argument(
        "--whole-windows",
        action="store_true",
        help="take only the frames that fill windows of 7, as the paper's released script does",
    )
    group.add_argument(
        "--degradation",
        metavar="KIND",
        help="degrade the input: noise, noise:SIGMA (8-bit levels) or jpeg:QUALITY",
    )
    group.add_argument("--seed", type=int, default=0, help="seed of the degradation (default: %(default)s)")


def execute(args: argparse.Namespace) -> int:
    """Score, print the table, write the files."""
    from rich.console import Console

    from zsm.evaluation import layouts, page, report, scoring

    for path in filter(None, (args.json, args.html)):
        report.check(path)
    protocol = _protocol(args)
    clips = layouts.find(args.data, args.layout)
    scores: list[scoring.ClipScores] = []
    shown: list[page.Picture] = []
    with ExitStack() as stack:
        systems = _systems(args, stack)
        for scored in _shown_progress(scoring.evaluate(clips, systems, protocol), len(clips)):
            scores.append(scored.scores)
            if args.html and len(shown) < args.pictures:
                shown.append(page.picture(scored))
    facts = {name: system.facts for name, system in systems.items()}
    result = report.Report(data=args.data.resolve().name, protocol=protocol, systems=facts, clips=scores)
    Console().print(report.table(result))
    if args.json:
        report.write(args.json, report.to_json(result))
    if args.html:
        report.write(args.html, page.render(result, shown))
    return 0


def _protocol(args: argparse.Namespace) -> "scoring.Protocol":
    from zsm.evaluation import degradations, scoring

    return scoring.Protocol(
        frames=args.frames,
        whole_windows=args.whole_windows,
        degradation=degradations.parse(args.degradation) if args.degradation else None,
        seed=args.seed,
    )


def _systems(args: argparse.Namespace, stack: ExitStack) -> dict[str, "scoring.System"]:
    from zsm.evaluation import systems

    if args.bundle is None and not args.predictions:
        raise DataError("nothing to score: give a BUNDLE, or --predictions DIR")
    found = {systems.BASELINE: systems.baseline()}
    found |= {path.resolve().name: systems.predictions(path) for path in args.predictions}
    if args.bundle is not None:
        from zsm import engine

        runtime = engine.Runtime(args.bundle, **runtime_options(args))
        found[args.bundle.resolve().name] = systems.bundle(stack.enter_context(runtime))
    if len(found) != 1 + len(args.predictions) + (args.bundle is not None):
        raise DataError("two systems have the same name: rename a folder of predictions")
    return found


def _shown_progress(scored: "Iterable[scoring.Scored]", clips: int) -> "Iterator[scoring.Scored]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TextColumn("clips"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        yield from progress.track(scored, total=clips)
