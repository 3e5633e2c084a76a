"""What is kept of a signal, read so that it can be drawn.

A document is written by `dredge.signals.lift_signal`, but an archive may bring one from elsewhere: nothing of it is
believed before it is looked at.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

__all__ = ["PacketRow", "SignalDocument", "read_document"]

_MOST_POINTS = 10_000
_MOST_PACKETS = 64

Number = Annotated[float, Field(ge=-1e101, le=1e101, allow_inf_nan=False)]
Place = Number | Annotated[list[Number], Field(max_length=5)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class _Samples(_Part):
    coords: Annotated[list[Place], Field(min_length=1, max_length=_MOST_POINTS)]
    values: list[Number]
    thinned: bool = False


class _Fit(_Part):
    coords: Annotated[list[Place], Field(max_length=_MOST_POINTS)]
    values: list[Number]
    shape: Annotated[list[int], Field(max_length=2)]
    packets: Annotated[list[Annotated[list[Number], Field(max_length=_MOST_POINTS)]], Field(max_length=_MOST_PACKETS)]


class _Residual(_Part):
    rms: Number
    largest: Number
    explained: Number
    values: list[Number]


class PacketRow(_Part):
    """A packet of a document: amplitude · exp(−½ |(x − centre)/width|²) · cos(2π cycles·(x − centre) + phase).

    Args:
        centre: where it is, one number an axis.
        width: standard deviation of its window, one number an axis.
        cycles: per unit, one number an axis.
        amplitude: height of the window.
        phase: radians.
    """

    centre: list[Number]
    width: list[Annotated[Number, Field(gt=0)]]
    cycles: list[Number]
    amplitude: Number
    phase: Number


class SignalDocument(_Part):
    """What is kept of a signal, as `dredge.signals.lift_signal` writes it, of sizes that can be drawn.

    Args:
        title: of the signal.
        dim: coordinates of a sample.
        points: samples of the signal.
        repeated: samples at a place that another has.
        samples: some or all of them.
        fit: the sum of the packets, and each of them, on a grid; on nothing for more than two coordinates.
        packets: the strongest first.
        constant: that is added to the packets.
        residual: samples less packets, and its size.
    """

    title: str = ""
    dim: Annotated[int, Field(ge=1, le=5)]
    points: Annotated[int, Field(ge=1)]
    repeated: int = 0
    samples: _Samples
    fit: _Fit
    packets: Annotated[list[PacketRow], Field(max_length=_MOST_PACKETS)]
    constant: Number
    residual: _Residual

    @model_validator(mode="after")
    def _fits_together(self) -> "SignalDocument":
        drawn = len(self.fit.values)
        size = math.prod(self.fit.shape) if self.fit.shape else 0
        vectors = [vector for row in self.packets for vector in (row.centre, row.width, row.cycles)]
        places = [place if isinstance(place, list) else [place] for place in (*self.samples.coords, *self.fit.coords)]
        if (
            not len(self.samples.coords) == len(self.samples.values) == len(self.residual.values)
            or not drawn == size == len(self.fit.coords)
            or len(self.fit.shape) != (self.dim if self.dim <= 2 else 0)
            or any(side < 2 for side in self.fit.shape)
            or any(len(vector) != self.dim for vector in (*vectors, *places))
            or (self.dim == 1 and len(self.fit.packets) != len(self.packets))
            or any(len(curve) != drawn for curve in self.fit.packets)
        ):
            raise ValueError("its parts do not belong together")
        return self

    def sampled(self) -> Float[np.ndarray, "N d"]:
        """Coordinates of the samples that are kept."""
        return np.array(self.samples.coords, float).reshape(-1, self.dim)

    def drawn(self) -> Float[np.ndarray, "m d"]:
        """Coordinates of the grid."""
        return np.array(self.fit.coords, float).reshape(-1, self.dim)


def read_document(document: Mapping[str, Any] | None) -> SignalDocument | None:
    """Reads what is kept of a signal.

    Args:
        document: of a record; an archive may have brought it from elsewhere.

    Returns:
        The document; None = it is none that can be drawn.
    """
    try:
        return SignalDocument.model_validate(document)
    except ValidationError:
        return None
