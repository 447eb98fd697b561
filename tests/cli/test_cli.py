"""The command line as a user meets it: in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from zsm.cli import COMMANDS, main
from zsm.engine import Bundle
from zsm.export.model import Network, checkpoint

HEAVY = {"torch", "onnx", "onnxruntime", "av", "cv2", "scenedetect", "numpy", "rich"}


def zsm(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from zsm.cli import main; sys.exit(main())", *map(str, arguments)]
    env = {**os.environ, "COLUMNS": "120", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


@pytest.mark.parametrize(
    "code",
    [
        "import zsm",
        "from zsm.cli import main; main(['--help'])",
        "from zsm.cli import main; main(['bench', '--help'])",
        "from zsm.cli import main; main(['run', '--help'])",
    ],
)
def test_import_and_help_load_no_heavy_module(code: str) -> None:
    script = f"import sys\ntry:\n {code}\nexcept SystemExit: pass\nprint(sorted({HEAVY} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_names_every_command() -> None:
    text = zsm("--help").stdout
    for command in COMMANDS:
        assert f"\n    {command} " in text


def test_info(tiny_bundle: Path) -> None:
    assert json.loads(zsm("info", tiny_bundle, "--json").stdout)["network"]["width"] == 8
    text = zsm("info", tiny_bundle, "--size", "480x270").stdout
    gflop = Bundle(tiny_bundle).manifest.stages["propagate"].flop_per_pixel * 480 * 270 / 1e9
    assert f"{gflop:.2f}" in text


def test_bench(tiny_bundle: Path) -> None:
    done = zsm("bench", tiny_bundle, "--size", "8x8", "--length", "2", "--repeats", "1", "--json")
    result = json.loads(done.stdout)
    assert result["outputs"] == 3
    assert result["machine"]["cores"] >= 1
    assert result["latency"]["frames"] == 3
    assert 0 < result["latency"]["milliseconds"]["min"] <= result["latency"]["milliseconds"]["max"]


def test_doctor_says_that_the_cpu_works() -> None:
    done = zsm("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0
    assert checks["onnxruntime"]["works"]


def test_doctor_says_what_is_broken(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libfoo.so is missing')")
    done = zsm("doctor", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "libfoo.so is missing" in done.stdout
    assert "pip install 'zsm[cpu]'" in done.stdout


def test_export(bicubic_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "weights.safetensors"
    checkpoint.save(Network(Bundle(bicubic_bundle).network), weights)
    arguments = ["--weights", weights, "--fp16", "--out", tmp_path / "bundle", "--licence", "CC0"]
    assert main(["export", *map(str, arguments)]) == 0
    printed = capsys.readouterr()
    assert "verified" in printed.err
    assert printed.out.strip() == str(tmp_path / "bundle")
    manifest = Bundle(tmp_path / "bundle").manifest
    assert (manifest.precision, manifest.licence) == ("fp16", "CC0")


def without(packages: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`zsm`, where some packages aren't installed."""
    hide = f"""
import sys
sys.modules.update(dict.fromkeys({packages.split()!r}))
from zsm.cli import main
sys.exit(main())
"""
    command = [sys.executable, "-c", hide, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def test_a_package_that_is_missing_is_named_with_its_extra(tiny_bundle: Path) -> None:
    done = without("onnxruntime openvino", "bench", tiny_bundle)
    assert done.returncode == 1
    assert done.stderr == "zsm bench: onnxruntime isn't installed: pip install 'zsm[cpu]'\n"


def test_building_engines_without_tensorrt_says_what_to_install(tiny_bundle: Path, tmp_path: Path) -> None:
    done = without("tensorrt", "build", tiny_bundle, "--size", "64x64", ZSM_CACHE=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("zsm build: TensorRT can't be imported (")
    assert done.stderr.count("\n") == 1
    advice = "install 10.1 to 11 (pip install tensorrt); to run a bundle without TensorRT, give --backend onnxruntime"
    assert done.stderr.endswith(f"); {advice}\n")
    assert list(tmp_path.iterdir()) == []


def test_info_prints_text_as_it_is(edit_manifest: Callable[..., Path]) -> None:
    assert "see [/x] [red]" in zsm("info", edit_manifest(licence="see [/x] [red]")).stdout


def test_a_full_disk_is_explained() -> None:
    code = "import sys; from zsm.cli import main; sys.exit(main())"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, "info", "compact"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "zsm info: [Errno 28] No space left on device\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "{bundle}", "--size", "9999999x9999999"), "not enough memory"),
        (("weights", "fetch", "--url", ""), "can't be fetched"),
        (("export", "--weights", "nothing.pth", "--out", "out"), "no weights file nothing.pth"),
        (("weights", "fetch", "--url", "http://127.0.0.1:9/x"), "can't be fetched"),
    ],
)
def test_a_failure_is_explained(arguments: tuple[str, ...], message: str, tiny_bundle: Path, tmp_path: Path) -> None:
    done = zsm(*(a.format(bundle=tiny_bundle) for a in arguments), ZSM_CACHE=str(tmp_path))
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count(f"zsm {arguments[0]}: ") == 1
