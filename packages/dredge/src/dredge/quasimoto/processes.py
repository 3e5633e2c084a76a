"""This process of several that train one model: those that `torchrun` started, or this one alone."""

import os
from datetime import timedelta
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from dredge.errors import ModelError

__all__ = ["Processes"]


class Processes:
    """The group, made from the environment that `torchrun` sets where there is none yet; alone without it.

    Raises:
        ModelError: `torchrun`'s variables are there but the group cannot be made.

    >>> Processes().count
    1
    """

    def __init__(self) -> None:
        if not dist.is_available():
            self.rank, self.count = 0, 1
            return
        if not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            # Models may be trained on the CPU of a machine that has GPUs.
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
            try:
                dist.init_process_group(backend, timeout=timedelta(minutes=5))
            except (RuntimeError, ValueError) as error:
                raise ModelError(
                    f"several processes meet at MASTER_ADDR:MASTER_PORT; they did not: {error}. Start them by torchrun."
                ) from error
        together = dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.count = dist.get_world_size() if together else 1

    def device(self, name: str) -> torch.device:
        """Where this process computes.

        Args:
            name: "auto" = its own GPU where there is one; or a device's name.

        Returns:
            The device.

        Raises:
            ModelError: no such device is here.
        """
        if name == "auto":
            name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
        try:
            found = torch.device(name)
            torch.empty(0, device=found)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"a device is one that torch has; {name!r} is not: {reason}. Use 'cpu'.") from error
        return found

    def wrapped(self, model: Any) -> Any:
        """The model, its gradients averaged over the processes.

        Args:
            model: as on this process.

        Returns:
            It, wrapped where there are several.
        """
        if self.count == 1:
            return model
        assert isinstance(model, nn.Module)
        return DistributedDataParallel(model)

    def share(self, batch: Int[Tensor, "batch"]) -> Int[Tensor, "mine"]:
        """This process's samples of a batch: every count-th.

        Args:
            batch: the same on all.

        Returns:
            Its own.
        """
        return batch[self.rank :: self.count]

    def mean(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The mean over processes.

        Args:
            value: of this one.

        Returns:
            The same on all.
        """
        if self.count > 1:
            dist.all_reduce(value)
            value = value / self.count
        return value

    def agreed(self, stop: bool, device: torch.device) -> bool:
        """Whether any process wants to stop, so that all stop at the same step.

        Args:
            stop: whether this one does.
            device: to exchange on.

        Returns:
            The same on all.
        """
        if self.count == 1:
            return stop
        wanted = torch.tensor(float(stop), device=device)
        dist.all_reduce(wanted)
        return bool(wanted.item() > 0)
