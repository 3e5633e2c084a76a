"""Wave packets: a signal as a short sum of windowed waves that a person can read.

A packet has a place, a width on each axis, a frequency, and two amplitudes, one of the cosine and one of the sine::

    f(x) = b + Σ_j E_j(x) · (a_j cos Φ_j(x) + c_j sin Φ_j(x))
    Φ_j  = k_j·(x − μ_j)  [+ ½ (x − μ_j)ᵀ B_j (x − μ_j)]  [− ω_j t]
    E_j  = exp(−½ Σ_i ((x_i − μ_ji − v_ji t) / σ_ji)²)    [/ ((2π)^(d/2) Π_i σ_ji)]

What stands in brackets is optional: a chirp, a drift with the time t, and the envelope of a density. The sum is linear
in a and c, so that the phase needs no search of its own (Gabor, *Theory of communication*, 1946; Mallat & Zhang,
*Matching pursuits with time-frequency dictionaries*, 1993).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dredge.errors import ModelError

__all__ = ["Packet", "WavePackets", "packet_energy", "squared_distances"]


_FARTHEST = -40.0


@dataclass(frozen=True)
class Packet:
    """One packet as a person reads it: amplitude · exp(−½ |(x − centre)/width|²) · cos(frequency·(x − centre) + phase).

    Args:
        centre: where it is, one number an axis.
        width: standard deviation of its window, one number an axis.
        frequency: radians per unit, one number an axis; the first that is not 0 is positive.
        amplitude: height of the window, of the strongest output.
        phase: radians in (−π, π], of that output.
        energy: integral of its square over all space, summed over outputs.
        index: its row among the model's parameters.
        amplitudes: of each output.
        phases: of each output.
        drift: velocity of the window, one number an axis; None without drift.
        omega: radians per unit of time; None without drift.
        chirp: the symmetric matrix B, row by row; None without chirp.
    """

    centre: tuple[float, ...]
    width: tuple[float, ...]
    frequency: tuple[float, ...]
    amplitude: float
    phase: float
    energy: float
    index: int
    amplitudes: tuple[float, ...]
    phases: tuple[float, ...]
    drift: tuple[float, ...] | None = None
    omega: float | None = None
    chirp: tuple[tuple[float, ...], ...] | None = None

    @property
    def cycles(self) -> tuple[float, ...]:
        """Its frequency in cycles per unit."""
        return tuple(k / (2 * math.pi) for k in self.frequency)

    def as_json(self) -> dict[str, Any]:
        """The packet as JSON values, without what it does not have; `cycles` is its frequency in cycles per unit.

        >>> packet = Packet((0.0,), (1.0,), (2.0,), 3.0, 0.0, 8.0, 0, (3.0,), (0.0,))
        >>> packet.as_json()["frequency"]
        [2.0]
        """
        found: dict[str, Any] = {
            "centre": list(self.centre), "width": list(self.width), "frequency": list(self.frequency),
            "cycles": list(self.cycles),
            "amplitude": self.amplitude, "phase": self.phase, "energy": self.energy,
        }  # fmt: skip
        if len(self.amplitudes) > 1:
            found |= {"amplitudes": list(self.amplitudes), "phases": list(self.phases)}
        if self.omega is not None and self.drift is not None:
            found |= {"drift": list(self.drift), "omega": self.omega}
        if self.chirp is not None:
            found["chirp"] = [list(row) for row in self.chirp]
        return found


def squared_distances(
    points: Float[Tensor, "points dim"], centre: Float[Tensor, "packets dim"], scale: Float[Tensor, "packets dim"]
) -> Float[Tensor, "points packets"]:
    """Σ_i ((x_i − μ_i) / σ_i)² of every point and packet, as three matrix products: x² − 2 x μ + μ².

    No tensor of points × packets × axes is made. On one axis there is none to save, and the difference itself is taken,
    which is exact. On more, both sides are first moved to the packets' mean, because the expansion loses digits far
    from the origin; what rounding makes negative is 0.

    Args:
        points: where.
        centre: μ.
        scale: 1/σ.

    Returns:
        Not negative.

    >>> x = torch.tensor([[3.0, 4.0]])
    >>> squared_distances(x, torch.zeros(1, 2), torch.ones(1, 2)).item()
    25.0
    """
    if points.shape[1] == 1:
        return ((points - centre.T) * scale.T).square()
    middle = centre.detach().mean(dim=0)
    points, centre = points - middle, centre - middle
    inverse = scale.square()
    expanded = points.square() @ inverse.T - 2 * (points @ (inverse * centre).T) + (inverse * centre.square()).sum(1)
    return expanded.clamp_min(0)


class WavePackets(nn.Module):
    """A sum of wave packets, all evaluated at once.

    A packet has 3·dim + 2·out parameters (isotropic: 2·dim + 1 + 2·out), and each output has a constant. A new one has
    all centres at 0, widths 1, small amplitudes and low frequencies: start it from data with
    `dredge.quasimoto.pursuit.initialise`, or make it by `pursue`.

    Args:
        dim: axes of space.
        n: packets.
        out: values at each point.
        drift: windows move with time and phases turn with it; `forward` then takes t.
        chirp: the frequency changes along the packet.
        envelope: "peak" = windows of height 1; "density" = windows of integral 1.
        anisotropic: a width for each axis; False = one for all.

    Raises:
        ModelError: sizes below 1, or another envelope.

    >>> model = WavePackets(1, 12)
    >>> sum(p.numel() for p in model.parameters())
    61
    >>> model(torch.zeros(5, 1)).shape
    torch.Size([5, 1])
    """

    def __init__(
        self, dim: int, n: int, out: int = 1, *, drift: bool = False, chirp: bool = False,
        envelope: str = "peak", anisotropic: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(dim, n, out) < 1:
            raise ModelError(f"axes, packets and outputs are at least 1; got {dim}, {n} and {out}. Give more.")
        if envelope not in ("peak", "density"):
            raise ModelError(f"an envelope is 'peak' or 'density'; got {envelope!r}. Use one of them.")
        self.dim, self.n, self.out, self.envelope = dim, n, out, envelope
        self.anisotropic = anisotropic
        self.centre = nn.Parameter(torch.zeros(n, dim))
        self.log_width = nn.Parameter(torch.zeros(n, dim if anisotropic else 1))
        # Packets that are equal would stay equal: frequencies 0, 1/n, 2/n, … tell them apart without a random number.
        self.frequency = nn.Parameter(torch.linspace(0, 1, n + 1)[:n, None].repeat(1, dim))
        self.velocity = nn.Parameter(torch.zeros(n, dim)) if drift else None
        self.omega = nn.Parameter(torch.zeros(n)) if drift else None
        self.chirp = nn.Parameter(torch.zeros(n, dim * (dim + 1) // 2)) if chirp else None
        self.head = nn.Linear(2 * n, out)
        nn.init.constant_(self.head.weight, 1e-2)
        nn.init.zeros_(self.head.bias)

    @property
    def config(self) -> dict[str, Any]:
        """What makes another of the same shape: `WavePackets(**model.config)`."""
        return {
            "dim": self.dim, "n": self.n, "out": self.out, "drift": self.velocity is not None,
            "chirp": self.chirp is not None, "envelope": self.envelope, "anisotropic": self.anisotropic,
        }  # fmt: skip

    def forward(
        self, coords: Float[Tensor, "points dim"], t: Float[Tensor, "*times"] | float | int | None = None
    ) -> Float[Tensor, "points out"]:
        """The sum at some points.

        Args:
            coords: where.
            t: when; one number, or one for each point. Only with drift; None = 0.

        Returns:
            Values, in the precision of the parameters.

        Raises:
            ModelError: points of another dimension, or a time without drift.
        """
        return self.head(self.quadratures(coords, t))

    def quadratures(
        self, coords: Float[Tensor, "points dim"], t: Float[Tensor, "*times"] | float | int | None = None
    ) -> Float[Tensor, "points waves"]:
        """[E cos Φ, E sin Φ] of every packet: what the head sums.

        Args:
            coords: where.
            t: when.

        Returns:
            The cosines of all packets, then the sines.

        Raises:
            ModelError: points of another dimension, or a time without drift.
        """
        if coords.ndim != 2 or coords.shape[1] != self.dim:
            raise ModelError(
                f"points have {self.dim} coordinates each, in rows; got the shape {tuple(coords.shape)}. Stack them."
            )
        # Under autocast these products would be of 8 bits, and a phase of 100 radians would be wrong by one.
        with torch.autocast(coords.device.type, enabled=False):
            coords = coords.to(self.centre.dtype)
            log_width = self.log_width.expand(self.n, self.dim)
            scale = torch.exp(-log_width)
            phase = coords @ self.frequency.T - (self.frequency * self.centre).sum(1)
            if self.chirp is not None:
                phase = phase + 0.5 * self._quadratic(coords)
            if self.velocity is not None and self.omega is not None:
                when = self._times(coords, 0.0 if t is None else t)
                moved = (coords[:, None] - self.centre - when[:, None] * self.velocity) * scale
                squares = moved.square().sum(2)
                phase = phase - when * self.omega
            elif t is not None:
                raise ModelError("a time is for packets that drift; these do not. Make them with drift=True.")
            else:
                squares = squared_distances(coords, self.centre, scale)
            # A window below 4e-18 adds nothing, and numbers below 1e-38 are computed a hundred times slower.
            log_envelope = (-0.5 * squares).clamp_min(_FARTHEST)
            if self.envelope == "density":
                log_envelope = log_envelope - log_width.sum(1) - 0.5 * self.dim * math.log(2 * math.pi)
            window = torch.exp(log_envelope)
            return torch.cat([window * torch.cos(phase), window * torch.sin(phase)], dim=1)

    def to_table(self) -> list[Packet]:
        """The packets as a person reads them, the strongest (by energy) first.

        Returns:
            One a packet.
        """
        with torch.no_grad():
            weight = self.head.weight.double().cpu().numpy()
            log_width = self.log_width.double().expand(self.n, self.dim).cpu().numpy()
            centre, frequency = self.centre.double().cpu().numpy(), self.frequency.double().cpu().numpy()
            chirp = None if self.chirp is None else self._matrices().double().cpu().numpy()
        width = np.exp(log_width)
        height = np.exp(-log_width.sum(1)) * (2 * np.pi) ** (-self.dim / 2) if self.envelope == "density" else 1.0
        cosine, sine = weight[:, : self.n] * height, weight[:, self.n :] * height
        found = []
        for j in range(self.n):
            k, bend = frequency[j], None if chirp is None else chirp[j]
            amplitude, phase = np.hypot(cosine[:, j], sine[:, j]), np.arctan2(-sine[:, j], cosine[:, j])
            turning = None if self.omega is None else float(self.omega[j].detach())
            nonzero = np.flatnonzero(k)
            if len(nonzero) and k[nonzero[0]] < 0:
                # cos(φ) = cos(−φ): of the two ways to say it, the one with a positive frequency.
                k, phase = -k, -phase
                bend = None if bend is None else -bend
                turning = None if turning is None else -turning
            phase = np.where(phase <= -np.pi, phase + 2 * np.pi, phase)
            energy = sum(packet_energy(a, p, width[j], k, bend) for a, p in zip(amplitude, phase, strict=True))
            strongest = int(np.argmax(amplitude))
            found.append(
                Packet(
                    centre=_floats(centre[j]), width=_floats(width[j]), frequency=_floats(k),
                    amplitude=float(amplitude[strongest]), phase=float(phase[strongest]) + 0.0, energy=float(energy),
                    index=j,
                    amplitudes=_floats(amplitude), phases=_floats(phase),
                    drift=None if self.velocity is None else _floats(self.velocity[j].detach().double().cpu().numpy()),
                    omega=turning, chirp=None if bend is None else tuple(_floats(row) for row in bend),
                )
            )  # fmt: skip
        return sorted(found, key=lambda packet: -packet.energy)

    def _matrices(self) -> Float[Tensor, "packets dim dim"]:
        assert self.chirp is not None
        rows, columns = torch.tril_indices(self.dim, self.dim)
        lower = self.chirp.new_zeros(self.n, self.dim, self.dim)
        lower[:, rows, columns] = self.chirp
        return lower + lower.tril(-1).transpose(1, 2)

    def _quadratic(self, coords: Float[Tensor, "points dim"]) -> Float[Tensor, "points packets"]:
        away = coords[:, None] - self.centre
        return torch.einsum("pnd,nde,pne->pn", away, self._matrices(), away)

    def _times(
        self, coords: Float[Tensor, "points dim"], t: Float[Tensor, "*times"] | float | int
    ) -> Float[Tensor, "points 1"]:
        when = torch.as_tensor(t, dtype=coords.dtype, device=coords.device)
        if when.numel() not in (1, len(coords)):
            raise ModelError(
                f"there is one time, or one for each of {len(coords)} points; got {when.numel()}. Give as many."
            )
        return when.reshape(-1, 1).expand(len(coords), 1)


def packet_energy(
    amplitude: float,
    phase: float,
    width: Float[np.ndarray, "dim"],
    frequency: Float[np.ndarray, "dim"],
    chirp: Float[np.ndarray, "dim dim"] | None = None,
) -> float:
    """∫ A² exp(−|z|²) cos²(k·x + ½ xᵀBx + φ) dx over all space, z = x/σ.

    With cos² = ½ (1 + cos 2·) it is ½ A² π^(d/2) Πσ · (1 + Re[e^(2iφ) exp(−qᵀ(I − iS)⁻¹q) det(I − iS)^(−½)]), where
    q = σk and S = σBσ.

    Args:
        amplitude: A.
        phase: φ.
        width: σ of each axis.
        frequency: k.
        chirp: B; None = 0.

    Returns:
        The energy.

    >>> round(packet_energy(2.0, 0.0, np.ones(1), np.zeros(1)) / np.pi**0.5, 6)
    4.0
    """
    q = width * frequency
    if chirp is None:
        overlap = np.exp(-q @ q + 2j * phase)
    else:
        bent = np.eye(len(width)) - 1j * (width[:, None] * chirp * width)
        # The root of each eigenvalue has its own branch, near 1; that of the determinant may be the other one.
        roots = np.prod(np.sqrt(np.linalg.eigvals(bent)))
        overlap = np.exp(-q @ np.linalg.solve(bent, q.astype(complex)) + 2j * phase) / roots
    return float(0.5 * amplitude**2 * np.pi ** (len(width) / 2) * np.prod(width) * (1 + overlap.real))


def _floats(values: Float[np.ndarray, "n"]) -> tuple[float, ...]:
    # −0 + 0 is 0, which a person reads more easily.
    return tuple(float(value) + 0.0 for value in values)
