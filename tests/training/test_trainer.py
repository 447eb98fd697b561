"""Training by the command line: new, killed and resumed, and on several processes."""

import gc
import logging
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.needs import torch_cuda
from tests.training.moving import gliding, write_clip
from tests.training.test_data import Ramp

from zsm.cli import main
from zsm.errors import OutOfMemoryError, OutputError, TrainingError
from zsm.evaluation import bicubic
from zsm.export.model import Network, NetworkConfig, checkpoint
from zsm.training import initial
from zsm.training.config import Data, Run, Start, TrainingConfig
from zsm.training.data import Frames, to_tensor
from zsm.training.distributed import Processes
from zsm.training.losses import Objective
from zsm.training.schedule import Schedule
from zsm.training.sources import Sources
from zsm.training.step import Batch, Step
from zsm.training.trainer import Trainer

STEPS = 24
NETWORK = NetworkConfig(
    width=8,
    extraction_blocks=1,
    reconstruction_blocks=1,
    deformable_groups=2,
    base="bicubic",
    recurrence="plain",
    bidirectional=False,
)
# A plain recurrence, because a deformable one takes ten times as long, and the training loop doesn't depend on it.
RUN = f"""
[network]
width = 8
extraction_blocks = 1
reconstruction_blocks = 1
deformable_groups = 2
base = "bicubic"
recurrence = "plain"
bidirectional = false
[loss]
first_order = 0.1
second_order = 0.1
synthesis_blocks = 1
[optimiser]
batch = 2
[schedule]
steps = {STEPS}
warm_up = 2
[run]
log_every = 1
checkpoint_every = 7
validate_every = 16
[data]
crop = 8
candidates = 2
degradation = "noise:5"
hold_out = ["clip2"]
preparation = {{scales = [1.0], least_side = 32}}
"""
ZSM = str(Path(sys.executable).with_name("zsm"))
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--no-python", "--standalone", "--nproc-per-node=2"]


