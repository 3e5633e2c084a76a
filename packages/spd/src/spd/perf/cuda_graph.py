"""A whole training step as one CUDA graph: recorded once, and then replayed with a single launch.

Small networks leave a GPU waiting for the next of hundreds of launches. A recording replays the same kernels on the
same addresses, so that whatever enters it must be copied to where it was recorded, and nothing in it may depend on
numbers that Python sees (Nguyen et al., *Accelerating PyTorch with CUDA Graphs*, 2021).
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from spd.config.perf import PerfConfig
from spd.errors import ConfigError

__all__ = ["RecordedStep", "refuse_what_cannot_be_recorded"]

_WARMUP = 3
"""Steps that run as ever first, on a stream of their own: they allocate what a recording must not."""


def refuse_what_cannot_be_recorded(
    perf: PerfConfig, device: torch.device | str, *, accumulates: bool, changes: bool, keeps_sources: bool, ranks: int
) -> None:
    """Says which settings a recording cannot be made with.

    Args:
        perf: the switches.
        device: where training runs.
        accumulates: a step has several microbatches.
        changes: something in the losses depends on how far training has come.
        keeps_sources: a loss keeps sources between steps.
        ranks: processes.

    Raises:
        ConfigError: names the first setting that stands in the way.
    """
    obstacles = {
        f"a device {torch.device(device).type!r}; use CUDA": torch.device(device).type != "cuda",
        "row_dedup, which makes shapes depend on data; switch it off": perf.row_dedup,
        "checks of ranges, which read from the device; set skip_range_checks": not perf.skip_range_checks,
        f"optimizer={perf.optimizer!r}; use 'fused'": perf.optimizer != "fused",
        "amp='fp16', which leaves steps out; use 'bf16'": perf.amp == "fp16",
        "compile_mode='reduce-overhead', which records for itself; use 'default'": perf.compile_mode != "default",
        "several microbatches a step; set gradient_accumulation_steps to 1": accumulates,
        "losses that change with the share of training done (p_anneal_final_p, pgd_schedule); make them constant":
            changes,
        "sources that are kept between steps (PersistentPGDReconLoss); leave that loss out": keeps_sources,
        f"{ranks} processes; train on one": ranks > 1,
    }  # fmt: skip
    for obstacle, stands in obstacles.items():
        if stands:
            raise ConfigError(
                f"perf.cuda_graph records a step whose shapes and numbers of Python never change; got {obstacle}, or "
                "switch cuda_graph off."
            )


class RecordedStep:
    """Runs a step a few times as ever, then records it, and from then on replays it.

    Args:
        step: from a batch to what it computed; everything it changes keeps its address.
        generator: from which the step draws.

    Attributes:
        recorded: whether there is a recording.
    """

    def __init__(self, step: Callable[[Tensor], Any], generator: torch.Generator) -> None:
        self._step, self._generator = step, generator
        self._stream = torch.cuda.Stream()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._input: Tensor | None = None
        self._result: Any = None
        self._taken = 0

    @property
    def recorded(self) -> bool:
        """Whether there is a recording."""
        return self._graph is not None

    def __call__(self, batch: Shaped[Tensor, "..."]) -> Any:
        """One step.

        Args:
            batch: of the same shape each time.

        Returns:
            What the step returns; the tensors of a recording, which the next call writes to.

        Raises:
            ConfigError: a batch of another shape.
        """
        if self._taken < _WARMUP:
            self._taken += 1
            return self._beside(batch)
        if self._input is None:
            self._record(batch)
        graph, static = self._graph, self._input
        assert graph is not None
        assert static is not None
        if static.shape != batch.shape:
            raise ConfigError(
                f"a recorded step takes batches of one shape, {tuple(static.shape)}; got {tuple(batch.shape)}. Leave "
                "out what is left of the data at its end, or switch perf.cuda_graph off."
            )
        static.copy_(batch, non_blocking=True)
        graph.replay()
        return self._result

    def _beside(self, batch: Tensor) -> Any:
        present = torch.cuda.current_stream()
        self._stream.wait_stream(present)
        with torch.cuda.stream(self._stream):
            result = self._step(batch)
        present.wait_stream(self._stream)
        return result

    def _record(self, batch: Tensor) -> None:
        self._input = batch.clone()
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        with torch.cuda.graph(graph, stream=self._stream):
            self._result = self._step(self._input)
        self._graph = graph
