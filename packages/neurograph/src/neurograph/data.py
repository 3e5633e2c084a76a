"""Samples to learn from: sets that come with scikit-learn, drawn glyphs, and files in MNIST's format.

Nothing is fetched from a network. Values are scaled to [0, 1] by what the training samples span, and by nothing of the
test samples; a test value beyond that span is cut off.
"""

import difflib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor

from neurograph.errors import DataError, MissingExtraError
from neurograph.glyphs import synthetic_glyphs
from neurograph.idx import load_idx_folder

__all__ = [
    "Dataset",
    "check_samples",
    "dataset_names",
    "load_dataset",
    "shift_pictures",
    "stratified_split",
]

_BUNDLED = ("digits", "wine", "breast_cancer", "iris")
_PICTURES = {"digits": (8, 8), "glyphs": (28, 28)}
_GLYPHS = 2000


@dataclass(frozen=True)
class Dataset:
    """Samples to train on and to test on.

    Args:
        name: of the set.
        train_x: in [0, 1].
        train_y: class numbers.
        test_x: in [0, 1].
        test_y: class numbers.
        classes: a name for each number.
        picture: rows and columns, where a sample is a picture.
    """

    name: str
    train_x: Float[Tensor, "train features"]
    train_y: Int64[Tensor, " train"]
    test_x: Float[Tensor, "test features"]
    test_y: Int64[Tensor, " test"]
    classes: tuple[str, ...]
    picture: tuple[int, int] | None = None

    @property
    def n_features(self) -> int:
        """Numbers of a sample."""
        return self.train_x.shape[1]

    def to(self, device: str | torch.device) -> "Dataset":
        """The same samples on a device.

        Args:
            device: where to.

        Returns:
            A set with its tensors there.
        """
        moved = {name: getattr(self, name).to(device) for name in ("train_x", "train_y", "test_x", "test_y")}
        return replace(self, **moved)


def dataset_names() -> tuple[str, ...]:
    """Names that `load_dataset` knows.

    >>> dataset_names()
    ('digits', 'wine', 'breast_cancer', 'iris', 'glyphs', 'idx')
    """
    return (*_BUNDLED, "glyphs", "idx")


def load_dataset(
    name: str = "digits", *, seed: int = 0, test_share: float = 0.2, root: str | Path | None = None
) -> Dataset:
    """A set, split and scaled.

    Args:
        name: one of `dataset_names`: sets of scikit-learn, `glyphs` (drawn digits of 28 × 28 pixels), or `idx`.
        seed: of the split, and of the glyphs.
        test_share: share of samples that are held out, of each class; `idx` has test samples of its own.
        root: the folder with MNIST's four files, for `idx`.

    Returns:
        The set, on the CPU.

    Raises:
        DataError: no such set, or files that are missing or damaged.
        MissingExtraError: scikit-learn is not installed.

    >>> found = load_dataset("glyphs", seed=1)
    >>> found.train_x.shape, found.test_x.shape, len(found.classes), found.picture
    (torch.Size([1600, 784]), torch.Size([400, 784]), 10, (28, 28))
    """
    if name == "idx":
        return _idx(root)
    if name == "glyphs":
        pictures, labels = synthetic_glyphs(_GLYPHS, seed=seed)
        x, digits = pictures.flatten(1).numpy(), tuple("0123456789")
        return _split_and_scaled(name, x, labels, digits, _PICTURES[name], seed, test_share)
    if name not in _BUNDLED:
        near = difflib.get_close_matches(str(name), dataset_names(), n=1)
        raise DataError(
            f"a set is one of {', '.join(dataset_names())}; got {name!r}. "
            f"{f'Did you mean {near[0]}?' if near else 'Name one of them.'}"
        )
    bundle = _bundled(name)
    labels = torch.as_tensor(bundle.target, dtype=torch.int64)
    classes = tuple(str(one) for one in bundle.target_names)
    return _split_and_scaled(name, np.asarray(bundle.data), labels, classes, _PICTURES.get(name), seed, test_share)


