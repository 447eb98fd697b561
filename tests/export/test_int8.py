"""INT8: the graphs against NumPy's arithmetic, the choice of layers, and the command."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from zsm.cli import main
from zsm.engine import Bundle, Runtime, host
from zsm.engine.backends import uint8
from zsm.errors import ArgumentError, DataError
from zsm.export import export_weights
from zsm.export.int8 import Int8Options, graphs, plan, samples, trials
from zsm.export.int8.ranges import Histogram
from zsm.export.model import Network, NetworkConfig, checkpoint
from zsm.runtime.video import images

Array = NDArray[np.float32]

STAGES = ("extract", "interpolate", "propagate", "reconstruct")


def run(model: ModelProto, inputs: dict[str, Array], *, optimise: bool = True) -> list[Array]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    found: list[Array] = ort.InferenceSession(model.SerializeToString(), options).run(None, inputs)
    return found


def small_graph(generator: np.random.Generator) -> ModelProto:
    """Two convolutions with a Relu between them, and an addition around both."""
    weights = {f"{name}.weight": generator.normal(size=(4, 4, 3, 3)) for name in ("blocks.0.conv1", "blocks.0.conv2")}
    weights |= {f"{name}.bias": generator.normal(size=4) for name in ("blocks.0.conv1", "blocks.0.conv2")}
    nodes = [
        helper.make_node("Conv", ["x", "blocks.0.conv1.weight", "blocks.0.conv1.bias"], ["a"], "one", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "blocks.0.conv2.weight", "blocks.0.conv2.bias"], ["c"], "two", pads=[1] * 4),
        helper.make_node("Add", ["x", "c"], ["y"], "add"),
    ]
    shape = [1, 4, 6, 7]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def convolve(x: Array, weight: Array, bias: Array) -> Array:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    found: Array = np.einsum("nchwij,ocij->nohw", windows, weight) + bias[:, None, None]
    return found


def rounded(values: Array, scale: Any) -> Array:
    found: Array = np.clip(np.round(values / scale), -128, 127) * scale
    return found


def test_int8_graphs_compute_what_numpy_computes() -> None:
    generator = np.random.default_rng(0)
    model = small_graph(generator)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    ranges = {"x": 3.0, "a": 20.0, "b": 20.0, "c": 60.0, "y": 60.0}
    quantised = graphs.quantise(model, ["one", "two"], ranges)
    x = generator.normal(size=(1, 4, 6, 7)).astype(np.float32)

    def weight(name: str) -> Array:
        scale = np.abs(weights[name]).max((1, 2, 3), keepdims=True) / 127
        return rounded(weights[name], scale)

    scales = {name: np.float32(limit / 127) for name, limit in ranges.items()}
    x8 = rounded(x, scales["x"])
    b = rounded(
        np.maximum(convolve(x8, weight("blocks.0.conv1.weight"), weights["blocks.0.conv1.bias"]), 0), scales["b"]
    )
    c = rounded(convolve(b, weight("blocks.0.conv2.weight"), weights["blocks.0.conv2.bias"]), scales["c"])
    (found,) = run(quantised, {"x": x}, optimise=False)
    # Values that lie on the border between two steps may be rounded either way.
    assert np.abs(found - (x8 + c)).max() <= 1.01 * scales["c"]
    assert np.mean(np.abs(found - (x8 + c)) < 1e-4) > 0.98


def test_weights_and_activations_are_int8_as_tensorrt_takes_them() -> None:
    quantised = graphs.quantise(small_graph(np.random.default_rng(0)), ["one", "two"], dict.fromkeys("xabcy", 4.0))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantised.graph.initializer}
    for node in quantised.graph.node:
        if node.op_type == "QuantizeLinear":
            assert constants[node.input[1]].shape == ()
            assert constants[node.input[2]].dtype == np.int8
            assert constants[node.input[2]] == 0
    kernels = [values for values in constants.values() if values.ndim == 4]
    assert {values.dtype for values in kernels} == {np.dtype(np.int8)}
    assert (
        sum(values.shape == (4,) and values.dtype == np.float32 for values in constants.values()) == 4
    )  # biases, scales
    makers = {name: node.op_type for node in quantised.graph.node for name in node.output}
    relu = next(node for node in quantised.graph.node if node.op_type == "Relu")
    assert makers[relu.input[0]] == "Conv"  # nothing between the two, so that libraries fuse them
    onnx.checker.check_model(quantised, full_check=True)


def test_uint8_activations_are_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "adds_products_in_16_bits", lambda: False)
    generator = np.random.default_rng(1)
    model = small_graph(generator)
    x = generator.normal(size=(1, 4, 6, 7)).astype(np.float32)
    ranges = {"x": 4.0, "a": 30.0, "b": 30.0, "c": 120.0, "y": 120.0}  # nothing is clipped
    quantised = graphs.quantise(model, ["one", "two"], ranges)
    rewritten = ModelProto()
    rewritten.CopyFrom(quantised)
    uint8.rewrite(rewritten)
    step = ranges["c"] / 127
    (int8_form,) = run(quantised, {"x": x}, optimise=False)
    for optimise in (False, True):
        (uint8_form,) = run(rewritten, {"x": x}, optimise=optimise)
        assert np.abs(uint8_form - int8_form).max() <= 1.01 * step
    kinds = {numpy_helper.to_array(t).dtype for t in rewritten.graph.initializer if "zero_point" in t.name}
    assert kinds == {np.dtype(np.uint8), np.dtype(np.int8)}


@pytest.mark.parametrize("narrow", [None, True], ids=["this processor", "one without VNNI"])
def test_sums_of_products_do_not_overflow(narrow: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large inputs times large weights of one sign: 255 * 127 + 255 * 127 needs 17 bits."""
    if narrow is not None:
        monkeypatch.setattr(host, "adds_products_in_16_bits", lambda: narrow)
    model = small_graph(np.random.default_rng(0))
    for tensor in model.graph.initializer:
        positive = np.abs(numpy_helper.to_array(tensor)) + 1
        tensor.CopyFrom(numpy_helper.from_array(positive, tensor.name))
    x = np.random.default_rng(1).uniform(2, 3, (1, 4, 6, 7)).astype(np.float32)
    limits = {"x": 3.0, "a": 200.0, "b": 200.0, "c": 12_000.0, "y": 12_000.0}
    quantised = graphs.quantise(model, ["one", "two"], limits)
    (exact,) = run(quantised, {"x": x}, optimise=False)
    uint8.rewrite(quantised)
    weights = [numpy_helper.to_array(tensor) for tensor in quantised.graph.initializer if len(tensor.dims) == 4]
    largest = max(np.abs(weight.astype(int)).max() for weight in weights)
    assert largest == (64 if host.adds_products_in_16_bits() else 127)
    (found,) = run(quantised, {"x": x})
    np.testing.assert_allclose(found, exact, rtol=0.01, atol=1.01 * limits["c"] / 127)


