"""Plain interpolation of scattered samples: what a model must beat to be worth its training."""

import numpy as np
from jaxtyping import Float

from dredge.errors import ModelError, needed

__all__ = ["interpolate"]


def interpolate(
    coords: Float[np.ndarray, "points dim"],
    values: Float[np.ndarray, "points out"],
    at: Float[np.ndarray, "wanted dim"],
    method: str,
    *,
    neighbours: int = 32,
) -> Float[np.ndarray, "wanted out"]:
    """Interpolates scattered samples by scipy, without a model.

    Args:
        coords: points.
        values: at these points.
        at: where values are wanted; outside of the samples' hull, the nearest sample is taken.
        method: "nearest", "linear", "cubic" (one or two axes) or "rbf" (thin-plate splines).
        neighbours: samples of a spline.

    Returns:
        Values.

    Raises:
        ModelError: another method, or cubic on more axes.
        MissingExtraError: scipy is not installed.
    """
    ways = needed("scipy.interpolate", "inr", "interpolation")
    d = coords.shape[1]
    if method not in ("nearest", "linear", "cubic", "rbf") or (method == "cubic" and d > 2):
        raise ModelError(
            f"interpolation is nearest, linear, rbf, or cubic on one or two axes; got {method!r} on {d}. Use another."
        )
    nearest = values[needed("scipy.spatial", "inr", "interpolation").cKDTree(coords).query(at)[1]]
    if method == "nearest":
        return nearest
    if method == "rbf":
        return ways.RBFInterpolator(coords, values, neighbors=min(neighbours, len(coords)))(at)
    if d == 1:
        order = np.argsort(coords[:, 0], kind="stable")
        x, first = np.unique(coords[order, 0], return_index=True)
        y = values[order][first]
        if method == "linear":
            found = np.stack([np.interp(at[:, 0], x, column) for column in y.T], axis=1)
        else:
            found = ways.CubicSpline(x, y, extrapolate=False)(at[:, 0])
        found[(at[:, 0] < x[0]) | (at[:, 0] > x[-1])] = np.nan
    else:
        kind = ways.LinearNDInterpolator if method == "linear" else ways.CloughTocher2DInterpolator
        found = kind(coords, values)(at)
    return np.where(np.isnan(found), nearest, found)