def stratified_split(
    labels: Int64[Tensor, " n"], *, test_share: float = 0.2, seed: int = 0
) -> tuple[Int64[Tensor, " train"], Int64[Tensor, " test"]]:
    """Numbers of the samples to train on and to test on, each class in the same share.

    ⌈share · n⌉ samples are for testing; what classes cannot have exactly goes to those with the largest remainders.

    Args:
        labels: class numbers.
        test_share: share that is held out.
        seed: of the draw.

    Returns:
        Two lists in random order; together every sample once.

    Raises:
        DataError: a class with fewer than two samples, or a share that leaves nothing on a side.

    >>> train, test = stratified_split(torch.tensor([0] * 10 + [1] * 20), test_share=0.2)
    >>> len(train), sorted((test >= 10).tolist())
    (24, [False, False, True, True, True, True])
    """
    classes, counts = labels.unique(return_counts=True)
    n = len(labels)
    n_test = math.ceil(test_share * n) if 0 < test_share < 1 else 0
    if not len(classes) or int(counts.min()) < 2 or not len(classes) <= n_test <= n - len(classes):
        raise DataError(
            f"a split needs two samples of each class, and one of each on both sides; got {n} samples, counts "
            f"{counts.tolist()} and a test share of {test_share}. Use more samples or another share."
        )
    exact = counts.double() * n_test / n
    shares = exact.floor().long().clamp(min=1).minimum(counts - 1)
    while int(shares.sum()) != n_test:
        step = 1 if int(shares.sum()) < n_test else -1
        allowed = shares < counts - 1 if step > 0 else shares > 1
        # Ties go to the smaller class number.
        shares[int(((exact - shares) * step).masked_fill(~allowed, -math.inf).argmax())] += step
    generator = torch.Generator().manual_seed(seed)
    train, test = [], []
    for one, share in zip(classes, shares.tolist(), strict=True):
        places = (labels == one).nonzero().squeeze(1)
        places = places[torch.randperm(len(places), generator=generator)]
        test.append(places[:share])
        train.append(places[share:])
    joined = [torch.cat(parts) for parts in (train, test)]
    first, second = (part[torch.randperm(len(part), generator=generator)] for part in joined)
    return first, second


def check_samples(
    x: Shaped[Tensor, "..."],
    y: Shaped[Tensor, "..."] | None = None,
    *,
    n_features: int | None = None,
    n_classes: int | None = None,
) -> None:
    """Says what is wrong with samples before a network sees them.

    Args:
        x: samples by features, in [0, 1].
        y: class numbers; None = there are none.
        n_features: numbers that a sample must have; None = any.
        n_classes: class numbers are below it; None = any.

    Raises:
        DataError: the wrong shape or type, no samples, not a number, out of range, or labels that do not fit.
    """
    if x.ndim != 2 or not x.is_floating_point():
        raise DataError(
            f"samples are floats of shape (samples, features); got {x.dtype} of shape {tuple(x.shape)}. Flatten "
            "pictures with x.flatten(1) and convert with x.float()."
        )
    if not len(x):
        raise DataError("there is at least one sample; got 0. Check how they were selected.")
    if n_features is not None and x.shape[1] != n_features:
        raise DataError(
            f"each input node takes one number of a sample; got {x.shape[1]} numbers for {n_features} input nodes. "
            "Change the first of graph.widths, or the samples."
        )
    finite = x.isfinite()
    if not finite.all():
        row, column = (~finite).nonzero()[0].tolist()
        raise DataError(
            f"samples are finite; got {float(x[row, column])} in sample {row}, feature {column}, and "
            f"{int((~finite).sum())} such values in all. Remove or replace them."
        )
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise DataError(
            f"samples lie in [0, 1]; got values from {low:.6g} to {high:.6g}. Scale them by the range of the "
            "training samples, as load_dataset does."
        )
    if y is not None:
        _check_labels(x, y, n_classes)


def shift_pictures(
    x: Float[Tensor, "batch features"],
    generator: torch.Generator,
    *,
    pixels: int = 1,
    picture: tuple[int, int] | None = None,
) -> Float[Tensor, "batch features"]:
    """Pictures, each moved by up to so many pixels down or up and right or left; what comes in is 0.

    Args:
        x: pictures, row by row.
        generator: draws the moves, uniform over all of them.
        pixels: the largest move.
        picture: rows and columns; None = square.

    Returns:
        New pictures.

    Raises:
        DataError: samples that are no pictures of this size.
    """
    batch, features = x.shape
    side = math.isqrt(features)
    rows, columns = picture or (side, side)
    if rows * columns != features:
        raise DataError(
            f"pictures are {rows} × {columns} numbers; got {features}. Switch train.shift_augment off for samples "
            "that are no square pictures."
        )
    if pixels < 0:
        raise DataError(f"pictures move by 0 pixels or more; got {pixels}. Use 1.")
    moves = torch.randint(2 * pixels + 1, (2, batch, 1), generator=generator, device=generator.device).to(x.device)
    padded = torch.nn.functional.pad(x.reshape(batch, rows, columns), [pixels] * 4)
    down = (moves[0] + torch.arange(rows, device=x.device)).unsqueeze(2)
    right = (moves[1] + torch.arange(columns, device=x.device)).unsqueeze(1)
    each = torch.arange(batch, device=x.device)[:, None, None]
    return padded[each, down, right].reshape(batch, features)