def test_between_int8_convolutions_nothing_returns_to_float() -> None:
    quantised = graphs.quantise(small_graph(np.random.default_rng(0)), ["one", "two"], dict.fromkeys("xabcy", 4.0))
    assert Counter(node.op_type for node in quantised.graph.node)["QuantizeLinear"] == 3  # x, b, c
    untouched = graphs.quantise(small_graph(np.random.default_rng(0)), [], {})
    assert "QuantizeLinear" not in {node.op_type for node in untouched.graph.node}


@pytest.mark.parametrize("chunks", [1, 7])
def test_histograms_keep_what_matters_however_values_arrive(chunks: int) -> None:
    values = np.random.default_rng(2).normal(size=200_000).astype(np.float32)
    values[-1] = 40  # an outlier
    histogram = Histogram()
    for part in np.array_split(values, chunks):
        histogram.add(part)
    assert histogram.limit("minmax") == 40
    exact = np.quantile(np.abs(values), 0.99999)
    assert histogram.limit("percentile") == pytest.approx(exact, rel=0.05)
    assert histogram.limit("mse") < 20  # clipping one value costs less than a coarser step for all others

    def error(limit: float) -> float:
        scale = limit / 127
        return float(np.square(values - scale * np.clip(np.round(values / scale), -127, 127)).sum())

    candidates = [40 * part for part in np.linspace(0.3, 1, 71)]
    assert error(histogram.limit("mse")) <= 1.05 * min(map(error, candidates))


