"""Finding the native libraries."""

from pathlib import Path

import pytest
from numpy.random import mtrand

from zsm.doctor import examine
from zsm.errors import PluginError
from zsm.plugins import directories, library, onnxruntime_library
from zsm.plugins.native import Core


def test_the_variable_names_the_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSM_PLUGIN_DIR", str(tmp_path))
    assert directories() == (tmp_path,)
    assert onnxruntime_library() is None
    (tmp_path / "libzsm_onnxruntime.so").touch()
    assert onnxruntime_library() == tmp_path / "libzsm_onnxruntime.so"
    assert library("tensorrt11") is None


def test_a_damaged_library_is_named(tmp_path: Path) -> None:
    damaged = tmp_path / "libzsm_core.so"
    damaged.touch()
    with pytest.raises(PluginError, match=r"libzsm_core\.so can't be loaded: .*; build it again"):
        Core(damaged)


def test_a_foreign_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = tmp_path / "libzsm_core.so"
    foreign.symlink_to(mtrand.__file__)
    with pytest.raises(PluginError, match=r"libzsm_core\.so is of another version, or not ours: .*; build it again"):
        Core(foreign)
    monkeypatch.setenv("ZSM_PLUGIN_DIR", str(tmp_path))
    [found] = [check for check in examine() if check.name == "libzsm_core.so"]
    assert not found.works
    assert "not ours" in found.found


def test_an_invalid_variable_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSM_PLUGIN_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(PluginError, match=r"ZSM_PLUGIN_DIR is .*nowhere, which isn.t a folder"):
        library("core")


def test_without_the_variable_package_and_checkout_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZSM_PLUGIN_DIR", raising=False)
    package, checkout = directories()
    assert package.parent.name == "plugins"
    assert checkout.parts[-3:] == ("build", "release", "lib")