# --- sets -------------------------------------------------------------------------------------------------------------


def _bundled(name: str) -> Any:
    try:
        from sklearn import datasets  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError(
            f"the set {name} comes with scikit-learn, which is not installed. From the root of the repository: "
            "pip install './packages/neurograph[sklearn]'; or use the set glyphs, which needs nothing"
        ) from error
    return getattr(datasets, f"load_{name}")()


def _idx(root: str | Path | None) -> Dataset:
    if root is None:
        raise DataError("the set idx is read from a folder; got none. Set data.root to the folder of MNIST's files.")
    folder = load_idx_folder(root)
    if not len(folder.train_images) or not len(folder.test_images):
        raise DataError(f"there is at least one picture to train and one to test; {root} lacks one. Use other files.")
    rows, columns = folder.train_images.shape[1:]
    flat, test_flat = (one.reshape(len(one), -1) for one in (folder.train_images, folder.test_images))
    x, test_x = _scaled(flat, test_flat, pictures=True)
    y, test_y = (torch.from_numpy(one.astype(np.int64)) for one in (folder.train_labels, folder.test_labels))
    strange = sorted(set(test_y.tolist()) - set(y.tolist()))
    if strange:
        raise DataError(
            f"each class to test has samples to train on; in {root} the labels {', '.join(map(str, strange))} of t10k "
            "have none. Use files that belong together."
        )
    classes = tuple(str(one) for one in range(int(y.max()) + 1))
    return Dataset("idx", x, y, test_x, test_y, classes, (rows, columns))


def _split_and_scaled(
    name: str,
    x: Shaped[np.ndarray, "n features"],
    labels: Int64[Tensor, " n"],
    classes: tuple[str, ...],
    picture: tuple[int, int] | None,
    seed: int,
    test_share: float,
) -> Dataset:
    train, test = stratified_split(labels, test_share=test_share, seed=seed)
    scaled = _scaled(x[train.numpy()], x[test.numpy()], pictures=picture is not None)
    return Dataset(name, scaled[0], labels[train], scaled[1], labels[test], classes, picture)


def _scaled(
    train: Shaped[np.ndarray, "train features"], test: Shaped[np.ndarray, "test features"], *, pictures: bool
) -> tuple[Float32[Tensor, "train features"], Float32[Tensor, "test features"]]:
    """Pixels share one range, so that a picture stays what it looks like; other features have their own."""
    low, high = (f(train) if pictures else f(train, axis=0) for f in (np.min, np.max))
    # MNIST's 47 million bytes would be 376 MB of doubles.
    kind = np.float32 if train.dtype == np.uint8 else np.float64
    low, high = np.asarray(low, kind), np.asarray(high, kind)
    span = np.where(high > low, high - low, kind(1))
    first, second = (np.clip((one - low) / span, 0.0, 1.0).astype(np.float32) for one in (train, test))
    return torch.from_numpy(first), torch.from_numpy(second)


def _check_labels(x: Tensor, y: Tensor, n_classes: int | None) -> None:
    if y.ndim != 1 or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise DataError(
            f"labels are integers, one a sample; got {y.dtype} of shape {tuple(y.shape)}. Convert them with "
            "y.long(), or number the classes from 0."
        )
    if len(y) != len(x):
        raise DataError(f"each sample has one label; got {len(x)} samples and {len(y)} labels. Cut the longer one.")
    low, high = int(y.min()), int(y.max())
    if low < 0 or (n_classes is not None and high >= n_classes):
        below = "" if n_classes is None else f" and below {n_classes}"
        raise DataError(
            f"labels count classes from 0{below}; got values from {low} to {high}. Number the classes anew, or raise "
            "the number of classes."
        )