@pytest.fixture(scope="session")
def moving_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of textures that move, 96x80."""
    root = tmp_path_factory.mktemp("calibration")
    generator = np.random.default_rng(3)
    for name in ("left", "down"):
        texture = cv2.GaussianBlur(generator.integers(0, 256, (140, 160, 3), np.uint8), (0, 0), 1.5)
        (root / name).mkdir()
        for number in range(9):
            shift = (0, 3 * number) if name == "left" else (3 * number, 0)
            frame = np.ascontiguousarray(texture[shift[0] : shift[0] + 80, shift[1] : shift[1] + 96])
            cv2.imwrite(str(root / name / f"{number}.png"), frame)
    return root


CONFIG = NetworkConfig(
    width=8,
    extraction_blocks=1,
    reconstruction_blocks=2,
    deformable_groups=2,
    interpolation="naive",
    recurrence="plain",
)
"""Every stage, in few blocks: each costs a run of the network."""


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "int8.safetensors"
    torch.manual_seed(0)
    checkpoint.save(Network(CONFIG), path)
    return path


@pytest.fixture(scope="session")
def bundle(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_weights(weights, tmp_path_factory.mktemp("bundles") / "int8").bundle


def test_the_budget_is_kept_and_recorded(bundle: Bundle, moving_clips: Path) -> None:
    chosen = plan(bundle, samples.read(moving_clips), Int8Options(clips=moving_clips, budget=0.05))
    quantisation = chosen.quantisation
    assert quantisation.loss <= 0.05
    assert quantisation.worst <= 0.15
    blocks = {(block.stage, block.block): block for block in quantisation.blocks}
    assert {stage for stage, _ in blocks} == set(STAGES)
    assert blocks["reconstruct", "blocks.0"].layers == 2
    assert sum(block.share for block in blocks.values()) == pytest.approx(1)
    admitted = {key for key, block in blocks.items() if block.admitted}
    for stage in STAGES:
        model = onnx.load_from_string(bundle.read(stage))
        expected = {layer.node for layer in graphs.layers(model) if (stage, layer.block) in admitted}
        assert set(chosen.convolutions.get(stage, ())) == expected
    stricter = plan(
        bundle, samples.read(moving_clips), Int8Options(clips=moving_clips, budget=0.001, stages=("reconstruct",))
    )
    assert stricter.quantisation.share <= quantisation.share
    assert {block.stage for block in stricter.quantisation.blocks} == {"reconstruct"}


@pytest.mark.slow
@pytest.mark.parametrize("precision", [[], ["--fp16"]], ids=["fp32", "fp16"])
def test_exporting_an_int8_bundle(
    precision: list[str], weights: Path, moving_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    arguments = ["export", "--weights", weights, "--int8", "--calibrate", moving_clips, "--int8-budget", "0.5"]
    report = tmp_path / "report.svg"
    assert main([*map(str, [*arguments, *precision, "--out", out, "--report", report]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bundle"] == str(out)
    bundle = Bundle(out)
    assert bundle.manifest.precision == ("fp16" if precision else "fp32")
    assert bundle.manifest.quantisation is not None
    assert bundle.manifest.quantisation.share > 0.5
    assert report.read_text().count("<rect") == 1 + len(bundle.manifest.quantisation.blocks)
    model = onnx.load_from_string(bundle.read("reconstruct"))
    onnx.checker.check_model(model)
    kinds = {numpy_helper.to_array(tensor).dtype for tensor in model.graph.initializer}
    assert np.dtype(np.int8) in kinds
    assert (np.dtype(np.float16) in kinds) == bool(precision)
    clip = samples.read(moving_clips)[0].lr
    with Runtime(out, threads=1) as rt:
        assert rt.describe()["int8"] == bundle.manifest.quantisation.share
        assert rt(clip).shape == (7, 4 * clip.shape[1], 4 * clip.shape[2], 3)
    assert main(["info", str(out)]) == 0
    text = capsys.readouterr().out
    assert "int8 (" in text
    assert "blocks.0" in text


@pytest.mark.slow
def test_int8_loses_what_the_manifest_says(bundle: Bundle, moving_clips: Path, weights: Path, tmp_path: Path) -> None:
    """Measured again on the finished bundles, through the public Runtime."""
    arguments = ["--weights", weights, "--out", tmp_path / "int8", "--int8", "--calibrate", moving_clips]
    assert main(["export", *map(str, arguments)]) == 0
    manifest = Bundle(tmp_path / "int8").manifest
    assert manifest.quantisation is not None
    losses: dict[str, list[float]] = {}
    with Runtime(bundle.path, threads=1) as exact, Runtime(tmp_path / "int8", threads=1) as quantised:
        for sample in samples.read(moving_clips):
            errors = [
                [
                    np.mean((_luma(frame) - _luma(truth)) ** 2)
                    for frame, truth in zip(rt(sample.lr), sample.truth, strict=True)
                ]
                for rt in (exact, quantised)
            ]
            losses.setdefault(sample.clip, []).append(float(np.mean(10 * np.log10(np.array(errors[1]) / errors[0]))))
    assert np.mean([np.mean(each) for each in losses.values()]) == pytest.approx(manifest.quantisation.loss, abs=1e-6)


def _luma(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    return 16 + frame @ (np.array([65.481, 128.553, 24.966]) / 255)


def _write(folder: Path, frames: list[NDArray[np.uint8]]) -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{number}.png"), frame)


def noise(height: int = 80, width: int = 96) -> NDArray[np.uint8]:
    return np.random.default_rng(4).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([noise()] * 6, "clip clip has fewer than 7 frames"),
        ([noise(40, 40)] * 7, "clip clip is 40x40; calibration needs 64x64"),
        ([np.full((80, 96, 3), 90, np.uint8)] * 7, "clip clip has no 7 frames in a row that show more than one colour"),
        ([*[np.zeros((80, 96, 3), np.uint8)] * 5, noise(), noise()], "clip clip has no 7 frames in a row that show"),
        ([], "no clips in"),
    ],
)
def test_clips_that_say_nothing_are_rejected(
    frames: list[NDArray[np.uint8]], message: str, bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    if frames:
        _write(tmp_path / "data" / "clip", frames)
    with pytest.raises(DataError, match=message):
        samples.read(tmp_path / "data")


def test_all_clips_that_say_nothing_are_named(tmp_path: Path) -> None:
    _write(tmp_path / "short", [noise()] * 6)
    _write(tmp_path / "small", [noise(40, 40)] * 7)
    _write(tmp_path / "usable", [noise()] * 7)
    with pytest.raises(DataError, match=r"^clip short has fewer .*; clip small is 40x40; [^;]*$"):
        samples.read(tmp_path)


def test_of_many_clips_some_are_taken(tmp_path: Path) -> None:
    frame = cv2.imencode(".png", noise(64, 64))[1].tobytes()
    for clip in range(70):
        (tmp_path / f"{clip:02}").mkdir()
        for number in range(7):
            (tmp_path / f"{clip:02}" / f"{number}.png").write_bytes(frame)
    found = [sample.clip for sample in samples.read(tmp_path)]
    assert len(found) == len(set(found)) == samples.MOST


def test_a_sample_takes_one_file_descriptor(bundle: Bundle, moving_clips: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    found, before = samples.read(moving_clips), descriptors()
    measured = trials.Trials(bundle, found)
    assert descriptors() <= before + len(found)
    assert set(measured.psnr({})) == {"left", "down"}


def test_dark_frames_weigh_no_more_than_others(bundle: Bundle, moving_clips: Path) -> None:
    """Where the network is right to a hundredth of a level, int8 may lose 20 dB that nobody sees."""
    [sample, *_] = samples.read(moving_clips)
    measured = trials.Trials(bundle, [sample])
    with Runtime(bundle.path, threads=1) as rt:
        restored: NDArray[Any] = rt(sample.lr)
    exact = trials.Trials(bundle, [replace(sample, truth=restored)])
    assert exact.psnr({}) == {sample.clip: trials.HIGHEST}
    assert measured.psnr({})[sample.clip] < trials.HIGHEST


def test_a_budget_that_admits_nothing_is_an_error(
    bundle: Bundle, moving_clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = trials.Trials.psnr

    def worse(self: trials.Trials, models: Mapping[str, ModelProto]) -> trials.Scores:
        """Rounding may also gain a little, by chance; here it costs a decibel more."""
        return {clip: psnr - bool(models) for clip, psnr in measure(self, models).items()}

    monkeypatch.setattr(trials.Trials, "psnr", worse)
    with pytest.raises(
        ArgumentError, match=r"no layer can be int8 within 1e-12 dB: the most tolerant one loses \S+ dB"
    ):
        plan(bundle, samples.read(moving_clips), Int8Options(clips=moving_clips, budget=1e-12, stages=("extract",)))


def test_a_block_beyond_the_budget_does_not_keep_others_out(
    bundle: Bundle, moving_clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although it would save most per loss."""
    exact = trials.Trials.psnr

    def psnr(self: trials.Trials, models: Mapping[str, ModelProto]) -> trials.Scores:
        loss = 0.11 if "reconstruct" in models else 0.09 if models else 0
        return {clip: psnr - loss for clip, psnr in exact(self, {}).items()}

    monkeypatch.setattr(trials.Trials, "psnr", psnr)
    chosen = plan(bundle, samples.read(moving_clips), Int8Options(clips=moving_clips, budget=0.1)).quantisation
    assert {block.stage for block in chosen.blocks if block.admitted} == set(STAGES) - {"reconstruct"}


