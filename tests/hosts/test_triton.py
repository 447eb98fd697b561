"""The model in a real Triton server, over HTTP and gRPC, against `Runtime`. `make test-hosts` installs the server."""

import json
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.hosts import tritonserver
from tests.needs import module

from zsm.engine import Runtime
from zsm.hosts.triton import write_model

ROOT = Path(__file__).parents[2]

Array = NDArray[Any]
Ask = Callable[..., list[Array]]

MODELS: dict[str, dict[str, Any]] = {
    "zsm": {"streams": 10},
    "narrow": {"streams": 2, "idle": 1, "window": 3, "overlap": 2},
    "deep": {"dtype": "uint16", "tile": "104x104", "memory": None},
    "float": {"dtype": "float32", "instances": 2},
}
"""Models of the server by name, and what they are written with."""

FORCED = 'parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "yes" } }'
"""A parameter of Triton's own."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tritonserver.Server]:
    folder = tmp_path_factory.mktemp("triton")
    for name, options in MODELS.items():
        written = write_model("compact", folder / "models", name=name, threads=1, **options)
        config = written / "config.pbtxt"
        if name == "narrow":
            config.write_text(config.read_text() + FORCED)
    with tritonserver.running(folder / "models", folder) as running:
        yield running


@pytest.fixture(scope="module", params=["http", "grpc"])
def ask(server: tritonserver.Server, request: pytest.FixtureRequest) -> Ask:
    """Send a request and return the outputs of the answer."""
    library = module(f"tritonclient.{request.param}", "triton", "make test-hosts")
    clients = threading.local()  # the one for HTTP mustn't be shared

    def ask(frames: Array | None, model: str = "zsm", **sequence: Any) -> list[Array]:
        inputs = []
        if frames is not None:
            kind = {"uint8": "UINT8", "uint16": "UINT16", "float32": "FP32"}[str(frames.dtype)]
            inputs.append(library.InferInput("FRAMES", frames.shape, kind))
            inputs[0].set_data_from_numpy(np.ascontiguousarray(frames))
        if not hasattr(clients, "own"):
            clients.own = library.InferenceServerClient(getattr(server, request.param))
        outputs = clients.own.infer(model, inputs, **sequence).as_numpy("RESTORED")
        return [] if outputs is None else list(outputs)

    return ask


@pytest.fixture
def refusal(ask: Ask) -> Callable[..., str]:
    """Send a request that is refused, and return the message."""
    exceptions = module("tritonclient.utils", "triton", "make test-hosts")

    def refused(*arguments: Any, **options: Any) -> str:
        with pytest.raises(exceptions.InferenceServerException) as error:
            ask(*arguments, **options)
        return str(error.value)

    return refused


SEQUENCES = count(1)


@pytest.fixture
def sequence() -> int:
    """A sequence's number that no other test uses."""
    return next(SEQUENCES)


def clip_of(frames: int, height: int = 4, width: int = 6, dtype: str = "uint8") -> Array:
    values = np.random.default_rng(frames).random((frames, height, width, 3), np.float32)
    white = {"float32": 1, "uint8": 255, "uint16": 65535}[dtype]
    return (values * white).astype(dtype)


def expected_of(clip: Array, **options: Any) -> Array:
    with Runtime("compact", threads=1, **options) as rt:
        return rt(clip)


@pytest.mark.parametrize(
    ("model", "size", "options"),
    [
        ("zsm", (4, 6), {}),
        ("narrow", (5, 3), {"window": 3, "overlap": 2}),
        ("deep", (4, 120), {"tile": "104x104"}),
        ("float", (4, 6), {}),
    ],
)
def test_a_clip_in_one_request(
    model: str, size: tuple[int, int], options: dict[str, Any], ask: Ask, sequence: int
) -> None:
    clip = clip_of(7, *size, MODELS[model].get("dtype", "uint8"))
    found = ask(clip, model, sequence_id=sequence, sequence_start=True, sequence_end=True)
    np.testing.assert_array_equal(found, expected_of(clip, **options))


def test_interleaved_sequences_get_outputs_as_soon_as_they_are_final(ask: Ask) -> None:
    clips = {next(SEQUENCES): clip_of(9), next(SEQUENCES): clip_of(10, 5, 3)}
    found: dict[int, list[Array]] = {sequence: [] for sequence in clips}
    with Runtime("compact", threads=1) as rt:
        streams = {sequence: rt.open_stream() for sequence in clips}
        for number in range(10):
            for sequence, clip in clips.items():
                end = number == len(clip) - 1
                if number < len(clip):
                    sent = {"sequence_id": sequence, "sequence_start": number == 0, "sequence_end": end}
                    outputs = ask(clip[number : number + 1], **sent)
                    expected = streams[sequence].push(clip[number])
                    np.testing.assert_array_equal(outputs, expected + (streams[sequence].finish() if end else []))
                    found[sequence] += outputs
        for sequence, clip in clips.items():
            np.testing.assert_array_equal(found[sequence], rt(clip))


