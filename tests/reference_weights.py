"""Weights for the full-size network by a formula, so that parity can be tested without the released checkpoint.

Every value follows from the seed, the parameter's name in the released checkpoint, and its place in the tensor: the
name seeds a splitmix64 generator, whose numbers are scaled to a variance that keeps features of order 1 and sampling
offsets at one to three pixels. `tests/data/n2_32x48.npz` holds the reference network's output with them (seed 1):
`x` (1,N,3,h,w) in [0, 1] and `y` (1,2N-1,3,4h,4w).
"""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from zsm.export.model import Network
from zsm.export.model.checkpoint import (
    RELEASED_ALIGN_PARTS,
    RELEASED_DIRECTIONS,
    RELEASED_LEVELS,
    RELEASED_PREFIXES,
    our_name,
)

GAINS = {
    "conv_offset_mask.weight": 2.5,
    "recon_trunk.": None,
    "feature_extraction.": None,
    "cell_list.0.conv.weight": 2.0,
    "conv_last.weight": 0.12,
    "fusion.weight": 1.0,
    "conv_1x1.weight": 1.5,
}
"""By a part of the name, in this order; None stands for a residual block."""
BRANCH, TRUNK = 0.25, 1.4


def state_dict(network: Network, seed: int) -> dict[str, NDArray[np.float32]]:
    """The weights under the names of the released checkpoint."""
    shapes = {released_name(ours): tuple(tensor.shape) for ours, tensor in network.state_dict().items()}
    return {name: _tensor(seed, name, shape) for name, shape in shapes.items()}


def released_name(ours: str) -> str:
    """The released checkpoint's name of one of our parameters."""
    prefixes = {mine: theirs for theirs, mine in RELEASED_PREFIXES.items()}
    mine = max((prefix for prefix in prefixes if ours.startswith(prefix + ".")), key=len)
    rest = ours.removeprefix(mine + ".")
    if prefixes[mine].endswith("pcd_align"):
        rest = _align_part(*rest.split(".", 3))
    name = f"{prefixes[mine]}.{rest}"
    assert our_name(name) == ours, (ours, name)
    return name


def _align_part(direction: str, level: str, part: str, parameter: str) -> str:
    theirs = [
        next(their for their, our in table.items() if our == name)
        for table, name in ((RELEASED_LEVELS, level), (RELEASED_ALIGN_PARTS, part), (RELEASED_DIRECTIONS, direction))
    ]
    return f"{'_'.join(theirs)}.{parameter.replace('offset_mask', 'conv_offset_mask')}"


def _tensor(seed: int, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    values = math.sqrt(3) * (2 * _uniform(seed, name, math.prod(shape)) - 1)
    if len(shape) == 4:
        values = values * (_gain(name) / math.sqrt(math.prod(shape[1:])))
    else:
        values = values * 0.05 + (0.5 if name == "conv_last.bias" else 0.0)
    return values.astype(np.float32).reshape(shape)


def _gain(name: str) -> float:
    gain = next((gain for part, gain in GAINS.items() if part in name), TRUNK)
    if gain is None:
        return TRUNK if ".conv1." in name else BRANCH
    return gain


def _uniform(seed: int, name: str, count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) of a splitmix64 generator."""
    begin = np.frombuffer(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "<u8")
    with np.errstate(over="ignore"):
        mixed = begin + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    numbers: NDArray[np.float64] = (mixed >> np.uint64(11)) * 2.0**-53
    return numbers