def test_a_clip_may_begin_with_a_fade_in(moving_clips: Path, tmp_path: Path) -> None:
    black = [np.zeros((80, 96, 3), np.uint8)] * 30
    moving = [images.read(path).astype(np.uint8) for path in sorted((moving_clips / "left").iterdir())]
    _write(tmp_path / "clip", [*black, *moving])
    found = samples.read(tmp_path)
    assert [sample.clip for sample in found] == ["clip"]
    assert found[0].truth.std((1, 2, 3)).min() > 10


def test_stages_that_the_network_lacks_are_rejected(bicubic_bundle: Path, moving_clips: Path) -> None:
    with pytest.raises(ArgumentError, match="the network has no propagate; choose stages of extract"):
        plan(Bundle(bicubic_bundle), samples.read(moving_clips), Int8Options(clips=moving_clips, stages=("propagate",)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--int8"], "--int8 needs --calibrate"),
        (["--calibrate", "clips"], "--calibrate: only used with --int8"),
        (["--int8", "--calibrate", "clips", "--int8-budget", "0"], "give more than 0"),
        (["--int8", "--calibrate", "clips", "--int8-budget", "inf"], "the INT8 budget is inf dB; give more than 0"),
        (["--int8", "--calibrate", "clips", "--int8-stages", "extract,emit"], "unknown stage emit"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(["export", "--weights", "w.safetensors", "--out", "out", *arguments])
    except SystemExit as stopped:
        status = stopped.code if isinstance(stopped.code, int) else 1
    assert status == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("report", ["", "absent/report.svg"], ids=["a folder", "in no folder"])
def test_a_report_that_cannot_be_written_is_noticed_first(
    report: str, weights: Path, moving_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--weights", weights, "--out", tmp_path / "int8", "--int8", "--calibrate", moving_clips]
    assert main(["export", *map(str, [*arguments, "--report", tmp_path / report])]) == 1
    assert capsys.readouterr().err.startswith(f"zsm export: can't write {tmp_path / report}")
    assert not (tmp_path / "int8").exists()


def test_the_end_of_a_long_clip_loses_no_more_than_its_beginning() -> None:
    """The scene repeats itself every 30 frames."""
    y, x = np.mgrid[:16, :24]
    angles = 2 * np.pi * np.arange(30) / 30
    period = [np.sin(x / 3 + 2 * np.cos(angle)) * np.cos(y / 2 + 2 * np.sin(angle)) for angle in angles]
    scene = np.stack([0.5 + 0.4 * np.stack([shade, np.roll(shade, 5), -shade], -1) for shade in period])
    clip = np.tile(scene.astype(np.float32), (10, 1, 1, 1))
    with Runtime("compact", threads=1) as float32, Runtime("compact-int8", threads=1) as int8:
        errors = [np.square(a - b).mean() for a, b in zip(float32.stream(clip), int8.stream(clip), strict=True)]
    assert len(errors) == 599
    first, last = np.mean(errors[:60]), np.mean(errors[-60:])
    assert 0 < last < 1.05 * first
