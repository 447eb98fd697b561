import json
from pathlib import Path

import pytest

from zsm.errors import ArgumentError
from zsm.export.model import NetworkConfig
from zsm.training import config
from zsm.training.config import TrainingConfig

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert config.load(write(tmp_path, "")) == TrainingConfig()


def test_every_table_reaches_its_dataclass(tmp_path: Path) -> None:
    text = """
    network = {width = 16, deformable_groups = 4}
    loss.first_order = 1  # a whole number where a fraction may stand
    start.weights = "former.safetensors"
    [data]
    hold_out = ["a", "b"]
    preparation.scales = [1, 0.5]
    """
    loaded = config.load(write(tmp_path, text))
    assert loaded.network == NetworkConfig(width=16, deformable_groups=4)
    assert loaded.loss.weights == (1.0, 1.0, 0.0)
    assert loaded.start.weights == Path("former.safetensors")
    assert loaded.data.hold_out == ("a", "b")
    assert loaded.data.preparation.scales == (1.0, 0.5)
    assert json.loads(json.dumps(loaded.to_dict())) == loaded.to_dict()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("optimizer.batch = 4", "unknown setting optimizer; known are data, loss"),
        ("data.crops = 4", "unknown setting data.crops"),
        ("network.widht = 4", "unknown setting network.widht"),
        ("optimiser.batch = 4.5", "optimiser.batch is 4.5; give a whole number"),
        ("optimiser.batch = true", "optimiser.batch is True; give a whole number"),
        ("optimiser.batch = 0", "optimiser.batch is 0"),
        ("loss.form = 'l1'", "loss.form is 'l1'; choose from charbonnier, rms"),
        ("start.base = 1", "start.base is 1; give true or false"),
        ("data = 3", r"data is 3; make it a table"),
        ("data.hold_out = 'a'", "data.hold_out is 'a'; give a list"),
        ("data.crop = 30", "data.crop is 30; give a multiple of 4"),
        ("data.layout = 'reds'", "data.layout is 'reds'; choose from clips, vimeo"),
        ("data.degradation = 'blur'", "blur"),
        ("data = {layout = 'vimeo', hold_out = ['a']}", "hold_out"),
        ("data = {layout = 'vimeo', preparation = {compressed = 1}}", "data.preparation is for layout clips"),
        ("run.seed = -1", "run.seed is -1; give 0 to"),
        ("schedule.minutes = nan", "schedule.minutes is nan; give a number above 0"),
        ("schedule.minutes = inf", "schedule.minutes is inf"),
        ("data.degradation = 'noise:nan'", "nan"),
        ("run.precision = 'float16'", "float16"),
        ("network.width = 7", "width 7"),
        ("start.keep = 1", r"start\.keep is 1\.0; give 0 up to below 1"),
        ("start.keep = 0.5", r"start\.keep needs start\.weights"),
        ("loss.reconstruction = 0", "every loss weight is 0"),
        ("loss = ", "TOML"),
        ("schedule = {steps = 9, minutes = 5}", r"schedule\.minutes and schedule\.steps can't be combined; remove one"),
        ("schedule = {steps = 10, warm_up = 10}", r"schedule\.warm_up is 10, but the run has 10 steps; give fewer"),
        ("schedule.warm_up = 600_000", r"warm_up is 600000, but the run has 600000 steps"),
        ("schedule = {steps = 100, period = 30}", r"steps is 100, but schedule\.period 30, .*; give a multiple"),
        ("schedule = {steps = 100, period = 200}", r"steps is 100, but schedule\.period 200, .*; give a multiple"),
        ("schedule.learning_rate = inf", r"learning_rate inf; give finite numbers"),
        ("schedule.learning_rate = nan", r"learning_rate nan; give finite numbers"),
        ("schedule.final_learning_rate = nan", r"final_learning_rate is nan .*; give finite numbers"),
        ("start.base = true", r"start\.base is true, but network\.base is 'none'; give another base, or"),
        (
            "network = {interpolation = 'naive', recurrence = 'plain'}\nstart.identity = true",
            r"start\.identity is true, but .* interpolation 'naive' and recurrence 'plain' .*; remove",
        ),
        ("loss.synthesis_blocks = 3", r"loss\.synthesis_blocks is 3, but loss\.first_order and second_order are 0"),
        ("data.validate_degraded = ['noise']", r"data\.validate_degraded is \['noise'\], but data\.hold_out names"),
        ("run.validation_septuplets = 4", r"validation_septuplets is 4, but data\.hold_out names no clips;"),
    ],
)
def test_a_wrong_file_gets_one_message_that_names_it(tmp_path: Path, text: str, named: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ArgumentError, match=named) as raised:
        config.load(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "schedule = {steps = 100, warm_up = 99}",
        "schedule = {steps = 90, period = 30}",
        "schedule = {minutes = 5, warm_up = 100}",
        "network.base = 'bicubic'\nstart.base = true",
        "start.identity = true",
        "network = {interpolation = 'naive', recurrence = 'deformable'}\nstart.identity = true",
        "network = {interpolation = 'naive', recurrence = 'plain', recurrence_blocks = 1}\nstart.identity = true",
        "loss = {second_order = 0.1, synthesis_blocks = 3}",
        "data = {hold_out = ['a'], validate_degraded = ['noise']}\nrun.validation_septuplets = 4",
        "data = {layout = 'vimeo', validate_degraded = ['noise']}\nrun.validation_septuplets = 4",
    ],
)
def test_settings_that_go_together_load(tmp_path: Path, text: str) -> None:
    assert config.load(write(tmp_path, text)) != TrainingConfig()


def test_a_run_without_a_length_has_600_000_steps(tmp_path: Path) -> None:
    assert config.load(write(tmp_path, "")).schedule.steps == 600_000
    assert config.load(write(tmp_path, "schedule.minutes = 5")).schedule.steps is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"no configuration .*nowhere\.toml"):
        config.load(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_configurations_that_come_along_load(path: Path) -> None:
    assert config.load(path) != TrainingConfig()
