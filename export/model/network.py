"""The network, in the parts that become stages: extraction, interpolation, recurrence, reconstruction."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from zsm.engine.bundle.network import NetworkConfig
from zsm.export.model.bicubic import Bicubic
from zsm.export.model.layers import Levels, MutualAlign, Pyramid, ResidualBlock, activate, conv3x3


class Extraction(nn.Module):
    """An input frame's feature (section 3.1)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.head = conv3x3(3, config.width)
        self.blocks = nn.Sequential(*(ResidualBlock(config.width) for _ in range(config.extraction_blocks)))
        self.pyramid = Pyramid(config.width) if config.interpolation == "deformable" else None

    def forward(self, frame: Tensor) -> Levels:
        """(N,3,H,W) in [0, 1] to its feature, at the levels that the interpolation needs."""
        feature = self.blocks(activate(self.head(frame)))
        return (feature,) if self.pyramid is None else self.pyramid(feature)


class NaiveInterpolation(nn.Module):
    """Blends the neighbours' features without sampling (ablation (a) of table 5)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.fusion = nn.Conv2d(2 * config.width, config.width, 1)

    def forward(self, previous: Levels, following: Levels) -> Tensor:
        """The neighbours' features to the missing frame's."""
        return self.fusion(torch.cat((previous[0], following[0]), 1))


class StateAlign(nn.Module):
    """Moves a recurrent state to where the current frame has its content (eq. 6)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.pyramid = Pyramid(config.width)
        self.align = MutualAlign(config.width, config.deformable_groups)

    def forward(self, feature: Tensor, state: Tensor) -> Tensor:
        """The current feature and a state, (N,C,H,W) each, to the aligned state."""
        aligned: Tensor = self.align(self.pyramid(feature), self.pyramid(state))
        return aligned


