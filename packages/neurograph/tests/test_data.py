"""Sets: split, scaled by the training samples alone, and refused with what is wrong."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurograph import data
from neurograph.data import check_samples, dataset_names, load_dataset, shift_pictures, stratified_split
from neurograph.errors import DataError, MissingExtraError
from neurograph.glyphs import synthetic_glyphs
from neurograph.idx import write_idx


@pytest.mark.needs_extra("sklearn")
@pytest.mark.parametrize(
    ("name", "train", "test", "features", "classes"),
    [
        ("digits", 1437, 360, 64, 10),
        ("wine", 142, 36, 13, 3),
        ("breast_cancer", 455, 114, 30, 2),
        ("iris", 120, 30, 4, 3),
    ],
)
def test_bundled_sets(name: str, train: int, test: int, features: int, classes: int) -> None:
    found = load_dataset(name)
    assert found.train_x.shape == (train, features)
    assert found.test_x.shape == (test, features)
    assert len(found.classes) == classes
    for x, y in ((found.train_x, found.train_y), (found.test_x, found.test_y)):
        check_samples(x, y, n_features=features, n_classes=classes)
    shares = found.test_y.bincount() / (found.test_y.bincount() + found.train_y.bincount())
    assert (shares - test / (train + test)).abs().max() < 0.03
    assert found.train_x.max() == 1


@pytest.mark.needs_extra("sklearn")
def test_digits_are_sixteenths_and_the_seed_makes_the_split() -> None:
    from sklearn import datasets as sklearn

    first, again, other = load_dataset("digits", seed=1), load_dataset("digits", seed=1), load_dataset("digits", seed=2)
    assert torch.equal(first.train_x, again.train_x)
    assert not torch.equal(first.train_y, other.train_y)
    whole = sklearn.load_digits().data.astype(int).tolist()
    mine = (torch.cat([first.train_x, first.test_x]) * 16).int().tolist()
    assert sorted(mine) == sorted(whole)
    assert first.picture == (8, 8)


def test_scaling_knows_nothing_of_the_test_samples() -> None:
    train = np.array([[0.0, 5.0, 2.0], [10.0, 5.0, 4.0]])
    test = np.array([[5.0, 7.0, 100.0], [-3.0, 5.0, 3.0]])
    x, t = data._scaled(train, test, pictures=False)
    assert x.tolist() == [[0, 0, 0], [1, 0, 1]]
    assert t.tolist() == [[0.5, 1, 1], [0, 0, 0.5]]
    x, t = data._scaled(train, test, pictures=True)  # one range for all pixels, 0 to 10
    np.testing.assert_allclose(x.numpy(), train / 10)
    np.testing.assert_allclose(t.numpy(), np.clip(test / 10, 0, 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("counts", "share"), [((10, 20, 7), 0.2), ((2, 50), 0.1), ((5, 5, 5), 0.5), ((3, 40, 2), 0.07), ((2, 9, 40), 0.85)]
)
def test_a_split_is_whole_and_stratified(counts: tuple[int, ...], share: float) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    train, test = stratified_split(labels, test_share=share, seed=3)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(len(labels)))
    n_test = int(np.ceil(share * len(labels)))
    assert len(test) == n_test
    found = labels[test].bincount(minlength=len(counts))
    for count, taken in zip(counts, found.tolist(), strict=True):
        assert abs(taken - count * n_test / len(labels)) < 1 + sum(c * n_test / len(labels) < 1 for c in counts)
        assert 1 <= taken < count
    again, _ = stratified_split(labels, test_share=share, seed=3)
    assert torch.equal(train, again)
    assert labels[train].tolist() != sorted(labels[train].tolist())


def test_splits_that_cannot_be_made() -> None:
    four = [0, 0, 1, 1]
    for labels, share in (([0, 1, 1], 0.5), (four, 0.2), (four, 0.9), ([], 0.5), (four, float("nan")), (four, -1.0)):
        with pytest.raises(DataError, match="a split needs"):
            stratified_split(torch.tensor(labels, dtype=torch.int64), test_share=share)


def test_good_samples_pass() -> None:
    check_samples(torch.rand(4, 3), torch.tensor([0, 1, 2, 2]), n_features=3, n_classes=3)
    check_samples(torch.tensor([[0.0, 1.0]]), torch.tensor([7], dtype=torch.int32))


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (torch.rand(4), None, r"of shape \(samples, features\); got torch.float32 of shape \(4,\)"),
        (torch.ones(4, 3, dtype=torch.int64), None, "x.float"),
        (torch.rand(0, 3), None, "got 0"),
        (torch.rand(4, 2), None, "got 2 numbers for 3 input nodes"),
        (torch.tensor([[0.0, 0.5, 1.0], [0.0, torch.nan, torch.inf]]), None, "got nan in sample 1, feature 1, and 2"),
        (torch.tensor([[0.0, 0.5, -0.25]]), None, r"lie in \[0, 1\]; got values from -0.25 to 0.5"),
        (torch.tensor([[0.0, 0.5, 16.0]]), None, "to 16"),
        (torch.rand(2, 3), torch.tensor([0.0, 1.0]), "labels are integers"),
        (torch.rand(2, 3), torch.tensor([[0], [1]]), r"shape \(2, 1\)"),
        (torch.rand(2, 3), torch.tensor([0, 1, 1]), "2 samples and 3 labels"),
        (torch.rand(2, 3), torch.tensor([0, 5]), "below 5; got values from 0 to 5"),
        (torch.rand(2, 3), torch.tensor([-1, 1]), "got values from -1 to 1"),
    ],
)  # fmt: skip
def test_bad_samples_are_refused_with_what_to_do(x: torch.Tensor, y: torch.Tensor | None, said: str) -> None:
    with pytest.raises(DataError, match=said):
        check_samples(x, y, n_features=3, n_classes=5)


def test_pictures_move_by_at_most_a_pixel_and_every_move_comes_up() -> None:
    picture = torch.arange(1.0, 13.0).reshape(3, 4)
    x = picture.reshape(1, 12).repeat(200, 1)
    moved = shift_pictures(x, torch.Generator().manual_seed(0), picture=(3, 4)).reshape(200, 3, 4)
    padded = np.pad(picture.numpy(), 1)
    possible = {padded[i : i + 3, j : j + 4].tobytes() for i in range(3) for j in range(3)}
    assert {one.numpy().tobytes() for one in moved} == possible
    assert torch.equal(shift_pictures(x, torch.Generator().manual_seed(1), pixels=0, picture=(3, 4)), x)
    square = torch.rand(5, 16)
    again = [shift_pictures(square, torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*again)
    with pytest.raises(DataError, match="3 × 3 numbers; got 13"):
        shift_pictures(torch.rand(2, 13), torch.Generator())
    with pytest.raises(DataError, match="0 pixels or more"):
        shift_pictures(square, torch.Generator(), pixels=-1)


def test_glyphs_can_be_told_apart_and_come_from_their_seed() -> None:
    pictures, labels = synthetic_glyphs(200, seed=5)
    assert labels.bincount().tolist() == [20] * 10
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert torch.equal(synthetic_glyphs(200, seed=5)[0], pictures)
    assert not torch.equal(synthetic_glyphs(200, seed=6)[0], pictures)
    x = pictures.flatten(1)
    means = torch.stack([x[:150][labels[:150] == one].mean(0) for one in range(10)])
    assert (torch.cdist(x[150:], means).argmin(1) == labels[150:]).float().mean() > 0.4  # chance is 0.1
    assert len({one.numpy().tobytes() for one in pictures}) == 200
    with pytest.raises(DataError, match="at least one glyph"):
        synthetic_glyphs(0)


def test_a_folder_of_idx_files_keeps_its_own_test_samples(tmp_path: Path) -> None:
    images = np.arange(3 * 4, dtype=np.uint8).reshape(3, 2, 2) * 20
    for name, n in (("train", 3), ("t10k", 2)):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte.gz", images[:n])
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", np.array([2, 0, 1], np.uint8)[:n])
    found = load_dataset("idx", root=tmp_path, seed=9)
    np.testing.assert_allclose(found.train_x.numpy(), images.reshape(3, 4) / 220, rtol=1e-6)
    assert found.test_y.tolist() == [2, 0]
    assert (found.classes, found.picture) == (("0", "1", "2"), (2, 2))
    with pytest.raises(DataError, match=r"Set data\.root"):
        load_dataset("idx")
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.array([255, 1], np.uint8))
    with pytest.raises(DataError, match="the labels 255 of t10k have none"):
        load_dataset("idx", root=tmp_path)


def test_unknown_sets_and_missing_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="Did you mean digits"):
        load_dataset("digit")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r"pip install './packages/neurograph\[sklearn\]'"):
        load_dataset("digits")
    assert set(dataset_names()) >= {"digits", "glyphs", "idx"}


def test_importing_the_package_prints_nothing_and_loads_no_extra() -> None:
    """All of it but the classifier, which inherits from scikit-learn's."""
    code = (
        "import pkgutil, importlib, sys, neurograph\n"
        "names = [m.name for m in pkgutil.walk_packages(neurograph.__path__, 'neurograph.')]\n"
        "[importlib.import_module(name) for name in names if not name.endswith(('.__main__', '.classifier'))]\n"
        "loaded = {'matplotlib', 'sklearn', 'faiss', 'torchhd'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "assert len(names) > 5, names\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
