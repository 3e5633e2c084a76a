"""Published ensembles: independent waves side by side under a linear head."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dredge.errors import ModelError
from dredge.quasimoto.waves import QuasimotoWave, QuasimotoWave4D, QuasimotoWave6D, WaveBank

__all__ = ["QuasimotoEnsemble", "QuasimotoEnsemble4D", "QuasimotoEnsemble6D", "WaveEnsemble"]


class _Ensemble(nn.Module):
    kind: type[nn.Module]

    def __init__(self, n: int) -> None:
        super().__init__()
        if n < 1:
            raise ModelError(f"an ensemble has waves; got {n}. Take 1 or more.")
        self.waves = nn.ModuleList(self.kind() for _ in range(n))
        self.head = nn.Linear(n, 1)

    def forward(self, *coords_and_t: Float[Tensor, "..."]) -> Float[Tensor, "... 1"]:
        """Weighted sum of the waves.

        Args:
            *coords_and_t: as a wave takes them.

        Returns:
            One value a place, on a last axis of its own.
        """
        found: Tensor = self.head(torch.stack([wave(*coords_and_t) for wave in self.waves], dim=-1))
        return found


class QuasimotoEnsemble(_Ensemble):
    """n waves of one dimension, called with (x, t): 9 n + 1 parameters.

    Args:
        n: waves.

    >>> sum(p.numel() for p in QuasimotoEnsemble().parameters())
    145
    """

    kind = QuasimotoWave

    def __init__(self, n: int = 16) -> None:
        super().__init__(n)


class QuasimotoEnsemble4D(_Ensemble):
    """n waves of three dimensions and time, called with (x, y, z, t): 15 n + 1 parameters.

    Args:
        n: waves.

    >>> sum(p.numel() for p in QuasimotoEnsemble4D().parameters())
    121
    """

    kind = QuasimotoWave4D

    def __init__(self, n: int = 8) -> None:
        super().__init__(n)


class QuasimotoEnsemble6D(_Ensemble):
    """n waves of five dimensions and time, called with (x1, …, x5, t): 21 n + 1 parameters.

    Args:
        n: waves.

    >>> sum(p.numel() for p in QuasimotoEnsemble6D().parameters())
    127
    """

    kind = QuasimotoWave6D

    def __init__(self, n: int = 6) -> None:
        super().__init__(n)


class WaveEnsemble(nn.Module):
    """The same ensemble with all waves computed at once, called as the published one of its dimensions.

    Args:
        dim: D, spatial dimensions.
        n: waves.
        generator: of the initial values, those of the head included; None = torch's own.

    Raises:
        ModelError: fewer than one dimension or wave.

    >>> published = QuasimotoEnsemble4D(5)
    >>> at = [torch.randn(7) for _ in range(4)]
    >>> torch.allclose(WaveEnsemble.of(published)(*at), published(*at), atol=1e-6)
    True
    """

    def __init__(self, dim: int, n: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.waves = WaveBank(dim, n, generator=generator)
        self.head = nn.Linear(n, 1)
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.uniform_(-1 / math.sqrt(n), 1 / math.sqrt(n), generator=generator)

    @classmethod
    def of(cls, published: "QuasimotoEnsemble | QuasimotoEnsemble4D | QuasimotoEnsemble6D") -> "WaveEnsemble":
        """An ensemble with the parameters of a published one.

        Args:
            published: one loop over waves.

        Returns:
            The ensemble; its parameters are copies, in their precision and on their device.
        """
        bank = WaveBank.of(list(published.waves))
        made = cls(bank.dim, bank.n).to(bank.A)
        made.waves = bank
        made.head.load_state_dict(published.head.state_dict())
        return made

    def forward(self, *coords_and_t: Float[Tensor, "..."]) -> Float[Tensor, "... 1"]:
        """Weighted sum of the waves.

        Args:
            *coords_and_t: one tensor for each spatial dimension, then the times; they broadcast.

        Returns:
            One value a place, on a last axis of its own.

        Raises:
            ModelError: another number of tensors.
        """
        if len(coords_and_t) != self.waves.dim + 1:
            raise ModelError(
                f"this ensemble takes {self.waves.dim} coordinates and the time; got {len(coords_and_t)} tensors. "
                "Give each."
            )
        *coords, t = torch.broadcast_tensors(*coords_and_t)
        found: Tensor = self.head(self.waves(torch.stack(coords, dim=-1), t))
        return found
