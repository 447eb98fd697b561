"""Score a bundle, or another system's frames, on clips whose true frames are known.

HR clips are shrunk 4x by bicubic and every other frame is dropped. What comes back is compared with the truth: PSNR and
SSIM on luma, original and interpolated frames apart, temporal consistency, beside the baseline (bicubic enlargement and
frame averaging).
"""

import argparse
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zsm.cli import options
from zsm.errors import Error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zsm.evaluation import report, scoring
    from zsm.evaluation.degradations import Degradation

SUMMARY = "score a bundle or another system's frames: PSNR, SSIM, temporal consistency"


def configure(parser: argparse.ArgumentParser) -> None:
    options.add_bundle(parser, nargs="?")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the data set's folder")
    parser.add_argument(
        "--layout",
        choices=("vid4", "vimeo", "clips"),
        default="clips",
        help="clips: videos or folders of images; vid4: a folder of PNGs per clip; vimeo: septuplets and lists "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="score another system's frames, DIR/CLIP/*.png; may be repeated",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write every figure, down to each frame, as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page with pictures")
    parser.add_argument("--pictures", type=int, default=8, metavar="N", help="clips shown (default: %(default)s)")
    options.add_json(parser)
    _configure_protocol(parser)
    options.add_runtime_options(parser)


def _configure_protocol(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is scored")
    options.add_frame_limit(group)
    group.add_argument(
        "--whole-windows",
        action="store_true",
        help="take only the frames that fill windows of 7, as the paper's released script does",
    )
    group.add_argument(
        "--degradation",
        type=_degradation,
        metavar="KIND",
        help="degrade the input: noise, noise:SIGMA (8-bit levels), jpeg:QUALITY or h264:CRF",
    )
    group.add_argument("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")


def _degradation(text: str) -> "Degradation":
    from zsm.evaluation import degradations

    return options.parsed(degradations.parse)(text)


def execute(args: argparse.Namespace) -> int:
    from rich.console import Console

    from zsm import files
    from zsm.evaluation import layouts, page, report, scoring

    _check_systems(args)
    for path in filter(None, (args.out, args.html)):
        files.check_result(path)
    protocol = scoring.Protocol(
        frames=args.frames, whole_windows=args.whole_windows, degradation=args.degradation, seed=args.seed
    )
    clips = layouts.find(args.data, args.layout)
    shown: list[page.Picture] = []
    scores: list[scoring.ClipScores] = []

    def keep(scored: scoring.Scored) -> None:
        if args.html and len(shown) < args.pictures:
            shown.append(page.picture(scored))
        scores.append(scored.scores)

    with ExitStack() as stack:
        systems = _systems(args, stack)
        facts = {name: system.facts for name, system in systems.items()}
        result = report.Report(data=layouts.name_of(args.data), protocol=protocol, systems=facts, clips=scores)
        try:
            # A loop over the scored clips would hold the frames of each while the next is restored; `map` doesn't.
            for _ in _shown_progress(map(keep, scoring.evaluate(clips, systems, protocol)), len(clips)):
                pass
        except (Error, OSError, MemoryError, KeyboardInterrupt):
            if args.out and scores:
                files.write_result(args.out, _as_json(replace(result, complete=False)))
                written = f"the scores of {len(scores)} of {len(clips)} clips were written to {args.out}"
                print(f"{args.parser.prog}: {written}", file=sys.stderr)
            raise
    text = _as_json(result)
    if args.json:
        print(text, end="")
    else:
        Console().print(report.table(result))
    if args.out:
        files.write_result(args.out, text)
    if args.html:
        files.write_result(args.html, page.render(result, shown))
    return 0


def _as_json(result: "report.Report") -> str:
    import json

    from zsm.evaluation import report

    return json.dumps(report.to_json(result), indent=1, allow_nan=False) + "\n"


def _check_systems(args: argparse.Namespace) -> None:
    from zsm.evaluation import degradations, layouts

    given = [*args.predictions, *([] if args.bundle is None else [args.bundle])]
    if not given:
        args.parser.error("nothing to score: give a BUNDLE, or --predictions DIR")
    if args.bundle is None:
        options.refuse(args, "only with a BUNDLE", *options.RUNTIME_OPTIONS)
    if not isinstance(args.degradation, degradations.Noise):
        options.refuse(args, "only with --degradation noise", "seed")
    if args.html is None:
        options.refuse(args, "only with --html", "pictures")
    if len({layouts.name_of(path) for path in given}) < len(given):
        args.parser.error("two systems have the same name: rename a folder of predictions")


def _systems(args: argparse.Namespace, stack: ExitStack) -> dict[str, "scoring.System"]:
    from zsm.evaluation import layouts, systems

    found = {systems.BASELINE: systems.baseline()}
    found |= {layouts.name_of(path): systems.predictions(path) for path in args.predictions}
    if args.bundle is not None:
        from zsm import engine

        runtime = engine.Runtime(args.bundle, **options.runtime_options(args))
        found[layouts.name_of(args.bundle)] = systems.bundle(stack.enter_context(runtime))
    return found


def _shown_progress(scored: "Iterable[None]", clips: int) -> "Iterator[None]":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TextColumn("clips"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        yield from progress.track(scored, total=clips)
