r"""The published wave, one by one as it was published and many at once.

A wave of D spatial dimensions at place x and time t is

    ψ(x, t) = A cos(k·x − ω t) exp(−|x − v t|² / (2 σ²)) sin(φ + ε cos(λ·x)),   σ = exp(log_sigma)

with 5 + 3 D parameters. At t = 0, where all published data lie, it is even, ψ(−x) = ψ(x), its window sits at the origin
whatever its parameters, and v and ω have no gradient: `dredge.quasimoto.packets.WavePackets` is the form that can move.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dredge.errors import ModelError

__all__ = ["QuasimotoWave", "QuasimotoWave4D", "QuasimotoWave6D", "WaveBank"]

_EPSILON = 0.1


class _Wave(nn.Module):
    """One wave whose parameters are scalars with the published names.

    Args:
        suffixes: of the names of k, v and lmbda, one for each spatial dimension.
        separator: between lmbda and its suffix.
    """

    def __init__(self, suffixes: Sequence[str], separator: str = "") -> None:
        super().__init__()
        self._k = [f"k{name}" for name in suffixes]
        self._v = [f"v{name}" for name in suffixes]
        self._lmbda = [f"lmbda{separator}{name}" for name in suffixes]
        self.A = nn.Parameter(torch.tensor(1.0))
        for name in (*self._k, "omega", *self._v):
            self.register_parameter(name, nn.Parameter(torch.randn(())))
        self.log_sigma = nn.Parameter(torch.tensor(0.0))
        self.phi = nn.Parameter(torch.tensor(0.0))
        self.epsilon = nn.Parameter(torch.tensor(_EPSILON))
        for name in self._lmbda:
            self.register_parameter(name, nn.Parameter(torch.randn(())))

    def forward(self, *coords_and_t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The wave at places and times that broadcast.

        Args:
            *coords_and_t: one tensor for each spatial dimension, then the times.

        Returns:
            Values, of the broadcast shape.

        Raises:
            ModelError: another number of tensors.
        """
        if len(coords_and_t) != len(self._k) + 1:
            raise ModelError(
                f"this wave takes {len(self._k)} coordinates and the time; got {len(coords_and_t)} tensors. Give each."
            )
        *coords, t = coords_and_t
        part = self.get_parameter
        phase = sum(part(name) * x for name, x in zip(self._k, coords, strict=True)) - part("omega") * t
        apart = sum((x - part(name) * t) ** 2 for name, x in zip(self._v, coords, strict=True))
        inner = sum(part(name) * x for name, x in zip(self._lmbda, coords, strict=True))
        sigma = self.log_sigma.exp()
        envelope = torch.exp(-0.5 * apart / sigma**2)
        modulation = torch.sin(self.phi + self.epsilon * torch.cos(torch.as_tensor(inner)))
        found: Tensor = self.A * torch.cos(torch.as_tensor(phase)) * envelope * modulation
        return found


class QuasimotoWave(_Wave):
    """The wave of one dimension, called with (x, t): 8 parameters.

    >>> QuasimotoWave()(torch.zeros(4), torch.zeros(4)).shape
    torch.Size([4])
    """

    def __init__(self) -> None:
        super().__init__([""])


class QuasimotoWave4D(_Wave):
    """The wave of three dimensions and time, called with (x, y, z, t): 14 parameters.

    >>> sum(p.numel() for p in QuasimotoWave4D().parameters())
    14
    """

    def __init__(self) -> None:
        super().__init__(["x", "y", "z"], "_")


class QuasimotoWave6D(_Wave):
    """The wave of five dimensions and time, called with (x1, …, x5, t): 20 parameters.

    >>> sum(p.numel() for p in QuasimotoWave6D().parameters())
    20
    """

    def __init__(self) -> None:
        super().__init__(["1", "2", "3", "4", "5"], "_")


class WaveBank(nn.Module):
    """n waves at once: the same values as a loop over them, in a few tensors of all waves.

    Args:
        dim: D, spatial dimensions.
        n: waves.
        generator: of the initial values; None = torch's own.

    Raises:
        ModelError: fewer than one dimension or wave.

    >>> WaveBank(3, 8)(torch.zeros(5, 3), torch.zeros(5)).shape
    torch.Size([5, 8])
    """

    def __init__(self, dim: int, n: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if dim < 1 or n < 1:
            raise ModelError(f"a bank has dimensions and waves; got dim {dim}, n {n}. Take 1 or more of each.")
        self.dim, self.n = dim, n

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator))

        self.A = nn.Parameter(torch.ones(n))
        self.k, self.omega, self.v = drawn(n, dim), drawn(n), drawn(n, dim)
        self.log_sigma, self.phi = nn.Parameter(torch.zeros(n)), nn.Parameter(torch.zeros(n))
        self.epsilon = nn.Parameter(torch.full((n,), _EPSILON))
        self.lmbda = drawn(n, dim)

    @classmethod
    def of(cls, waves: Sequence[nn.Module]) -> "WaveBank":
        """A bank with the parameters of published waves.

        Args:
            waves: of one kind.

        Returns:
            The bank; its parameters are copies, in the waves' precision and on their device.

        Raises:
            ModelError: no waves, or waves of different kinds.
        """
        kinds = {type(wave) for wave in waves}
        if len(kinds) != 1 or not all(isinstance(wave, _Wave) for wave in waves):
            raise ModelError(
                f"a bank is made of waves of one kind; got {sorted(kind.__name__ for kind in kinds)}. Give one kind."
            )
        own = [wave for wave in waves if isinstance(wave, _Wave)]
        bank = cls(len(own[0]._k), len(own)).to(own[0].A)

        def rows(names: list[str], wave: _Wave) -> Tensor:
            return torch.stack([wave.get_parameter(name) for name in names])

        with torch.no_grad():
            for place, wave in enumerate(own):
                bank.k[place], bank.v[place] = rows(wave._k, wave), rows(wave._v, wave)
                bank.lmbda[place] = rows(wave._lmbda, wave)
                for name in ("A", "omega", "log_sigma", "phi", "epsilon"):
                    bank.get_parameter(name)[place] = wave.get_parameter(name)
        return bank

    def forward(self, coords: Float[Tensor, "*batch D"], t: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch n"]:
        """All waves at places and times.

        Args:
            coords: places.
            t: times.

        Returns:
            One value a wave.

        Raises:
            ModelError: coordinates of another number of dimensions.
        """
        if coords.shape[-1] != self.dim:
            raise ModelError(f"this bank has {self.dim} dimensions; got {coords.shape[-1]} coordinates. Give each.")
        time = t[..., None]
        phase = coords @ self.k.T - self.omega * time
        # Not |x|² − 2 t v·x + t² |v|²: far from the origin that loses the digits in which x and v t differ.
        apart = sum((coords[..., i, None] - time * self.v[:, i]).square() for i in range(self.dim))
        envelope = torch.exp(-0.5 * apart * torch.exp(-2 * self.log_sigma))
        modulation = torch.sin(self.phi + self.epsilon * torch.cos(coords @ self.lmbda.T))
        return self.A * torch.cos(phase) * envelope * modulation
