"""Weights files that don't fit."""

import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from zsm.engine import NetworkConfig
from zsm.errors import ArgumentError, DataError
from zsm.export.model import Network, checkpoint
from zsm.export.model.checkpoint import our_name


@pytest.mark.parametrize(
    ("released", "ours"),
    [
        ("conv_first.weight", "extraction.head.weight"),
        ("feature_extraction.3.conv2.bias", "extraction.blocks.3.conv2.bias"),
        ("pcd_align.L2_fea_conv_2.weight", "interpolation.second.level2.merge.weight"),
        ("fusion.bias", "interpolation.fusion.bias"),
        (
            "ConvBLSTM.forward_net.pcd_h.pcd_align.L3_dcnpack_1.conv_offset_mask.weight",
            "recurrence.align_hidden.align.first.level3.deform.offset_mask.weight",
        ),
        ("ConvBLSTM.forward_net.pcd_c.fusion.weight", "recurrence.align_cell.align.fusion.weight"),
        ("something.else", "something.else"),
    ],
)
def test_names(released: str, ours: str) -> None:
    assert our_name(released) == ours


def test_every_mismatch_is_listed(tiny_network: Network, tmp_path: Path) -> None:
    tensors = dict(tiny_network.state_dict())
    del tensors["extraction.head.bias"]
    tensors["extra.weight"] = torch.zeros(2, 3)
    tensors["reconstruction.last.bias"] = torch.zeros(4)
    path = tmp_path / "odd.pth"
    torch.save(tensors, path)
    with pytest.raises(DataError) as caught:
        checkpoint.load(path, tiny_network.config)
    message = str(caught.value)
    assert "3 differences" in message
    assert "missing: extraction.head.bias 8" in message
    assert "unexpected: extra.weight 2x3" in message
    assert "wrong shape: reconstruction.last.bias is 4, the network's is 3" in message


class Payload:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("ran",)


def test_a_file_that_contains_code_is_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "code.pth"
    torch.save({"weight": Payload()}, path)
    with pytest.raises(DataError, match="of weights alone"):
        checkpoint.load(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pth", b"", "isn't a PyTorch checkpoint"),
        ("noise.pth", b"\x00\x01\x02 not weights", "isn't a PyTorch checkpoint"),
        ("text.pth", b"readme: not weights", "isn't a PyTorch checkpoint"),
        ("list.pth", pickle.dumps([1, 2], protocol=2), "isn't a PyTorch checkpoint|isn't a plain state_dict"),
        ("noise.safetensors", b"\x00\x01\x02 not weights", "isn't a readable safetensors"),
    ],
)
def test_a_file_without_weights_is_rejected(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        checkpoint.load(path)


def test_weights_can_be_read_by_whoever_may_read_new_files(tiny_network: Network, tmp_path: Path) -> None:
    checkpoint.save(tiny_network, tmp_path / "weights.safetensors")
    (tmp_path / "other").touch()
    assert (tmp_path / "weights.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("network", ["{not json", "[1]", '{"width": -1}'])
def test_an_invalid_configuration_is_rejected(network: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(1)}, path, {"network": network})
    with pytest.raises(DataError, match="has an invalid network configuration"):
        checkpoint.load(path)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no weights file"):
        checkpoint.load(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"width": 12, "deformable_groups": 8}, "12 can't be divided into 8"),
        ({"base": "linear"}, "base is 'linear'; choose from none, bicubic"),
        ({"depth": 3}, "unknown network setting depth"),
    ],
)
def test_invalid_configurations_are_rejected(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        NetworkConfig.from_dict(settings)
