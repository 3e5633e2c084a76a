"""Other models of coordinates, to compare with: sine networks, wavelets, Fourier features and filters.

They are written from their papers, each small enough to read, and all take points and return values as `WavePackets`
does. Points are expected in [−1, 1] on each axis. Under autocast the first layer stays in float32: a frequency of 30 in
8 bits is off by a tenth of a radian.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from dredge.errors import ModelError

__all__ = ["BASELINES", "Finer", "FourierFeatures", "MultiplicativeFilters", "Siren", "Wire", "baseline"]


class Siren(nn.Module):
    """sin(ω₀ (W x + b)), layer after layer, then a linear one.

    Sitzmann et al., *Implicit neural representations with periodic activation functions*, 2020 (arXiv:2006.09661).

    Args:
        dim: coordinates.
        out: values.
        hidden: width.
        layers: with a sine.
        w0: ω₀, of all layers.
        seed: of the start.

    Raises:
        ModelError: sizes below 1, or a w0 that is not positive.

    >>> sum(p.numel() for p in Siren(1, 1, hidden=64, layers=2).parameters())
    4353
    """

    def __init__(
        self, dim: int, out: int = 1, *, hidden: int = 64, layers: int = 3, w0: float | int = 30.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.config = {"dim": dim, "out": out, "hidden": hidden, "layers": layers, "w0": w0, "seed": seed}
        _sizes(dim=dim, out=out, hidden=hidden, layers=layers)
        if not 0 < w0 < math.inf:
            raise ModelError(f"w0 is a positive number; got {w0}. Take 30 or so.")
        self.w0 = float(w0)
        random = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(nn.Linear(dim if i == 0 else hidden, hidden) for i in range(layers))
        self.head = nn.Linear(hidden, out)
        for i, layer in enumerate([*self.layers, self.head]):
            width = layer.in_features
            bound = 1 / width if i == 0 else math.sqrt(6 / width) / self.w0
            _uniform(layer.weight, bound, random)
            _uniform(layer.bias, self.bias_bound(i, width), random)

    def bias_bound(self, layer: int, width: int) -> float:
        """Of the uniform start of a layer's biases.

        Args:
            layer: from 0.
            width: of its input.

        Returns:
            The bound.
        """
        return 1 / math.sqrt(width)

    def activation(self, z: Float[Tensor, "points hidden"]) -> Float[Tensor, "points hidden"]:
        """Of a layer.

        Args:
            z: W x + b.

        Returns:
            sin(ω₀ z).
        """
        return torch.sin(self.w0 * z)

    def forward(self, coords: Float[Tensor, "points dim"]) -> Float[Tensor, "points out"]:
        """The network at some points.

        Args:
            coords: where.

        Returns:
            Values.
        """
        x = coords
        for i, layer in enumerate(self.layers):
            with torch.autocast(coords.device.type, enabled=torch.is_autocast_enabled(coords.device.type) and i > 0):
                x = self.activation(layer(x))
        return self.head(x)


class Finer(Siren):
    """sin(ω₀ (|z| + 1) z), with first biases spread widely, so that units have many frequencies.

    Liu et al., *FINER: flexible spectral-bias tuning in implicit neural representation by variable-periodic activation
    functions*, 2024 (arXiv:2312.02434).

    Args:
        dim: coordinates.
        out: values.
        hidden: width.
        layers: with a sine.
        w0: ω₀.
        first_bias: bound of the first layer's biases.
        seed: of the start.

    Raises:
        ModelError: sizes below 1, or a w0 that is not positive.
    """

    def __init__(
        self, dim: int, out: int = 1, *, hidden: int = 64, layers: int = 3, w0: float | int = 30.0,
        first_bias: float | int = 1.0, seed: int = 0,
    ) -> None:  # fmt: skip
        self._first_bias = float(first_bias)
        super().__init__(dim, out, hidden=hidden, layers=layers, w0=w0, seed=seed)
        self.config["first_bias"] = first_bias

    def bias_bound(self, layer: int, width: int) -> float:
        """Of the uniform start of a layer's biases: wide in the first.

        Args:
            layer: from 0.
            width: of its input.

        Returns:
            The bound.
        """
        return self._first_bias if layer == 0 else super().bias_bound(layer, width)

    def activation(self, z: Float[Tensor, "points hidden"]) -> Float[Tensor, "points hidden"]:
        """Of a layer.

        Args:
            z: W x + b.

        Returns:
            sin(ω₀ (|z| + 1) z).
        """
        # As in the authors' code, the factor is taken as a constant by the gradient.
        return torch.sin(self.w0 * (z.detach().abs() + 1) * z)


class Wire(nn.Module):
    """exp(i ω₀ z − |s₀ z|²) of complex layers: Gabor wavelets as activations; the value is the real part.

    Saragadam et al., *WIRE: wavelet implicit neural representations*, 2023 (arXiv:2301.05187).

    Args:
        dim: coordinates.
        out: values.
        hidden: width, in complex numbers.
        layers: with a wavelet.
        w0: frequency.
        s0: inverse width.
        seed: of the start.

    Raises:
        ModelError: sizes below 1.
    """

    def __init__(
        self, dim: int, out: int = 1, *, hidden: int = 40, layers: int = 2, w0: float | int = 10.0,
        s0: float | int = 10.0, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config = {"dim": dim, "out": out, "hidden": hidden, "layers": layers, "w0": w0, "s0": s0, "seed": seed}
        _sizes(dim=dim, out=out, hidden=hidden, layers=layers)
        self.w0, self.s0 = float(w0), float(s0)
        self.first = nn.Linear(dim, hidden)
        kind = torch.complex64
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden, dtype=kind) for _ in range(layers - 1))
        self.head = nn.Linear(hidden, out, dtype=kind)
        random = torch.Generator().manual_seed(seed)
        for layer in [self.first, *self.layers, self.head]:
            bound = 1 / math.sqrt(layer.in_features)
            for parameter in (layer.weight, layer.bias):
                for part in [parameter] if not parameter.is_complex() else torch.view_as_real(parameter).unbind(-1):
                    _uniform(part, bound, random)

    def _wavelet(self, z: Complex[Tensor, "points hidden"]) -> Complex[Tensor, "points hidden"]:
        return torch.exp(1j * self.w0 * z - (self.s0 * z.abs()).square())

    def forward(self, coords: Float[Tensor, "points dim"]) -> Float[Tensor, "points out"]:
        """The network at some points.

        Args:
            coords: where.

        Returns:
            Values.
        """
        with torch.autocast(coords.device.type, enabled=False):
            x = self._wavelet(self.first(coords).to(torch.complex64))
            for layer in self.layers:
                x = self._wavelet(layer(x))
            return self.head(x).real


class FourierFeatures(nn.Module):
    """sin and cos of fixed random frequencies, then a network of ReLUs.

    Tancik et al., *Fourier features let networks learn high frequency functions in low dimensional domains*, 2020
    (arXiv:2006.10739).

    Args:
        dim: coordinates.
        out: values.
        features: frequencies.
        sigma: standard deviation of the frequencies, in cycles per unit.
        hidden: width.
        layers: with a ReLU; 0 = a linear head alone.
        seed: of frequencies and start.

    Raises:
        ModelError: sizes below 1.
    """

    frequencies: Tensor

    def __init__(
        self, dim: int, out: int = 1, *, features: int = 64, sigma: float | int = 5.0, hidden: int = 48,
        layers: int = 1, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config = {
            "dim": dim, "out": out, "features": features, "sigma": sigma, "hidden": hidden, "layers": layers,
            "seed": seed,
        }  # fmt: skip
        _sizes(dim=dim, out=out, features=features, hidden=hidden, layers=layers + 1)
        random = torch.Generator().manual_seed(seed)
        drawn = torch.randn(dim, features, generator=random) * (2 * math.pi * float(sigma))
        self.register_buffer("frequencies", drawn)
        sizes = [2 * features, *[hidden] * layers, out]
        parts: list[nn.Module] = []
        for i, (a, b) in enumerate(pairwise(sizes)):
            layer = nn.Linear(a, b)
            last = i == len(sizes) - 2
            _uniform(layer.weight, math.sqrt((1 if last else 6) / a), random)
            nn.init.zeros_(layer.bias)
            parts += [layer] if last else [layer, nn.ReLU()]
        self.network = nn.Sequential(*parts)

    def forward(self, coords: Float[Tensor, "points dim"]) -> Float[Tensor, "points out"]:
        """The network at some points.

        Args:
            coords: where.

        Returns:
            Values.
        """
        with torch.autocast(coords.device.type, enabled=False):
            phase = coords @ self.frequencies
        return self.network(torch.cat([phase.sin(), phase.cos()], dim=1))


class MultiplicativeFilters(nn.Module):
    """z₁ = g₁(x), zᵢ₊₁ = (Wᵢ zᵢ + bᵢ) · gᵢ₊₁(x): products of sines, or of Gabor filters; no activation.

    Fathony et al., *Multiplicative filter networks*, ICLR 2021.

    Args:
        dim: coordinates.
        out: values.
        hidden: width.
        layers: filters.
        scale: of the frequencies, radians per unit.
        gabor: whether filters have a Gaussian window.
        seed: of the start.

    Raises:
        ModelError: sizes below 1.
    """

    def __init__(
        self, dim: int, out: int = 1, *, hidden: int = 48, layers: int = 3, scale: float | int = 30.0,
        gabor: bool = False, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.config = {
            "dim": dim, "out": out, "hidden": hidden, "layers": layers, "scale": scale, "gabor": gabor, "seed": seed,
        }  # fmt: skip
        _sizes(dim=dim, out=out, hidden=hidden, layers=layers)
        random = torch.Generator().manual_seed(seed)
        self.filters = nn.ModuleList(nn.Linear(dim, hidden) for _ in range(layers))
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))
        self.head = nn.Linear(hidden, out)
        for part in self.filters:
            assert isinstance(part, nn.Linear)
            _uniform(part.weight, float(scale) / math.sqrt(layers), random)
            _uniform(part.bias, math.pi, random)
        for layer in [*self.layers, self.head]:
            _uniform(layer.weight, math.sqrt(1 / hidden), random)
            _uniform(layer.bias, math.sqrt(1 / hidden), random)
        self.centre = self.log_width = None
        if gabor:
            places = 2 * torch.rand(layers, hidden, dim, generator=random) - 1
            self.centre = nn.Parameter(places)
            self.log_width = nn.Parameter(torch.full((layers, hidden), math.log(0.5)))

    def _filtered(self, coords: Float[Tensor, "points dim"], i: int) -> Float[Tensor, "points hidden"]:
        with torch.autocast(coords.device.type, enabled=False):
            wave = torch.sin(self.filters[i](coords))
            if self.centre is None or self.log_width is None:
                return wave
            squares = (coords[:, None] - self.centre[i]).square().sum(2)
            return wave * torch.exp(-0.5 * squares * torch.exp(-2 * self.log_width[i]))

    def forward(self, coords: Float[Tensor, "points dim"]) -> Float[Tensor, "points out"]:
        """The network at some points.

        Args:
            coords: where.

        Returns:
            Values.
        """
        x = self._filtered(coords, 0)
        for i, layer in enumerate(self.layers):
            x = layer(x) * self._filtered(coords, i + 1)
        return self.head(x)


BASELINES: dict[str, Callable[..., nn.Module]] = {
    "siren": Siren, "finer": Finer, "wire": Wire, "fourier": FourierFeatures, "mfn": MultiplicativeFilters,
}  # fmt: skip
"""Models to compare with, by name."""


def baseline(name: str, dim: int, out: int = 1, **options: Any) -> nn.Module:
    """Makes one of `BASELINES`.

    Args:
        name: its own.
        dim: coordinates.
        out: values.
        **options: of its class.

    Returns:
        The model.

    Raises:
        ModelError: no such name or option.
    """
    if name not in BASELINES:
        raise ModelError(f"a baseline is one of {', '.join(BASELINES)}; got {name!r}. Use one of them.")
    try:
        return BASELINES[name](dim, out, **options)
    except TypeError as error:
        raise ModelError(f"{name} has other options: {error}. See its class.") from error


def _uniform(weight: Tensor, bound: float, random: torch.Generator) -> None:
    with torch.no_grad():
        weight.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=random))


def _sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ModelError(f"{name} is at least 1; got {size}. Give more.")
