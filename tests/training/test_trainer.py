"""Training as a user runs it: in folders, killed, resumed, on several processes."""

import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.training.moving import gliding

from zsm.errors import TrainingError
from zsm.evaluation import bicubic
from zsm.export.model import Network, NetworkConfig, checkpoint
from zsm.training import initial
from zsm.training.config import Start, TrainingConfig
from zsm.training.data import ImageSeptuplets, to_tensor
from zsm.training.distributed import Processes
from zsm.training.losses import Objective
from zsm.training.schedule import Schedule
from zsm.training.sources import Sources
from zsm.training.trainer import Trainer

STEPS = 24
RUN = f"""
network = {{width = 8, extraction_blocks = 1, reconstruction_blocks = 1, deformable_groups = 2}}
loss = {{first_order = 0.1, second_order = 0.1, synthesis_blocks = 1}}
optimiser.batch = 2
schedule = {{steps = {STEPS}, warm_up = 2}}
run = {{log_every = 1, checkpoint_every = 7, validate_every = 16}}
[data]
crop = 8
candidates = 2
degradation = "noise:5"
hold_out = ["clip2"]
preparation = {{scales = [1.0], least_height = 32}}
"""
TORCHRUN = ("-m", "torch.distributed.run", "--no-python", "--nproc-per-node=2", "--master-port=29533")


def command(config: Path, data: Path, out: Path) -> list[str]:
    zsm = str(Path(sys.executable).with_name("zsm"))
    return [zsm, "train", str(config), "--data", str(data), "--out", str(out), "--threads", "1"]


def train(config: Path, data: Path, out: Path, launcher: tuple[str, ...] = ()) -> str:
    line = command(config, data, out)
    if launcher:
        line = [sys.executable, *launcher, *line]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "run.toml"
    path.write_text(RUN)
    return path


@pytest.fixture(scope="module")
def whole_run(config: Path, footage_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(config, footage_folder, out)
    return out


def test_a_killed_and_resumed_run_gives_the_same_bits(
    config: Path, footage_folder: Path, whole_run: Path, tmp_path: Path
) -> None:
    with subprocess.Popen(command(config, footage_folder, tmp_path), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if " step 10," in line:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    before = torch.load(tmp_path / "state.pt", weights_only=True)
    assert before["progress"]["step"] in (7, 14)
    assert "going on from step" in train(config, footage_folder, tmp_path)
    states = [torch.load(run / "state.pt", weights_only=True) for run in (whole_run, tmp_path)]
    for part in ("objective", "average", "adam"):
        torch.testing.assert_close(states[0][part], states[1][part], rtol=0, atol=0)
    weights = [load_file(run / "latest.safetensors") for run in (whole_run, tmp_path)]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_two_processes_learn_what_one_does(config: Path, footage_folder: Path, whole_run: Path, tmp_path: Path) -> None:
    train(config, footage_folder, tmp_path, TORCHRUN)
    torch.manual_seed(0)
    begun = Network(checkpoint.load(whole_run / "latest.safetensors").config).state_dict()
    one, two = (torch.load(run / "state.pt", weights_only=True)["objective"] for run in (whole_run, tmp_path))
    learnt = torch.cat([(one[f"network.{name}"] - begun[name]).flatten() for name in begun])
    apart = torch.cat([(one[f"network.{name}"] - two[f"network.{name}"]).flatten() for name in begun])
    assert apart.norm() < 0.02 * learnt.norm()


def test_the_weights_say_how_they_came_about(whole_run: Path) -> None:
    path = whole_run / "latest.safetensors"
    said = checkpoint.metadata(path)
    assert said["steps"] == str(STEPS)
    assert '"first_order": 0.1' in said["training"]
    assert '"name": "clip2"' in said["validation"]
    network = checkpoint.load(path)
    assert network.config == NetworkConfig(width=8, extraction_blocks=1, reconstruction_blocks=1, deformable_groups=2)
    assert not any("synthesis" in name for name in load_file(path))


@pytest.mark.filterwarnings("default")  # TensorBoard's own reader warns
def test_tensorboard_finds_curves_and_pictures(whole_run: Path) -> None:
    events = EventAccumulator(str(whole_run / "logs")).Reload()
    assert {"training/total", "training/learning rate", "held out/original gain"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("held out/clip2")] == [0, 16, STEPS]
    assert events.Images("held out/clip2")[0].width == 3 * 80


def test_another_configuration_does_not_go_on_from_a_run(whole_run: Path, footage_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(RUN.replace("batch = 2", "batch = 4"))
    done = subprocess.run(
        command(other, footage_folder, whole_run), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1
    assert "another optimiser.batch" in done.stderr
    assert "Traceback" not in done.stderr


def one_septuplet(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """LR (1,7,3,side,side) and HR."""
    hr = gliding(7, 4 * side, 4 * side)
    return to_tensor(bicubic.resize(hr, 0.25))[None], to_tensor(hr)[None]


def test_a_tiny_network_overfits_one_septuplet() -> None:
    """With a plain recurrence: with an aligned one, as many steps take ten times as long."""
    torch.manual_seed(0)
    config = NetworkConfig(
        width=24,
        extraction_blocks=1,
        reconstruction_blocks=2,
        deformable_groups=2,
        base="bicubic",
        recurrence="plain",
    )
    network = initial.network(config, Start(base=True, identity=True))
    objective = Objective(network, (1.0, 0.0, 0.0), 0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    lr, hr = one_septuplet(side=4)
    schedule = Schedule(steps=200, learning_rate=4e-3)
    adam = torch.optim.Adam(objective.parameters(), betas=(0.9, 0.99))
    for step in range(schedule.steps):
        adam.param_groups[0]["lr"] = schedule.rate(step, 0)
        adam.zero_grad()
        objective(lr, hr).total.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        adam.step()
    with torch.no_grad():
        error = (network(lr[:, ::2]).clamp(0, 1) - hr).square().mean()
    assert -10 * math.log10(error.item()) > 40


def test_a_few_steps_of_the_full_network_lower_the_loss() -> None:
    torch.manual_seed(0)
    objective = Objective(Network(NetworkConfig()), (1.0, 0.0, 0.0), 0)
    lr, hr = one_septuplet(side=8)
    adam = torch.optim.Adam(objective.parameters(), lr=4e-4, betas=(0.9, 0.99))
    losses = []
    for _ in range(3):
        adam.zero_grad()
        loss = objective(lr, hr).total
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]


def test_a_run_whose_loss_is_no_number_stops_and_saves_nothing_of_it(
    config: Path, footage_folder: Path, tmp_path: Path
) -> None:
    wild = tmp_path / "wild.toml"
    wild.write_text(RUN.replace("warm_up = 2", "warm_up = 0, learning_rate = 1e30"))
    out = tmp_path / "out"
    done = subprocess.run(command(wild, footage_folder, out), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "lower schedule.learning_rate" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (out / "state.pt").exists()


def test_processes_that_cannot_share_a_batch_evenly_are_refused(tmp_path: Path) -> None:
    processes = Processes(device=torch.device("cpu"), count=5)
    nothing = Sources(training=ImageSeptuplets([]), held_out=[])
    with pytest.raises(TrainingError, match="24, which 5 processes"):
        Trainer(TrainingConfig(), nothing, tmp_path, processes)
