"""Weights files: safetensors with this project's parameter names, and the released checkpoint with its own."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from zsm.engine.bundle.network import NetworkConfig
from zsm.errors import DataError
from zsm.export.model.network import Network
from zsm.files import replacing

# The released checkpoint's names (left) and ours (right), by prefix; the longest prefix decides.
# Within an alignment its `_1` is our `first`, its `_2` our `second`.
RELEASED_PREFIXES = {
    "conv_first": "extraction.head",
    "feature_extraction": "extraction.blocks",
    "fea_L2_conv1": "extraction.pyramid.level2.0",
    "fea_L2_conv2": "extraction.pyramid.level2.1",
    "fea_L3_conv1": "extraction.pyramid.level3.0",
    "fea_L3_conv2": "extraction.pyramid.level3.1",
    "pcd_align": "interpolation",
    "fusion": "interpolation.fusion",
    "ConvBLSTM.forward_net.pcd_h.fea_L2_conv1": "recurrence.align_hidden.pyramid.level2.0",
    "ConvBLSTM.forward_net.pcd_h.fea_L2_conv2": "recurrence.align_hidden.pyramid.level2.1",
    "ConvBLSTM.forward_net.pcd_h.fea_L3_conv1": "recurrence.align_hidden.pyramid.level3.0",
    "ConvBLSTM.forward_net.pcd_h.fea_L3_conv2": "recurrence.align_hidden.pyramid.level3.1",
    "ConvBLSTM.forward_net.pcd_h.pcd_align": "recurrence.align_hidden.align",
    "ConvBLSTM.forward_net.pcd_h.fusion": "recurrence.align_hidden.align.fusion",
    "ConvBLSTM.forward_net.pcd_c.fea_L2_conv1": "recurrence.align_cell.pyramid.level2.0",
    "ConvBLSTM.forward_net.pcd_c.fea_L2_conv2": "recurrence.align_cell.pyramid.level2.1",
    "ConvBLSTM.forward_net.pcd_c.fea_L3_conv1": "recurrence.align_cell.pyramid.level3.0",
    "ConvBLSTM.forward_net.pcd_c.fea_L3_conv2": "recurrence.align_cell.pyramid.level3.1",
    "ConvBLSTM.forward_net.pcd_c.pcd_align": "recurrence.align_cell.align",
    "ConvBLSTM.forward_net.pcd_c.fusion": "recurrence.align_cell.align.fusion",
    "ConvBLSTM.forward_net.cell_list.0.conv": "recurrence.gates",
    "ConvBLSTM.conv_1x1": "reconstruction.merge",
    "recon_trunk": "reconstruction.blocks",
    "upconv1": "reconstruction.up1",
    "upconv2": "reconstruction.up2",
    "HRconv": "reconstruction.hr",
    "conv_last": "reconstruction.last",
}
RELEASED_LEVELS = {"L1": "level1", "L2": "level2", "L3": "level3"}
RELEASED_DIRECTIONS = {"1": "first", "2": "second"}
RELEASED_ALIGN_PARTS = {
    "offset_conv1": "offset1",
    "offset_conv2": "offset2",
    "offset_conv3": "offset3",
    "dcnpack": "deform",
    "fea_conv": "merge",
}


def our_name(released: str) -> str:
    """Translate a parameter name of the released checkpoint; any other name stays as it is."""
    for prefix in sorted(RELEASED_PREFIXES, key=len, reverse=True):
        if released.startswith(prefix + "."):
            ours, rest = RELEASED_PREFIXES[prefix], released.removeprefix(prefix + ".")
            return f"{ours}.{_align_part(rest) if prefix.endswith('pcd_align') else rest}"
    return released


def _align_part(name: str) -> str:
    """`L3_dcnpack_1.conv_offset_mask.weight` to `first.level3.deform.offset_mask.weight`."""
    module, _, parameter = name.partition(".")
    level, _, part = module.partition("_")
    part, _, direction = part.rpartition("_")
    try:
        path = RELEASED_DIRECTIONS[direction], RELEASED_LEVELS[level], RELEASED_ALIGN_PARTS[part]
    except KeyError:
        return name
    return ".".join((*path, parameter.replace("conv_offset_mask", "offset_mask")))


def load(path: Path, config: NetworkConfig | None = None) -> Network:
    """Load a network: `.safetensors` as `save` writes it, else a PyTorch checkpoint in the released format.

    A safetensors file stores its configuration. A PyTorch checkpoint doesn't: `config` gives it, by default the
    released network's. Raises DataError, which lists every name and shape that doesn't match.
    """
    if not path.is_file():
        raise DataError(f"there is no weights file {path}")
    if path.suffix == ".safetensors":
        stored, tensors = _read_safetensors(path)
        config = config or stored
    else:
        tensors = _read_pickle(path)
    network = Network(config or NetworkConfig())
    _check(path, tensors, network.state_dict())
    network.load_state_dict(tensors)
    return network.eval()


def save(network: Network, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write weights and configuration as safetensors; `metadata` goes into the file's header. Raises OSError."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    header = {**(metadata or {}), "network": json.dumps(network.config.to_dict())}
    with replacing(path) as temporary:
        # Not save_file: its files can be read by their owner only.
        temporary.write_bytes(safetensors.torch.save(tensors, header))


def metadata(path: Path) -> dict[str, str]:
    """The metadata in a safetensors file's header; empty for any other file."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safetensors.safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} isn't a readable safetensors file: {error}") from error


def _read_safetensors(path: Path) -> tuple[NetworkConfig | None, dict[str, Tensor]]:
    network = metadata(path).get("network")
    try:
        config = NetworkConfig.from_dict(json.loads(network)) if network else None
    except ValueError as error:
        raise DataError(f"{path} has an invalid network configuration: {error}") from error
    return config, safetensors.torch.load_file(path)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises depends on the bytes that it finds
        raise DataError(f"{path} isn't a PyTorch checkpoint of weights alone: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError(f"{path} isn't a plain state_dict; save the network's state_dict alone")
    return {our_name(str(name).removeprefix("module.")): value for name, value in content.items()}


def _check(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    problems = [
        *(f"missing: {name} {_shape(wanted[name])}" for name in sorted(wanted.keys() - found.keys())),
        *(f"unexpected: {name} {_shape(found[name])}" for name in sorted(found.keys() - wanted.keys())),
        *(
            f"wrong shape: {name} is {_shape(found[name])}, the network's is {_shape(wanted[name])}"
            for name in sorted(found.keys() & wanted.keys())
            if found[name].shape != wanted[name].shape
        ),
    ]
    if problems:
        raise DataError("\n  ".join(_summary(path, problems)))


def _summary(path: Path, problems: list[str]) -> Iterable[str]:
    yield f"the weights in {path} don't fit the network ({len(problems)} differences):"
    yield from problems


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