def test_requests_of_any_length_and_an_end_without_frames(ask: Ask, sequence: int) -> None:
    clip = clip_of(11)
    parts = [clip[:1], clip[1:6], clip[6:6], clip[6:8], clip[8:], None]
    found = [
        ask(part, sequence_id=sequence, sequence_start=number == 0, sequence_end=part is None)
        for number, part in enumerate(parts)
    ]
    np.testing.assert_array_equal(list(chain(*found)), expected_of(clip))


@pytest.mark.parametrize("model", ["zsm", "float"])
def test_ten_streams_at_once(model: str, ask: Ask) -> None:
    clips = [clip_of(8, 2 + number, 11 - number, MODELS[model].get("dtype", "uint8")) for number in range(10)]

    def run(clip: Array) -> list[Array]:
        sequence = next(SEQUENCES)
        parts = np.array_split(clip, 4)
        return [
            output
            for number, part in enumerate(parts)
            for output in ask(part, model, sequence_id=sequence, sequence_start=number == 0, sequence_end=number == 3)
        ]

    with ThreadPoolExecutor(10) as pool:
        for clip, found in zip(clips, pool.map(run, clips), strict=True):
            np.testing.assert_array_equal(found, expected_of(clip))


def test_clients_that_vanish_make_room(ask: Ask, refusal: Callable[..., str]) -> None:
    clip = clip_of(5)
    lengths = {"window": 3, "overlap": 2}
    for _ in range(3):  # twice as many streams as the model holds
        vanished = [next(SEQUENCES) for _ in range(2)]
        for sequence in vanished:
            ask(clip[:3], "narrow", sequence_id=sequence, sequence_start=True)
        time.sleep(1.5)
    assert "must specify the START flag" in refusal(clip[3:], "narrow", sequence_id=vanished[0])
    found = ask(clip, "narrow", sequence_id=next(SEQUENCES), sequence_start=True, sequence_end=True)
    np.testing.assert_array_equal(found, expected_of(clip, **lengths))


def test_frames_of_another_size_are_refused_and_the_stream_goes_on(
    ask: Ask, refusal: Callable[..., str], sequence: int
) -> None:
    clip = clip_of(6)
    found = ask(clip[:4], sequence_id=sequence, sequence_start=True)
    message = refusal(clip_of(1, 4, 5), sequence_id=sequence)
    assert "frame 4 is 5x4 uint8, the frames before it are 6x4 uint8" in message
    found += ask(clip[4:], sequence_id=sequence, sequence_end=True)
    np.testing.assert_array_equal(found, expected_of(clip))


def test_wrong_requests_are_refused(ask: Ask, refusal: Callable[..., str], sequence: int) -> None:
    clip = clip_of(2)
    begin = {"sequence_id": sequence, "sequence_start": True}
    assert "unexpected shape for input 'FRAMES'" in refusal(clip[0], **begin)
    assert "unexpected shape for input 'FRAMES'" in refusal(np.zeros((1, 4, 4, 4), np.uint8), **begin)
    assert "UINT8" in refusal(clip_of(1, dtype="float32"), **begin)
    assert "must specify the START flag" in refusal(clip, sequence_id=next(SEQUENCES))
    assert "correlation ID" in refusal(clip)
    assert "frame 0 has the shape" in refusal(np.zeros((1, 0, 4, 3), np.uint8), **begin)


def test_the_server_logs_no_errors(server: tritonserver.Server, ask: Ask, sequence: int) -> None:
    ask(clip_of(4), sequence_id=sequence, sequence_start=True, sequence_end=True)
    assert "Error" not in server.log.read_text()


def test_a_plain_http_request(server: tritonserver.Server, sequence: int) -> None:
    """The protocol as KServe specifies it, without a client library."""
    clip = clip_of(2)
    body = {
        "parameters": {"sequence_id": sequence, "sequence_start": True, "sequence_end": True},
        "inputs": [
            {"name": "FRAMES", "shape": clip.shape, "datatype": "UINT8", "data": clip.ravel().tolist()},
        ],
    }
    request = urllib.request.Request(f"http://{server.http}/v2/models/zsm/infer", json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        [output] = json.load(answer)["outputs"]
    assert (output["name"], output["datatype"]) == ("RESTORED", "UINT8")
    np.testing.assert_array_equal(np.reshape(output["data"], output["shape"]), expected_of(clip))


def test_the_documented_client(server: tritonserver.Server) -> None:
    """docs/serving.md's client."""
    module("tritonclient.grpc", "triton", "make test-hosts")
    document = (ROOT / "docs" / "serving.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    assert "localhost:8001" in code
    clip = clip_of(9)
    names: dict[str, Any] = {"frames": iter(clip)}
    exec(code.replace("localhost:8001", server.grpc), names)
    np.testing.assert_array_equal(list(names["restored"]), expected_of(clip))
