"""scripts/kernel_report.py: how it reads a listing, and that the kernels keep its limits."""

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.needs import missing

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "kernel_report.py"


@pytest.fixture(scope="module")
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kernel_report", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def listing(*instructions: str) -> str:
    lines = (f"        /*{16 * i:04x}*/                   {text} ;   /* 0x0 */" for i, text in enumerate(instructions))
    return "\n".join(lines)


LOAD = "LDG.E.128 R4, desc[UR6][R8.64]"


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        (("MOV R1, R2", *[LOAD] * 4, "FADD R1, R1, R2", "@P0 BRA 0x10", "EXIT"), (6, 0)),
        (("FADD R1, R1, R2", *[LOAD] * 8, "@!P0 BRA 0x0", "@P1 BRA 0x0"), (5, 0)),  # the inner of two loops
        (("FADD R1, R1, R2", "@P0 BRA 0x30", *[LOAD] * 4, "@P0 BRA 0x0"), (7, 1)),
        (("FADD R1, R1, R2", *[LOAD] * 4, "CALL.REL.NOINC 0x8550", "@P0 BRA 0x0"), (7, 1)),
        ((*[LOAD] * 4, "@P0 BRA 0x60", "EXIT"), None),  # no loop
        (("FADD R1, R1, R2", "@P0 BRA 0x0"), None),  # no loads
    ],
)
def test_gather_loop_in_a_listing(
    report: ModuleType, instructions: tuple[str, ...], expected: tuple[float, int] | None
) -> None:
    assert report.gather_loop(listing(*instructions)) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"registers": 81}, "fused 64/8 on sm_90: 81 registers, at most 80"),
        ({"spilled": 4}, "fused 64/8 on sm_90: 4 spilled, at most 0"),
        ({"instructions": 80.5}, "fused 64/8 on sm_90: 80.5 instructions, at most 80"),
        ({"branches": 1}, "fused 64/8 on sm_90: 1 branches, at most 0"),
        ({"branches": None}, "fused 64/8 on sm_90: branches unknown, no gather loop found"),
        ({"kernel": "plain FP16", "registers": 81}, None),
        ({"architecture": "sm_75", "registers": 81}, None),
        ({}, None),
    ],
)
def test_limits(report: ModuleType, change: dict[str, object], message: str | None) -> None:
    usage = {"kernel": "fused 64/8", "architecture": "sm_90", "registers": 80, "spilled": 0}
    usage |= {"instructions": 80, "branches": 0} | change
    assert report.Usage(**usage).excesses() == ([message] if message else [])


def test_kernels_keep_to_their_limits(
    report: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not shutil.which("nvcc"):
        missing("nvcc", "nvcc is not installed")
    try:
        report.disassembler()
    except SystemExit as absent:
        missing("nvcc", str(absent))
    monkeypatch.setattr(sys, "argv", ["kernel_report.py", "--architectures", "90"])
    report.main()
    assert "fused 64/8" in capsys.readouterr().out
