"""One step of training: loss, gradients, Adam, and the weights' average."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from zsm.export.model import Network
from zsm.training.config import TrainingConfig
from zsm.training.data import to_float
from zsm.training.distributed import Processes
from zsm.training.losses import Losses, Objective

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""The input, the true LR frames, the HR frames of the outputs that count, and those outputs' places (see
`data.Examples`)."""


class Step:
    """Updates a network's weights, and their moving average, from a batch.

    A step is thousands of small kernels. On a single GPU it is captured as a CUDA graph after the first few, and
    replayed from then on, so that the GPU doesn't wait for Python.
    """

    objective: Objective
    """The network that learns, on the processes' device."""
    average: Network
    """Its weights' moving average."""
    adam: torch.optim.Adam

    def __init__(self, config: TrainingConfig, network: Network, processes: Processes, *, capture: bool = True) -> None:
        """With `capture` False, no step is captured, for comparison."""
        self._config, self._device = config, processes.device
        loss = config.loss
        self.objective = Objective(network, loss.weights, loss.synthesis_blocks, loss.form)
        # Low-precision convolutions are fastest in channels-last format, also on CPUs.
        self.objective.to(device=self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(network).requires_grad_(False).eval()
        self.adam = _adam(self.objective, self._device)
        self._module = processes.wrap(self.objective)
        self._update_average = get_ema_multi_avg_fn(config.optimiser.average)
        self._weights, self._averages = list(network.parameters()), list(self.average.parameters())
        alone = self._device.type == "cuda" and processes.count == 1
        self._captured = _Captured(self._run) if alone and capture else None

    def __call__(self, batch: Batch, rate: float) -> Losses:
        """Make a step with this learning rate, and return the losses before it.

        On a GPU the losses' tensors are overwritten by the next step.
        """
        for group in self.adam.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        run = self._run if self._captured is None else self._captured
        inputs, lr, hr, times = (tensor.to(self._device, non_blocking=True) for tensor in batch)
        return run((inputs, lr, hr, times))

    def _run(self, batch: Batch) -> Losses:
        inputs, lr, hr, times = batch
        low = self._config.run.precision == "bfloat16"
        with torch.autocast(self._device.type, torch.bfloat16, enabled=low):
            losses: Losses = self._module(to_float(inputs), to_float(lr), to_float(hr), times)
        self.adam.zero_grad()
        losses.total.backward()
        if self._config.optimiser.gradient_clip:
            nn.utils.clip_grad_norm_(self.objective.parameters(), self._config.optimiser.gradient_clip)
        self.adam.step()
        self._update_average(self._averages, self._weights, 0)
        return losses


def _adam(objective: Objective, device: torch.device) -> torch.optim.Adam:
    """Make the optimiser; on a GPU, one whose learning rate and step count live there, as a captured step needs."""
    if device.type == "cpu":
        return torch.optim.Adam(objective.parameters(), betas=(0.9, 0.99))
    rate = torch.zeros((), device=device)
    return torch.optim.Adam(objective.parameters(), rate, betas=(0.9, 0.99), fused=True, capturable=True)


class _Captured:
    """A step as a CUDA graph.

    The first few steps run as ordinary PyTorch: cuDNN chooses its algorithms, Adam makes its state.
    """

    WARM_UP = 3

    def __init__(self, run: Callable[[Batch], Losses]) -> None:
        self._run = run
        self._runs = 0
        self._stream = torch.cuda.Stream()
        self._graph = torch.cuda.CUDAGraph()
        self._replayed = torch.cuda.Event()
        self._batch: Batch | None = None
        self._losses: Losses | None = None

    def __call__(self, batch: Batch) -> Losses:
        if self._runs < self.WARM_UP:
            self._runs += 1
            return self._run_aside(batch)
        if self._batch is None:
            self._batch = self._capture(batch)
        # A replay returns at once. Waiting for the one before keeps the run's clock right, and few batches in memory.
        self._replayed.synchronize()
        for captured, tensor in zip(self._batch, batch, strict=True):
            captured.copy_(tensor)
        self._graph.replay()
        self._replayed.record()
        assert self._losses is not None
        return self._losses

    def _run_aside(self, batch: Batch) -> Losses:
        """Run on the capture's stream, because autograd's nodes remember the stream they were made on."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            losses = self._run(batch)
        current.wait_stream(self._stream)
        return losses

    def _capture(self, batch: Batch) -> Batch:
        """Capture a step, and return the batch that a replay reads."""
        inputs, lr, hr, times = (tensor.clone() for tensor in batch)
        # The default mode would also forbid CUDA calls in the thread that pins the next batches.
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            self._losses = self._run((inputs, lr, hr, times))
        return inputs, lr, hr, times
