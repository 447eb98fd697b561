"""A training run's configuration: TOML tables to checked dataclasses."""

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from zsm.errors import ArgumentError, Error
from zsm.evaluation import degradations
from zsm.evaluation.degradations import Degradation
from zsm.export.model import NetworkConfig
from zsm.runtime import SCALE
from zsm.training.footage import SEPTUPLET, Preparation
from zsm.training.schedule import Schedule

T = TypeVar("T")

LossForm = Literal["charbonnier", "rms"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ArgumentError(message)


@dataclass(frozen=True, kw_only=True)
class Data:
    """The training data."""

    layout: Literal["clips", "vimeo"] = "clips"
    """`clips`: a folder of videos, or of folders of images; `vimeo`: the septuplets of Vimeo-90K's training list."""
    hold_out: tuple[str, ...] = ()
    """Clips for validation, never trained on. `vimeo` validates on its test list instead."""
    crop: int = 32
    """Side of the LR crops in pixels, a multiple of 4."""
    candidates: int = 1
    """Random places tried for each crop; the one with most motion is taken."""
    outputs: int = SEPTUPLET
    """Outputs of each septuplet, drawn at random, that are reconstructed and compared with the truth. With fewer, a
    step takes less time, and a run sees more footage."""
    degradation: str | None = None
    """Applied to the input's crops: `noise`, `noise:SIGMA`, `jpeg:QUALITY` (section 4.3) or `h264:CRF`. For whole
    clips that were encoded as video, see `preparation.compressed`."""
    validate_degraded: tuple[str, ...] = ()
    """Degradations under which the held-out septuplets are validated a second time."""
    preparation: Preparation = field(default_factory=Preparation)
    """How whole clips are prepared (`clips` only)."""

    def __post_init__(self) -> None:
        _require(
            self.crop >= 8 and self.crop % SCALE == 0,
            f"data.crop is {self.crop}; give a multiple of {SCALE}, at least 8",
        )
        _require(
            self.layout == "clips" or not self.hold_out,
            "data.hold_out is for layout clips; vimeo validates on its test list",
        )
        _require(
            self.layout == "clips" or self.preparation == Preparation(),
            "data.preparation is for layout clips; vimeo's septuplets are taken as they are",
        )
        _require(
            self.layout == "vimeo" or bool(self.hold_out) or not self.validate_degraded,
            f"data.validate_degraded is {list(self.validate_degraded)}, but data.hold_out names no clips;"
            " name some, or remove validate_degraded",
        )
        _require(self.candidates >= 1, f"data.candidates is {self.candidates}; give 1 or more")
        _require(1 <= self.outputs <= SEPTUPLET, f"data.outputs is {self.outputs}; give 1 to {SEPTUPLET}")
        for text in (self.degradation, *self.validate_degraded):
            if text is not None:
                degradations.parse(text)

    @property
    def degrade(self) -> Degradation | None:
        """`degradation` as a function."""
        return degradations.parse(self.degradation) if self.degradation else None


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The losses, eq. 10's weights of them (lambda 1 to 3), and k3. The paper gives no values: these are this project's
    choice."""

    form: LossForm = "charbonnier"
    """The reconstruction loss: eq. 7, or the root of each frame's mean squared error, for a higher PSNR."""
    reconstruction: float = 1.0
    first_order: float = 0.0
    second_order: float = 0.0
    synthesis_blocks: int = 5

    def __post_init__(self) -> None:
        for name, weight in zip(("reconstruction", "first_order", "second_order"), self.weights, strict=True):
            _require(weight >= 0, f"loss.{name} is {weight}; give 0 or more")
        _require(any(self.weights), "every loss weight is 0; give one above 0")
        _require(self.synthesis_blocks >= 0, f"loss.synthesis_blocks is {self.synthesis_blocks}; give 0 or more")
        _require(
            any(self.weights[1:]) or self.synthesis_blocks == Loss.synthesis_blocks,
            f"loss.synthesis_blocks is {self.synthesis_blocks}, but loss.first_order and second_order are 0;"
            " give one above 0, or remove synthesis_blocks",
        )

    @property
    def weights(self) -> tuple[float, float, float]:
        """Lambda 1 to 3."""
        return self.reconstruction, self.first_order, self.second_order


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """Adam with beta 0.9 and 0.99."""

    batch: int = 24
    """Septuplets per step, over all processes."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient; 0 doesn't clip."""
    average: float = 0.999
    """Decay of the exponential moving average of the weights, which is validated and saved."""

    def __post_init__(self) -> None:
        _require(self.batch >= 1, f"optimiser.batch is {self.batch}; give 1 or more")
        _require(self.gradient_clip >= 0, f"optimiser.gradient_clip is {self.gradient_clip}; give 0 or more")
        _require(0 <= self.average < 1, f"optimiser.average is {self.average}; give 0 up to below 1")


@dataclass(frozen=True, kw_only=True)
class Start:
    """The weights of a new run (module `initial`)."""

    weights: Path | None = None
    """A safetensors file; parameters that it lacks are initialised as for a new network."""
    keep: float = 0.0
    """Fraction of `weights`, 0 to below 1, mixed into the weights that are saved, so that fine-tuning for one kind of
    footage loses less on others."""
    identity: bool = False
    """Start with alignments that return their source. Parameters from `weights` keep their values."""
    base: bool = False
    """Start with the last convolution at zero, so that the output is the base, unless `weights` has that layer."""

    def __post_init__(self) -> None:
        _require(0 <= self.keep < 1, f"start.keep is {self.keep}; give 0 up to below 1")
        _require(not self.keep or self.weights is not None, "start.keep needs start.weights")


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a run proceeds. Only `seed` and `precision` change what is learnt."""

    seed: int = 0
    """Seed of the initial weights and of the order of examples."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of convolutions; `bfloat16` is automatic mixed precision, with weights in float32."""
    workers: int = 0
    """Processes that prepare footage and load examples; 0 does both in the training process."""
    log_every: int = 100
    """Steps."""
    checkpoint_every: int = 1000
    """Steps."""
    validate_every: int = 5000
    """Steps."""
    validation_septuplets: int = 1
    """Septuplets per held-out clip, or of the whole test list."""

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**63, f"run.seed is {self.seed}; give 0 to 2**63 - 1")
        _require(self.workers >= 0, f"run.workers is {self.workers}; give 0 or more")
        for name in ("log_every", "checkpoint_every", "validate_every", "validation_septuplets"):
            _require(getattr(self, name) >= 1, f"run.{name} is {getattr(self, name)}; give 1 or more")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything that decides what a run learns, except the footage. One field per table of the file."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: Data = field(default_factory=Data)
    loss: Loss = field(default_factory=Loss)
    optimiser: Optimiser = field(default_factory=Optimiser)
    schedule: Schedule = field(default_factory=Schedule)
    start: Start = field(default_factory=Start)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        network, data, start, run = self.network, self.data, self.start, self.run
        _require(
            not start.base or network.base != "none",
            "start.base is true, but network.base is 'none'; give another base, or remove start.base",
        )
        _require(
            not start.identity
            or "deformable" in (network.interpolation, network.recurrence)
            or network.recurrence_blocks > 0,
            f"start.identity is true, but a network of interpolation {network.interpolation!r} and recurrence"
            f" {network.recurrence!r} without recurrence_blocks has no alignments or refinements; remove identity",
        )
        _require(
            data.layout == "vimeo" or bool(data.hold_out) or run.validation_septuplets == Run.validation_septuplets,
            f"run.validation_septuplets is {run.validation_septuplets}, but data.hold_out names no clips;"
            " name some, or remove validation_septuplets",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; equal for equal configurations."""
        values: dict[str, Any] = _plain(asdict(self))
        return values


def load(path: Path) -> TrainingConfig:
    """Read a configuration file.

    Raises ArgumentError for a missing file, invalid TOML, an unknown key, a value of the wrong type or range, or
    settings that contradict each other or would have no effect.
    """
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise ArgumentError(f"there is no configuration {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ArgumentError(f"{path} can't be read as TOML: {error}") from error
    try:
        return _build(TrainingConfig, values, "")
    except Error as error:
        raise ArgumentError(f"{path}: {error}") from error


def _build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Convert a table to a dataclass, recursively."""
    hints = get_type_hints(cls)
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]  # every caller gives a dataclass
    unknown = sorted(set(values) - names)
    _require(not unknown, f"unknown setting {where}{', '.join(unknown)}; known are {', '.join(sorted(names))}")
    return cls(**{name: _convert(hints[name], value, where + name) for name, value in values.items()})


def _convert(wanted: Any, value: Any, name: str) -> Any:
    if is_dataclass(wanted):
        _require(isinstance(value, dict), f"{name} is {value!r}; make it a table, [{name}]")
        return _build(wanted, value, f"{name}.")  # type: ignore[arg-type]
    if get_origin(wanted) is tuple:
        _require(isinstance(value, list), f"{name} is {value!r}; give a list")
        return tuple(_convert(get_args(wanted)[0], item, name) for item in value)
    if get_origin(wanted) is Literal:
        _require(value in get_args(wanted), f"{name} is {value!r}; choose from {', '.join(get_args(wanted))}")
        return value
    choices = [choice for choice in get_args(wanted) or (wanted,) if choice is not type(None)]
    for choice in choices:
        if choice is Path and isinstance(value, str):
            return Path(value)
        if choice is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if isinstance(value, choice) and (choice is bool) == isinstance(value, bool):
            return value
    kinds = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}
    raise ArgumentError(f"{name} is {value!r}; give {kinds[choices[0]]}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
