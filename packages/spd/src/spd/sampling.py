"""Every random number that training and evaluation draw comes from one object.

A `SourceSampler` draws from a `torch.Generator` of its own, so that nobody else's draws change a run, each rank has its
own stream, and a checkpoint can hold its state. An `InjectedSampler` gives out numbers that were chosen beforehand: two
ways to compute the same loss can then be compared with the same randomness.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from spd.errors import SamplingError

__all__ = ["InjectedSampler", "Sampling", "SourceSampler", "rank_seed"]

Sampling = Literal["continuous", "binomial"]
"""How far a component is ablated: by r ~ U(0, 1), or by a fair coin r in {0, 1}."""


def rank_seed(seed: int, rank: int, world_size: int) -> int:
    """A seed for each rank, different for any two pairs of seed and rank: seed · world size + rank.

    Args:
        seed: the run's seed.
        rank: which process.
        world_size: processes in all.

    Returns:
        The seed.

    >>> [rank_seed(1, rank, 2) for rank in (0, 1)]
    [2, 3]
    """
    return seed * world_size + rank


class SourceSampler:
    """Draws from a generator of its own.

    Args:
        seed: starts the stream.
        device: where numbers are made and used.

    >>> a, b = SourceSampler(3), SourceSampler(3)
    >>> torch.equal(a.uniform((2, 2)), b.uniform((2, 2)))
    True
    """

    def __init__(self, seed: int = 0, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def uniform(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        """U(0, 1), independent.

        Args:
            shape: how many.

        Returns:
            Float32 numbers.
        """
        return torch.rand(tuple(shape), generator=self.generator, device=self.device)

    def integers(self, high: int, shape: Sequence[int]) -> Int64[Tensor, "..."]:
        """Uniform over 0 … high − 1, independent.

        Args:
            high: one above the largest.
            shape: how many.

        Returns:
            The numbers.
        """
        return torch.randint(high, tuple(shape), generator=self.generator, device=self.device)

    def sources(self, shape: Sequence[int], sampling: Sampling) -> Float[Tensor, "..."]:
        """How far components are ablated, r.

        Args:
            shape: how many.
            sampling: U(0, 1), or 0 and 1 with equal chance.

        Returns:
            Float32 numbers in [0, 1].
        """
        return self.uniform(shape) if sampling == "continuous" else self.integers(2, shape).float()

    def bernoulli(self, p: float, shape: Sequence[int]) -> Bool[Tensor, "..."]:
        """True with chance p, independent.

        Args:
            p: the chance.
            shape: how many.

        Returns:
            The flags.
        """
        return self.uniform(shape) < p

    def ranks(self, n: int, shape: Sequence[int]) -> Int64[Tensor, "n ..."]:
        """A random permutation of 0 … n − 1 for each position, over the first axis.

        Args:
            n: length of the permutations.
            shape: of the positions.

        Returns:
            The permutations.
        """
        return self.uniform((n, *shape)).argsort(0).argsort(0)

    def state_dict(self) -> dict[str, UInt8[Tensor, " bytes"]]:
        """The generator's state, for a checkpoint."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, UInt8[Tensor, " bytes"]]) -> None:
        """Goes on from a saved state.

        Args:
            state: from `state_dict`.
        """
        self.generator.set_state(state["generator"].cpu())


class InjectedSampler(SourceSampler):
    """Gives out uniform numbers that were chosen beforehand, in their order, and is asked for no others.

    Everything else that can be drawn is made from uniform numbers here: integers are ⌊high · u⌋.

    Args:
        draws: one tensor for each draw.

    Raises:
        SamplingError: more draws than there are, or one of another shape.

    >>> sampler = InjectedSampler([torch.tensor([0.25, 0.75])])
    >>> sampler.integers(4, (2,)).tolist()
    [1, 3]
    """

    def __init__(self, draws: Iterable[Float[Tensor, "..."]]) -> None:
        super().__init__()
        self._draws = list(draws)
        self.used = 0

    def uniform(self, shape: Sequence[int]) -> Float[Tensor, "..."]:
        """The next numbers.

        Args:
            shape: what they must have.

        Returns:
            The numbers, as they were given.

        Raises:
            SamplingError: none is left, or the shape is another.
        """
        if self.used >= len(self._draws):
            raise SamplingError(
                f"an injected sampler holds a tensor for each draw; {len(self._draws)} were given and shape "
                f"{tuple(shape)} is asked for beyond them. Give one more."
            )
        found = self._draws[self.used]
        if found.shape != tuple(shape):
            raise SamplingError(
                f"draw {self.used} is asked for with shape {tuple(shape)}; {tuple(found.shape)} was injected. Give "
                "tensors in the order and the shapes in which they are drawn."
            )
        self.used += 1
        return found

    def integers(self, high: int, shape: Sequence[int]) -> Int64[Tensor, "..."]:
        """⌊high · u⌋ of the next numbers.

        Args:
            high: one above the largest.
            shape: how many.

        Returns:
            The numbers.
        """
        return (self.uniform(shape) * high).long().clamp_(max=high - 1)
