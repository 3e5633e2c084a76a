"""The processes of a run: who this one is, and what all of them agree on."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import overload

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from spd.errors import ConfigError, RankError
from spd.sampling import SourceSampler, rank_seed

__all__ = ["Distributed"]

Named = Mapping[str, Shaped[Tensor, "..."]]

_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Distributed:
    """One process of a run, which is the only one unless `torchrun` started it.

    As a context it leaves the group at the end. A failure to reach the others becomes a `RankError` there; after an
    error of this process alone, leaving makes the others fail at once, rather than wait.

    Args:
        rank: which process, from 0.
        world_size: processes in all.
        local_rank: which process of this machine.
        device: where this one computes.
        backend: "gloo" or "nccl"; None = the only process, for which `torch.distributed` is not touched.

    >>> with Distributed.start() as distributed:
    ...     distributed.is_main, distributed.mean({"loss": torch.tensor(2.0)})
    (True, {'loss': tensor(2.)})
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    backend: str | None = None

    @classmethod
    def start(
        cls, backend: str | None = None, *, device: torch.device | str | None = None, timeout: float | int = 600
    ) -> "Distributed":
        """Joins the group that `torchrun` describes in the environment.

        Args:
            backend: None = "nccl" on GPUs and "gloo" on CPUs.
            device: where to compute; None = the GPU of this process's number on its machine, or the CPU where there is
                no GPU.
            timeout: seconds to wait for another process, in anything that all take part in.

        Returns:
            This process; the only one where the environment names no rank.

        Raises:
            ConfigError: an environment that is not whole, or not of numbers, more processes than GPUs, or a process
                that joined already.
            RankError: the others could not be reached in time.
        """
        named = [name for name in _ENVIRONMENT if name in os.environ]
        if "RANK" not in named and "WORLD_SIZE" not in named:
            return cls(device=_device(device, 0))
        if len(named) < len(_ENVIRONMENT):
            missing = ", ".join(name for name in _ENVIRONMENT if name not in named)
            raise ConfigError(
                f"a process of several finds {', '.join(_ENVIRONMENT)} in its environment; {missing} is not there. "
                "Start it with torchrun, or take the others out as well."
            )
        rank, world_size, local_rank = (_number(name) for name in _ENVIRONMENT[:3])
        if not 0 <= rank < world_size:
            raise ConfigError(
                f"ranks are from 0 to WORLD_SIZE - 1; got RANK {rank} of {world_size}. Start the run with torchrun."
            )
        chosen = _device(device, local_rank)
        if world_size == 1:
            return cls(device=chosen)
        if dist.is_initialized():
            raise ConfigError("a process joins one group; this one is in a group already. Leave that first.")
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        backend = backend or ("nccl" if chosen.type == "cuda" else "gloo")
        try:
            dist.init_process_group(
                backend, rank=rank, world_size=world_size, timeout=timedelta(seconds=float(timeout))
            )
        except (dist.DistError, RuntimeError) as error:
            raise RankError(
                f"{world_size} ranks meet at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} within {timeout} "
                f"s; rank {rank} could not: {error}. Start all of them, with an address that all can reach."
            ) from error
        return cls(rank, world_size, local_rank, chosen, backend)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sampler(self, seed: int) -> SourceSampler:
        """Draws of this rank alone: the streams of any two ranks, and of any two seeds, differ.

        Args:
            seed: the run's.

        Returns:
            The sampler, on this rank's device.
        """
        return SourceSampler(rank_seed(seed, self.rank, self.world_size), self.device)

    # --- what all ranks agree on --------------------------------------------------------------------------------------

    @overload
    def sum(self, value: Tensor) -> Tensor: ...
    @overload
    def sum(self, value: Named) -> dict[str, Tensor]: ...
    def sum(self, value: Tensor | Named) -> Tensor | dict[str, Tensor]:
        """Adds up over all ranks.

        Args:
            value: a tensor, or several by name, of the same shapes and in the same order on all ranks.

        Returns:
            The sums, the same on all ranks and without gradients; new tensors.

        Raises:
            RankError: another rank ended or hung.
        """
        return self._all(value, lambda flat: self._reduced(flat, dist.ReduceOp.SUM))

    @overload
    def mean(self, value: Tensor) -> Tensor: ...
    @overload
    def mean(self, value: Named) -> dict[str, Tensor]: ...
    def mean(self, value: Tensor | Named) -> Tensor | dict[str, Tensor]:
        """The mean over all ranks, which is that over all data where ranks have batches of one size; see `sum`."""
        return self._all(value, lambda flat: self._reduced(flat, dist.ReduceOp.SUM) / self.world_size)

    @overload
    def min(self, value: Tensor) -> Tensor: ...
    @overload
    def min(self, value: Named) -> dict[str, Tensor]: ...
    def min(self, value: Tensor | Named) -> Tensor | dict[str, Tensor]:
        """The least of all ranks, number by number; see `sum`."""
        return self._all(value, lambda flat: self._reduced(flat, dist.ReduceOp.MIN))

    @overload
    def broadcast(self, value: Tensor) -> Tensor: ...
    @overload
    def broadcast(self, value: Named) -> dict[str, Tensor]: ...
    def broadcast(self, value: Tensor | Named) -> Tensor | dict[str, Tensor]:
        """What rank 0 has; see `sum`."""
        return self._all(value, self._from_main)

    def gather(self, value: Shaped[Tensor, "..."]) -> list[Shaped[Tensor, "..."]]:
        """What every rank has.

        Args:
            value: of the same shape on all ranks.

        Returns:
            By rank, on all ranks.

        Raises:
            RankError: another rank ended or hung.
        """
        own = value.detach().clone()
        if self.backend is None:
            return [own]
        here = own.to(self.device)
        found = [torch.empty_like(here) for _ in range(self.world_size)]
        with self._waiting("a gathering"):
            dist.all_gather(found, here)
        return [one.to(value.device) for one in found]

    def barrier(self) -> None:
        """Waits until all ranks are here.

        Raises:
            RankError: another rank ended or hung.
        """
        if self.backend is not None:
            with self._waiting("a barrier"):
                dist.barrier(device_ids=[self.device.index] if self.backend == "nccl" else None)

    def _all(self, value: Tensor | Named, combine: Callable[[Tensor], Tensor]) -> Tensor | dict[str, Tensor]:
        if isinstance(value, Tensor):
            return combine(value)
        kinds = {(one.dtype, one.device) for one in value.values()}
        if len(kinds) > 1:
            return {name: combine(one) for name, one in value.items()}
        if not value:
            return {}
        # One message for all of them.
        flat = combine(torch.cat([one.detach().reshape(-1) for one in value.values()]))
        parts = flat.split([one.numel() for one in value.values()])
        return {name: part.reshape(one.shape) for (name, one), part in zip(value.items(), parts, strict=True)}

    def _reduced(self, value: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        own = value.detach().clone().contiguous()
        if self.backend is not None:
            with self._waiting("a reduction"):
                dist.all_reduce(own, how)
        return own

    def _from_main(self, value: Tensor) -> Tensor:
        own = value.detach().clone().contiguous()
        if self.backend is not None:
            with self._waiting("a broadcast"):
                dist.broadcast(own, 0)
        return own

    # --- the end ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _waiting(self, what: str) -> Iterator[None]:
        try:
            yield
        except (dist.DistError, RuntimeError) as error:
            raise self._lost(what, error) from error

    def _lost(self, what: str, error: BaseException) -> RankError:
        return RankError(
            f"all {self.world_size} ranks take part in {what}; rank {self.rank} lost another one, which ended or hung: "
            f"{error}. Look for the first error of the others, mend that, and start all ranks again from the last "
            "checkpoint."
        )

    def __enter__(self) -> "Distributed":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.backend is None:
            return
        if dist.is_initialized():
            dist.destroy_process_group()
        if _is_of_the_group(error):
            assert error is not None
            raise self._lost("every step", error) from error


def _is_of_the_group(error: BaseException | None) -> bool:
    """Whether a gradient's or a parameter's way between ranks broke: these errors do not pass through this module."""
    if isinstance(error, dist.DistError):
        return True
    # gloo's errors have no class of their own.
    return type(error) is RuntimeError and "gloo" in str(error)


def _number(name: str) -> int:
    value = os.environ[name]
    if not value.isdecimal():
        raise ConfigError(f"{name} in the environment is a whole number; got {value!r}. Start the run with torchrun.")
    return int(value)


def _device(device: torch.device | str | None, local_rank: int) -> torch.device:
    if device is not None:
        return torch.device(device)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"each process of a machine has a GPU of its own; process {local_rank} finds {torch.cuda.device_count()}. "
            "Start as many processes as there are GPUs, or name a device."
        )
    return torch.device("cuda", local_rank)
