"""The public surface: names, exceptions, and what importing it loads."""

import builtins
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import zsm
from zsm import engine, errors, runtime
from zsm.runtime import stream

RAISES = re.compile(r"\b[A-Z]\w*Error\b")


def docstrings() -> Iterator[tuple[str, str]]:
    """Every public docstring that a user of `zsm.engine` reads, with the name of its owner."""
    owners = [getattr(engine, name) for name in engine.__all__] + [runtime.FrameStream, runtime.plan, stream.stream]
    for owner in owners:
        members = vars(owner).items() if inspect.isclass(owner) else ()
        documented = [(owner.__name__, owner), *((f"{owner.__name__}.{name}", member) for name, member in members)]
        yield from ((name, inspect.getdoc(each) or "") for name, each in documented)


def test_every_error_that_a_docstring_names_is_exported() -> None:
    named = {(error, owner) for owner, text in docstrings() for error in RAISES.findall(text)}
    assert {error for error, _ in named} >= {"FrameError", "WindowError", "BundleError", "OutOfMemoryError"}
    ours = {(error, owner) for error, owner in named if not hasattr(builtins, error)}
    assert [each for each in ours if each[0] not in engine.__all__ or each[0] not in zsm.__all__] == []


def test_every_error_is_exported_and_derives_from_what_its_module_documents() -> None:
    defined = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}
    assert set(defined) <= set(zsm.__all__)
    assert all(getattr(zsm, name) is value for name, value in defined.items())
    tree = re.findall(r"(\w+Error) \((\w+)\)", errors.__doc__ or "")
    assert len(tree) >= 10
    for name, builtin in tree:
        assert issubclass(defined[name], (errors.Error,)), name
        assert issubclass(defined[name], getattr(builtins, builtin)), name
    for name, value in defined.items():
        assert name in (errors.__doc__ or "")
        assert value is errors.Error or any(base.__module__ == "builtins" for base in value.__mro__[1:-3])


def test_every_exported_name_exists() -> None:
    for package in (zsm, engine, runtime):
        assert [name for name in package.__all__ if not hasattr(package, name)] == []
        assert len(set(package.__all__)) == len(package.__all__)


def test_a_name_that_is_not_exported_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Rutime'"):
        _ = engine.Rutime


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import zsm", "numpy onnx onnxruntime torch tensorrt cuda av cv2 zsm.engine zsm.runtime"),
        ("import zsm.engine", "numpy onnx onnxruntime torch tensorrt cuda av cv2 zsm.runtime"),
        ("from zsm.engine import Runtime", "onnx onnxruntime torch tensorrt cuda av cv2"),
    ],
)
def test_importing_loads_no_more_than_needed(statement: str, unwanted: str) -> None:
    program = f"{statement}; import sys; print([name for name in {unwanted.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path.home())
    assert done.stdout.strip() == "[]"