class StateRefinement(nn.Module):
    """Passes the hidden state and the current feature through residual blocks (not in the paper).

    A cheap stand-in for alignment: each step's receptive field covers small motion.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.merge = nn.Conv2d(2 * width, width, 1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(config.recurrence_blocks)))

    def forward(self, feature: Tensor, hidden: Tensor) -> Tensor:
        """The current feature and the hidden state, (N,C,H,W) each, to the refined state."""
        refined: Tensor = self.blocks(self.merge(torch.cat((feature, hidden), 1)))
        return refined


class Recurrence(nn.Module):
    """One step of the ConvLSTM, with aligned or refined states where the configuration says so (eqs. 5, 6)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        deformable = config.recurrence == "deformable"
        self.align_hidden = StateAlign(config) if deformable else None
        self.align_cell = StateAlign(config) if deformable else None
        self.refine_hidden = StateRefinement(config) if config.recurrence_blocks else None
        self.gates = conv3x3(2 * config.width, 4 * config.width)

    def forward(self, feature: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """The current feature and the state, (N,C,H,W) each, to the next hidden and cell state."""
        if self.align_hidden is not None and self.align_cell is not None:
            hidden, cell = self.align_hidden(feature, hidden), self.align_cell(feature, cell)
        if self.refine_hidden is not None:
            hidden = self.refine_hidden(feature, hidden)
        gates = self.gates(torch.cat((feature, hidden), 1)).chunk(4, 1)
        # Training takes half as long here with gates that are contiguous.
        i, f, o, g = (gate.contiguous(memory_format=torch.channels_last) for gate in gates)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell


class Reconstruction(nn.Module):
    """An output frame from the hidden states at its time (section 3.4)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width = config.width
        self.merge = nn.Conv2d(2 * width, width, 1) if config.directions == 2 else None
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(config.reconstruction_blocks)))
        self.up1 = conv3x3(width, 4 * width)
        self.up2 = conv3x3(width, 4 * width)
        self.hr = conv3x3(width, width)
        self.last = conv3x3(width, 3)
        self.enlarge = Bicubic() if config.base == "bicubic" else None

    def forward(self, hidden: tuple[Tensor, ...], base: tuple[Tensor, ...] = ()) -> Tensor:
        """Reconstruct (N,3,4H,4W), not clipped, from hidden states (N,C,H,W), one per direction.

        `base`, for a network that has one: an interpolated frame's two neighbours (N,3,H,W), or an original frame
        twice.
        """
        x = hidden[0] if self.merge is None else self.merge(torch.cat(hidden, 1))
        x = self.blocks(x)
        # The activation commutes with the shuffle, and before it inference libraries fuse it with the convolution.
        x = functional.pixel_shuffle(activate(self.up1(x)), 2)
        x = functional.pixel_shuffle(activate(self.up2(x)), 2)
        x = self.last(activate(self.hr(x)))
        return x if self.enlarge is None else x + self.enlarge((base[0] + base[1]) / 2)


class Network(nn.Module):
    """The whole network over one window: what the stages compute when the runtime drives them."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.extraction = Extraction(config)
        self.interpolation = (
            MutualAlign(config.width, config.deformable_groups)
            if config.interpolation == "deformable"
            else NaiveInterpolation(config)
        )
        self.recurrence = Recurrence(config) if config.directions else None
        self.reconstruction = Reconstruction(config)

    def forward(self, frames: Tensor) -> Tensor:
        """(B,N,3,H,W) in [0, 1], H and W multiples of 4, to (B,2N-1,3,4H,4W), not clipped."""
        return self.restore(self.features(frames), frames)

    def features(self, frames: Tensor) -> Tensor:
        """(B,N,3,H,W) to the features of all 2N-1 frames, (B,2N-1,C,H,W) (sections 3.1, 3.2)."""
        batch, count = frames.shape[:2]
        levels = [level.unflatten(0, (batch, count)) for level in self.extraction(frames.flatten(0, 1))]
        if count == 1:
            return levels[0]
        previous = tuple(level[:, :-1].flatten(0, 1) for level in levels)
        following = tuple(level[:, 1:].flatten(0, 1) for level in levels)
        between = self.interpolation(previous, following).unflatten(0, (batch, count - 1))
        extracted, between = _last(levels[0]), _last(between)
        pairs = torch.stack((extracted[:, :-1], between), 2).flatten(1, 2)
        return _first(torch.cat((pairs, extracted[:, -1:]), 1))

    def restore(self, features: Tensor, frames: Tensor, times: Tensor | None = None) -> Tensor:
        """Features (B,2N-1,C,H,W) and the input frames (B,N,3,H,W) to output frames (sections 3.3, 3.4).

        times: (B,K), of each clip the outputs to reconstruct; all of them by default.
        """
        batch, count = features.shape[:2]
        if times is None:
            times = torch.arange(count, device=frames.device).expand(batch, count)
        clip = torch.arange(batch, device=frames.device)[:, None]
        states = tuple(_first(_last(hidden)[clip, times].flatten(0, 1)) for hidden in self.propagate(features))
        base = (frames[clip, times // 2].flatten(0, 1), frames[clip, (times + 1) // 2].flatten(0, 1))
        out: Tensor = self.reconstruction(states, base)
        return out.unflatten(0, times.shape)

    def propagate(self, features: Tensor) -> tuple[Tensor, ...]:
        """(B,T,C,H,W) to hidden states of the same shape, one tensor per direction (section 3.3).

        Both directions run as one batch. Without a recurrence the features stand for the states.
        """
        if self.recurrence is None:
            return (features,)
        directions = self.config.directions
        sequence = features.unbind(1)
        states: list[tuple[Tensor, ...]] = []
        hidden = cell = torch.zeros_like(torch.cat(sequence[:1] * directions))
        for pair in zip(sequence, sequence[::-1], strict=True):
            hidden, cell = self.recurrence(torch.cat(pair[:directions]), hidden, cell)
            states.append(hidden.chunk(directions))
        orders = (states, states[::-1])[:directions]
        return tuple(
            _first(torch.stack([_last(state[direction]) for state in order], 1))
            for direction, order in enumerate(orders)
        )


def _last(features: Tensor) -> Tensor:
    """(...,C,H,W) as (...,H,W,C).

    Stacked and indexed in this order, features keep their channels last in memory, and a training step on CPUs takes a
    quarter less time.
    """
    return features.movedim(-3, -1)


def _first(features: Tensor) -> Tensor:
    """(...,H,W,C) as (...,C,H,W)."""
    return features.movedim(-1, -3)
