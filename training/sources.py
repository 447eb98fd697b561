"""A configuration's data on disk: what is trained on, and what is held out."""

from dataclasses import dataclass, replace
from pathlib import Path

from zsm.errors import ArgumentError
from zsm.evaluation import degradations, layouts
from zsm.evaluation.layouts import Clip
from zsm.training.config import Data
from zsm.training.data import FootageSeptuplets, ImageSeptuplets, Septuplets, check_size
from zsm.training.footage import prepare
from zsm.training.validation import HeldOut, choose


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Septuplets to train on, and held-out ones to validate on."""

    training: Septuplets
    held_out: list[HeldOut]


def find(data: Data, root: Path, cache: Path, septuplets: int, workers: int = 0) -> Sources:
    """Find a configuration's data under `root`; footage is prepared in `cache` the first time.

    septuplets: how many of each held-out clip, or of the test list, to validate on.
    workers: processes that prepare footage.
    """
    if data.layout == "vimeo":
        return _vimeo(data, root, septuplets)
    clips = layouts.find(root, "clips")
    _check_names(data.hold_out, [clip.name for clip in clips], root)
    held_out = []
    for clip in (clip for clip in clips if clip.name in data.hold_out):
        held_out += _held_footage(clip, data, cache, septuplets)
    kept = [clip for clip in clips if clip.name not in data.hold_out]
    prepared = prepare(kept, cache, data.preparation, workers)
    for footage in prepared:
        check_size(footage.name, footage.lr(), data.crop)
    return Sources(training=FootageSeptuplets(prepared), held_out=held_out)


def _held_footage(clip: Clip, data: Data, cache: Path, septuplets: int) -> list[HeldOut]:
    """Of a held-out clip, the greatest of its sizes."""
    clean = replace(data.preparation, compressed=0)
    footage = max(prepare([clip], cache, clean), key=lambda sized: sized.hr.shape[1])
    return _held(clip.name, FootageSeptuplets([footage]), data, septuplets)


def _vimeo(data: Data, root: Path, septuplets: int) -> Sources:
    training = layouts.vimeo(root, layouts.VIMEO_TRAIN_LIST)
    test = ImageSeptuplets(layouts.vimeo(root))
    held_out = _held("test list", test, data, septuplets)
    return Sources(training=ImageSeptuplets(training), held_out=held_out)


def _check_names(names: tuple[str, ...], known: list[str], root: Path) -> None:
    missing = sorted(set(names) - set(known))
    if missing:
        raise ArgumentError(
            f"data.hold_out names {', '.join(missing)}, which {root} hasn't; it has {', '.join(known[:20])}"
        )


def _held(name: str, source: Septuplets, data: Data, count: int) -> list[HeldOut]:
    held = choose(name, source, count, data.degrade)
    for text in data.validate_degraded:
        held += choose(f"{name} {text}", source, count, degradations.parse(text))
    return held