def arguments(config: Path, data: Path, out: Path) -> list[str]:
    return ["train", str(config), "--data", str(data), "--out", str(out), "--threads", "1"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "run.toml"
    path.write_text(RUN)
    return path


@pytest.fixture(scope="module")
def whole_run(config: Path, footage_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert main(arguments(config, footage_folder, out)) == 0
    return out


def kill_at_step_10(command: list[str]) -> None:
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if " step 10," in line:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL


def test_a_killed_and_resumed_run_gives_the_same_bits(
    config: Path, footage_folder: Path, whole_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kill_at_step_10([ZSM, *arguments(config, footage_folder, tmp_path)])
    before = torch.load(tmp_path / "state.pt", weights_only=True)
    assert before["progress"]["step"] in (7, 14, 21)
    with caplog.at_level(logging.INFO, "zsm"):
        assert main(arguments(config, footage_folder, tmp_path)) == 0
    assert f"resuming at step {before['progress']['step']}" in caplog.text
    states = [torch.load(run / "state.pt", weights_only=True) for run in (whole_run, tmp_path)]
    for part in ("objective", "average", "adam"):
        torch.testing.assert_close(states[0][part], states[1][part], rtol=0, atol=0)
    weights = [load_file(run / "latest.safetensors") for run in (whole_run, tmp_path)]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_a_part_of_the_weights_can_be_kept(config: Path, footage_folder: Path, tmp_path: Path) -> None:
    """What is saved lies that far from the trained weights on the way back to the first ones."""
    torch.manual_seed(1)
    checkpoint.save(Network(NETWORK), tmp_path / "first.safetensors")
    short = RUN.replace(f"steps = {STEPS}", "steps = 3")
    for keep in (0, 0.25):
        run = tmp_path / f"{keep}.toml"
        run.write_text(f'{short}[start]\nweights = "{tmp_path}/first.safetensors"\nkeep = {keep}\n')
        assert main(arguments(run, footage_folder, tmp_path / str(keep))) == 0
    first, trained, kept = (
        load_file(tmp_path / f"{name}.safetensors") for name in ("first", "0/latest", "0.25/latest")
    )
    assert any((trained[name] != first[name]).any() for name in first)
    expected = {name: 0.25 * first[name] + 0.75 * trained[name] for name in first}
    torch.testing.assert_close(kept, expected, rtol=0, atol=1e-7)


def distance(run: Path, other: Path) -> float:
    """How far two runs' weights ended from each other, relative to what the first one learnt."""
    torch.manual_seed(0)
    initially = Network(NETWORK).state_dict()
    one, two = (
        torch.load(folder / "state.pt", weights_only=True, map_location="cpu")["objective"] for folder in (run, other)
    )
    learnt = torch.cat([(one[f"network.{name}"] - initially[name]).flatten() for name in initially])
    difference = torch.cat([(one[f"network.{name}"] - two[f"network.{name}"]).flatten() for name in initially])
    return float(difference.norm() / learnt.norm())


def test_two_processes_learn_the_same_as_one(
    config: Path, footage_folder: Path, whole_run: Path, tmp_path: Path
) -> None:
    command = [*TORCHRUN, ZSM, *arguments(config, footage_folder, tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert distance(whole_run, tmp_path) < 0.02


@pytest.mark.gpu
def test_a_killed_and_resumed_run_on_a_gpu_learns_what_a_cpu_does(
    config: Path, footage_folder: Path, whole_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch_cuda()
    on_gpu = [*arguments(config, footage_folder, tmp_path), "--device", "cuda"]
    kill_at_step_10([ZSM, *on_gpu])
    saved = torch.load(tmp_path / "state.pt", weights_only=True)["progress"]["step"]
    with caplog.at_level(logging.INFO, "zsm"):
        assert main(on_gpu) == 0
    assert f"resuming at step {saved}" in caplog.text
    assert distance(whole_run, tmp_path) < 0.1


def test_the_weights_file_records_its_training(whole_run: Path) -> None:
    path = whole_run / "latest.safetensors"
    metadata = checkpoint.metadata(path)
    assert metadata["steps"] == str(STEPS)
    assert '"first_order": 0.1' in metadata["training"]
    assert '"name": "clip2"' in metadata["validation"]
    assert checkpoint.load(path).config == NETWORK
    assert not any("synthesis" in name for name in load_file(path))


@pytest.mark.filterwarnings("default")  # TensorBoard's own reader warns
def test_tensorboard_reads_curves_and_pictures(config: Path, footage_folder: Path, whole_run: Path) -> None:
    """Also after the finished run's command was repeated."""
    assert main(arguments(config, footage_folder, whole_run)) == 0
    events = EventAccumulator(str(whole_run / "logs")).Reload()
    assert {"training/total", "training/learning rate", "held out/original gain"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("held out/clip2")] == [0, 16, STEPS]
    assert events.Images("held out/clip2")[0].width == 3 * 80


def fails(config: Path, data: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Train, expecting failure, and return the message, the last line on standard error."""
    assert main(arguments(config, data, out)) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("zsm train: ")
    return message


def test_another_configuration_does_not_resume_a_run(
    whole_run: Path, footage_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(RUN.replace("batch = 2", "batch = 4"))
    assert "another optimiser.batch" in fails(other, footage_folder, whole_run, capsys)


def test_a_run_that_is_refused_leaves_prepared_footage_alone(
    whole_run: Path, footage_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (whole_run / "footage").rglob("*")}
    assert len(before) > 3
    for change, message in (
        (("least_side = 32", "least_side = 32, still = 0.2"), "another data.preparation"),
        (("[data]", '[start]\nweights = "nowhere.safetensors"\n[data]'), "another start.weights"),
    ):
        other = tmp_path / "other.toml"
        other.write_text(RUN.replace(*change))
        assert message in fails(other, footage_folder, whole_run, capsys)
    assert {path: path.stat().st_mtime_ns for path in (whole_run / "footage").rglob("*")} == before


def test_a_run_from_before_a_setting_existed_goes_on(
    config: Path, footage_folder: Path, whole_run: Path, tmp_path: Path
) -> None:
    content = torch.load(whole_run / "state.pt", weights_only=True)
    del content["config"]["loss"]["form"], content["config"]["data"]["preparation"]["compressed"]
    torch.save(content, tmp_path / "state.pt")
    assert main(arguments(config, footage_folder, tmp_path)) == 0


def test_a_resumed_run_needs_its_first_weights_no_more(footage_folder: Path, tmp_path: Path) -> None:
    first, config, out = tmp_path / "first.safetensors", tmp_path / "run.toml", tmp_path / "out"
    checkpoint.save(Network(NETWORK), first)
    short = RUN.replace(f"steps = {STEPS}", "steps = 3")
    config.write_text(f'{short}[start]\nweights = "{first}"\nkeep = 0.25\n')
    assert main(arguments(config, footage_folder, out)) == 0
    began = load_file(first)
    first.unlink()
    assert main(arguments(config, footage_folder, out)) == 0
    torch.testing.assert_close(torch.load(out / "state.pt", weights_only=True)["began"], began, rtol=0, atol=0)


def save_another_dictionary(path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, path)


def save_a_tensor(path: Path) -> None:
    torch.save(torch.zeros(3), path)


def truncate(path: Path) -> None:
    save_another_dictionary(path)
    path.write_bytes(path.read_bytes()[:100])


def write_text(path: Path) -> None:
    path.write_text("q: no pickle, though its first byte is one of a pickle's")


@pytest.mark.parametrize("damage", [save_another_dictionary, save_a_tensor, truncate, write_text])
def test_a_damaged_state_gives_one_message(
    damage: Callable[[Path], None],
    config: Path,
    footage_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(tmp_path / "state.pt")
    assert "state.pt is not a run's state, or is damaged" in fails(config, footage_folder, tmp_path, capsys)


def test_a_state_that_cannot_be_written_gives_one_message(
    config: Path, footage_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state.pt").mkdir()
    assert "can't write" in fails(config, footage_folder, tmp_path, capsys)
    assert not list(tmp_path.glob(".*"))


def test_logs_that_cannot_be_written_give_one_message(
    config: Path, footage_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").write_text("")
    assert f"can't write {tmp_path / 'logs'}" in fails(config, footage_folder, tmp_path, capsys)


def test_a_run_folder_that_cannot_be_made_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    processes = Processes(device=torch.device("cpu"))
    with pytest.raises(OutputError, match="can't make the folder"):
        Trainer(TrainingConfig(network=NETWORK), tmp_path / "file", processes)


def one_septuplet(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Make LR (1,7,3,side,side) and HR (1,7,3,4*side,4*side)."""
    hr = gliding(7, 4 * side, 4 * side)
    return to_tensor(bicubic.resize(hr, 0.25))[None], to_tensor(hr)[None]


@pytest.mark.slow
def test_a_tiny_network_overfits_one_septuplet() -> None:
    torch.manual_seed(0)
    config = NetworkConfig(
        width=24,
        extraction_blocks=1,
        reconstruction_blocks=2,
        deformable_groups=2,
        base="bicubic",
        recurrence="plain",  # ten times faster than a deformable one
    )
    network = initial.network(config, Start(base=True, identity=True))
    objective = Objective(network, (1.0, 0.0, 0.0), 0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    lr, hr = one_septuplet(side=4)
    steps = 200
    schedule = Schedule(steps=steps, learning_rate=4e-3)
    adam = torch.optim.Adam(objective.parameters(), betas=(0.9, 0.99))
    for step in range(steps):
        adam.param_groups[0]["lr"] = schedule.rate(step, 0)
        adam.zero_grad()
        objective(lr[:, ::2], lr, hr).total.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        adam.step()
    with torch.no_grad():
        error = (network(lr[:, ::2]).clamp(0, 1) - hr).square().mean()
    assert -10 * math.log10(error.item()) > 40


def test_a_few_steps_of_the_full_network_lower_the_loss() -> None:
    torch.manual_seed(0)
    objective = Objective(Network(NetworkConfig()), (1.0, 0.0, 0.0), 0)
    lr, hr = one_septuplet(side=4)
    adam = torch.optim.Adam(objective.parameters(), lr=4e-4, betas=(0.9, 0.99))
    losses = []
    for _ in range(3):
        adam.zero_grad()
        loss = objective(lr[:, ::2], lr, hr).total
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]


def test_a_diverging_run_stops_without_saving_its_state(
    footage_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = tmp_path / "wild.toml"
    wild.write_text(RUN.replace("warm_up = 2", "learning_rate = 1e30"))
    out = tmp_path / "out"
    assert "lower schedule.learning_rate" in fails(wild, footage_folder, out, capsys)
    assert not (out / "state.pt").exists()


def test_an_error_in_a_worker_gives_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(tmp_path / "data/sequences/00001/0001", gliding(7, 24, 48))
    for name in ("sep_trainlist.txt", "sep_testlist.txt"):
        (tmp_path / "data" / name).write_text("00001/0001\n")
    config = tmp_path / "run.toml"
    vimeo = RUN.partition("[data]")[0].replace("[run]", "[run]\nworkers = 1") + '[data]\nlayout = "vimeo"\ncrop = 8\n'
    config.write_text(vimeo)
    assert main(arguments(config, tmp_path / "data", tmp_path / "out")) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith("zsm train: a septuplet has frames of 48x24, too small for crops of 32")


class Deadly:
    """Septuplets that kill whoever reads them."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_killed_worker_gives_one_message(tmp_path: Path) -> None:
    config = TrainingConfig(network=NETWORK, run=Run(workers=1))
    trainer = Trainer(config, tmp_path, Processes(device=torch.device("cpu")))
    with pytest.raises(TrainingError, match=r"one of 1 processes died.*lower run\.workers"):
        trainer.run(Sources(training=Deadly(), held_out=[]))


class Relic:
    """Writes down the process in which it is collected, like an object whose threads only one process has."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __del__(self) -> None:
        with self._path.open("a") as file:
            print(os.getpid(), file=file)


class Collecting(Ramp):
    """Septuplets whose reader collects all garbage."""

    def __getitem__(self, number: int) -> tuple[Frames, Frames, Frames]:
        gc.collect()
        return super().__getitem__(number)


def test_a_worker_does_not_collect_the_garbage_of_the_process_that_started_it(tmp_path: Path) -> None:
    """A video decoder's threads aren't in a forked process, which would wait for them forever."""
    knot: list[object] = [Relic(tmp_path / "collected")]
    knot.append(knot)
    config = TrainingConfig(network=NETWORK, data=Data(crop=8), schedule=Schedule(steps=1), run=Run(workers=1))
    trainer = Trainer(config, tmp_path / "run", Processes(device=torch.device("cpu")))
    gc.collect()
    gc.disable()
    try:
        del knot
        trainer.run(Sources(training=Collecting(), held_out=[]))
    finally:
        gc.enable()
    gc.collect()
    assert (tmp_path / "collected").read_text() == f"{os.getpid()}\n"


class Failing(Deadly):
    """Septuplets with a fault of their own."""

    def __getitem__(self, number: int) -> NoReturn:
        raise RuntimeError("a fault")


def test_a_fault_in_a_worker_is_not_taken_for_a_lack_of_memory(tmp_path: Path) -> None:
    trainer = Trainer(
        TrainingConfig(network=NETWORK, run=Run(workers=1)), tmp_path, Processes(device=torch.device("cpu"))
    )
    with pytest.raises(RuntimeError, match="a fault"):
        trainer.run(Sources(training=Failing(), held_out=[]))


def test_too_little_gpu_memory_gives_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(step: Step, batch: Batch, rate: float) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Step, "__call__", fail)
    config = TrainingConfig(network=NETWORK, data=Data(crop=8))
    trainer = Trainer(config, tmp_path, Processes(device=torch.device("cpu")))
    with pytest.raises(OutOfMemoryError, match=r"cpu hasn't enough memory; lower optimiser\.batch"):
        trainer.run(Sources(training=Ramp(), held_out=[]))


def test_a_mistake_gives_one_message_from_each_process(config: Path, tmp_path: Path) -> None:
    command = [*TORCHRUN, ZSM, *arguments(config, tmp_path / "nowhere", tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("zsm train: ")]
    assert any("nowhere" in line for line in said)
    assert "zsm/cli/train.py" not in done.stderr  # no traceback


def test_a_batch_that_cannot_be_divided_among_processes_is_rejected(tmp_path: Path) -> None:
    processes = Processes(device=torch.device("cpu"), count=5)
    with pytest.raises(TrainingError, match="24, which 5 processes"):
        Trainer(TrainingConfig(), tmp_path, processes)
