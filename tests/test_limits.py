"""Control groups limit the cores and the memory that this process takes into account."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from zsm import limits
from zsm.engine import Runtime, host
from zsm.runtime.video import Encoding, encoders, images, open_source


@pytest.fixture(autouse=True)
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of control groups; 64 processors, for a process whose group is `box/inner` in either version."""
    (tmp_path / "membership").write_text(
        "5:cpu,cpuacct:/box/inner\n4:memory:/box/inner\n1:name=systemd:/\n0::/box/inner"
    )
    monkeypatch.setattr(limits, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(limits, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    return tmp_path / "groups"


def write(group: Path, **values: str) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (group / name.replace("__", ".")).write_text(f"{value}\n")


def test_without_a_quota_all_cores_count(groups: Path) -> None:
    assert limits.cores() == 64
    write(groups / "box", cpu__max="max 100000")
    write(groups / "cpu" / "box", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert limits.cores() == 64


@pytest.mark.parametrize(("quota", "cores"), [("200000", 2), ("250000", 3), ("50000", 1), ("9900000", 64)])
@pytest.mark.parametrize("place", ["box/inner", "box", "."])
def test_a_quota_counts_in_whole_cores(groups: Path, place: str, quota: str, cores: int) -> None:
    """Rounded up, whichever of the groups around the process has it."""
    write(groups / place, cpu__max=f"{quota} 100000")
    assert limits.cores() == cores


@pytest.mark.parametrize("place", ["box/inner", "box", "."])
def test_a_quota_of_version_1(groups: Path, place: str) -> None:
    write(groups / "cpu" / place, cpu__cfs_quota_us="150000", cpu__cfs_period_us="50000")
    assert limits.cores() == 3


def test_the_smallest_limit_counts(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(groups / "box", cpu__max="300000 100000")
    write(groups / "box" / "inner", cpu__max="500000 100000")
    assert limits.cores() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    assert limits.cores() == 2


def test_an_encoder_has_a_thread_per_core_of_the_quota(groups: Path, tmp_path: Path) -> None:
    images.write(tmp_path / "images" / "0.png", np.zeros((4, 4, 3), np.uint8))
    info = open_source(str(tmp_path / "images")).info
    assert encoders.plan(Encoding(), info, ".mkv", Fraction(25), 4).threads == encoders.MOST_THREADS
    write(groups / "box", cpu__max="200000 100000")
    assert encoders.plan(Encoding(), info, ".mkv", Fraction(25), 4).threads == 2


@pytest.mark.skipif(os.cpu_count() == 1, reason="a machine with one core")
def test_onnx_runtime_has_a_thread_per_core_of_the_quota(groups: Path, tiny_bundle: Path) -> None:
    write(groups / "box", cpu__max="100000 100000")
    before = threads()
    with Runtime(tiny_bundle, backend="onnxruntime") as rt:
        assert rt.describe()["threads"] == 1
        assert threads() == before
    (groups / "box" / "cpu.max").unlink()
    with Runtime(tiny_bundle, backend="onnxruntime") as rt:
        assert rt.describe()["threads"] == "all cores"
        assert threads() > before


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.parametrize(
    ("place", "limit", "used"),
    [("box", "memory__max", "memory__current"), ("memory/box", "memory__limit_in_bytes", "memory__usage_in_bytes")],
)
def test_a_limit_of_memory_counts(groups: Path, place: str, limit: str, used: str) -> None:
    write(groups / place, **{limit: "80000000", used: "30000000"})
    assert host.free_memory() == 50_000_000
    write(groups / place, memory__stat="inactive_file 7000000")
    assert host.free_memory() == 57_000_000
