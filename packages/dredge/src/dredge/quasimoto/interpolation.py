"""Plain interpolation of scattered samples: what a model must beat to be worth its training."""

from types import ModuleType

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
        coords: points; of several at one place of a single axis, the first counts.
        values: at these points.
        at: where values are wanted; outside of the samples' hull, the nearest sample is taken.
        method: "nearest", "linear", "cubic" (one or two axes) or "rbf" (thin-plate splines).
        neighbours: samples of a spline.

    Returns:
        Values.

    Raises:
        ModelError: another method, cubic on more axes, or samples that are too few or too alike for a method.
        MissingExtraError: scipy is not installed.
    """
    ways = needed("scipy.interpolate", "inr", "interpolation")
    d = coords.shape[1]
    if method not in ("nearest", "linear", "cubic", "rbf") or (method == "cubic" and d > 2):
        raise ModelError(
            f"interpolation is nearest, linear, rbf, or cubic on one or two axes; got {method!r} on {d}. Use another."
        )
    if not len(coords) or len(coords) != len(values):
        raise ModelError(f"each point has a value; got {len(coords)} points and {len(values)} values. Give both.")
    try:
        return _interpolated(ways, coords, values, at, method, neighbours)
    except (ValueError, RuntimeError) as error:
        # Qhull's errors are RuntimeErrors, and those of linear algebra ValueErrors.
        raise ModelError(
            f"{method} interpolation takes finite samples that span their axes, splines each place once; of "
            f"{len(coords)}: {str(error).partition(chr(10))[0].rstrip('.')}. Take method='nearest'."
        ) from error


def _interpolated(
    ways: ModuleType, coords: Float[np.ndarray, "points dim"], values: Float[np.ndarray, "points out"],
    at: Float[np.ndarray, "wanted dim"], method: str, neighbours: int,
) -> Float[np.ndarray, "wanted out"]:  # fmt: skip
    nearest = values[needed("scipy.spatial", "inr", "interpolation").cKDTree(coords).query(at)[1]]
    if method == "nearest":
        return nearest
    if method == "rbf":
        return ways.RBFInterpolator(coords, values, neighbors=min(neighbours, len(coords)))(at)
    if coords.shape[1] == 1:
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
