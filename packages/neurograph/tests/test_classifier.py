"""The network among scikit-learn's estimators."""

import importlib.util
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurograph.errors import ConfigError, DataError, MissingExtraError

# Nothing of scikit-learn is imported here, so that the mark decides whether a missing extra skips or fails.
pytestmark = pytest.mark.needs_extra("sklearn")

# All that scikit-learn itself leaves out where SCIPY_ARRAY_API is not set.
LEFT_OUT = {"check_array_api_input"}


def _small(**settings: object) -> Any:
    from neurograph.classifier import NeuroGraphClassifier

    arguments = {"hidden_layer_sizes": (8,), "dim": 2, "epochs": 5, "batch_size": 32, "lr_phase": 8.0, "lr_mag": 12.0}
    return NeuroGraphClassifier(**(arguments | {"random_state": 0} | settings))


def _check_all(estimator: Any) -> None:
    from sklearn.utils.estimator_checks import check_estimator

    results = check_estimator(estimator, on_skip=None, on_fail=None)
    assert len(results) > 50
    failed = {one["check_name"]: str(one["exception"]) for one in results if one["status"] not in ("passed", "skipped")}
    assert not failed
    assert {one["check_name"] for one in results if one["status"] == "skipped"} <= LEFT_OUT


def test_every_check_of_scikit_learn_passes() -> None:
    _check_all(_small())


@pytest.mark.slow
def test_every_check_of_scikit_learn_passes_with_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    import neurograph.classifier as module

    # A quarter of the updates, for some sixty trainings.
    monkeypatch.setattr(module, "_LEAST_UPDATES", 100)
    monkeypatch.setattr(module, "_LEAST_EPOCHS", 5)
    _check_all(module.NeuroGraphClassifier())


@pytest.fixture(scope="module")
def iris() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    return x, np.array(["setosa", "versicolor", "virginica"])[y]


@pytest.fixture(scope="module")
def fitted(iris: tuple[np.ndarray, np.ndarray]) -> Any:
    return _small(hidden_layer_sizes=(16,), dim=4, epochs=20).fit(*iris)


def test_it_learns_labels_of_any_kind(fitted: Any, iris: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = iris
    assert fitted.score(x, y) > 0.9
    assert fitted.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    probabilities = fitted.predict_proba(x)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (fitted.classes_[probabilities.argmax(1)] == fitted.predict(x)).all()
    assert (fitted.n_features_in_, fitted.n_iter_, len(fitted.loss_curve_)) == (4, 20, 20)
    assert fitted.loss_curve_[-1] < fitted.loss_curve_[0]


def test_only_integers_are_trained(fitted: Any) -> None:
    network = fitted.network_
    assert network.phase.dtype == network.mag.dtype == np.int64
    # Four features and their complements, 16 hidden and 10 output nodes.
    assert network.n_integers == 4 * (8 + 2 * (16 + 10))


def test_a_seed_is_a_network(fitted: Any, iris: tuple[np.ndarray, np.ndarray]) -> None:
    from sklearn.base import clone

    x, y = iris
    assert (clone(fitted).fit(x, y).predict_proba(x) == fitted.predict_proba(x)).all()
    other = clone(fitted).set_params(random_state=1, epochs=2).fit(x, y)
    again = _small(hidden_layer_sizes=(16,), dim=4, epochs=2, random_state=np.random.RandomState(1)).fit(x, y)
    assert (other.network_.phase == again.network_.phase).all()
    assert (other.network_.phase != fitted.network_.phase).any()


def test_a_pickle_is_the_same(fitted: Any, iris: tuple[np.ndarray, np.ndarray]) -> None:
    again = pickle.loads(pickle.dumps(fitted))
    assert again.get_params() == fitted.get_params()
    assert (again.predict_proba(iris[0]) == fitted.predict_proba(iris[0])).all()


@pytest.mark.slow
def test_a_pickle_is_the_same_in_another_process(
    fitted: Any, iris: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    x = iris[0][::10]
    (tmp_path / "model").write_bytes(pickle.dumps((fitted, x)))
    code = (
        "import json, pickle, sys; model, x = pickle.load(open(sys.argv[1], 'rb'));"
        "print(json.dumps([model.predict(x).tolist(), model.predict_proba(x).tolist()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model")], check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == [fitted.predict(x).tolist(), fitted.predict_proba(x).tolist()]


def test_a_sample_is_answered_the_same_in_any_batch(fitted: Any, iris: tuple[np.ndarray, np.ndarray]) -> None:
    x = iris[0]
    whole = fitted.predict_proba(x)
    assert all((fitted.predict_proba(x[i : i + 1])[0] == whole[i]).all() for i in range(0, 150, 7))


def test_features_are_scaled_by_what_the_training_samples_span(iris: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = iris
    plain, moved = _small().fit(x, y), _small().fit(1000 * x - 7, y)
    assert (plain.predict(x) == moved.predict(1000 * x - 7)).mean() > 0.98
    beyond = plain.predict_proba(np.array([[1e9, -1e9, 1e9, -1e9]]))
    low, high = x.min(0), x.max(0)
    assert (beyond == plain.predict_proba(np.array([[high[0], low[1], high[2], low[3]]]))).all()
    every = _small(scaling="global", epochs=1).fit(x, y)
    assert (every.data_min_, every.data_max_) == (x.min(), x.max())


def test_ends_that_are_far_apart_do_not_overflow() -> None:
    far, y = np.array([[-1.7e308], [1.7e308]] * 2), np.array([0, 1] * 2)
    near = np.array([[0.0], [1.0]] * 2)
    found = _small().fit(far, y).predict_proba(np.array([[-1.79e308], [0.0], [1.79e308]]))
    assert (found == _small().fit(near, y).predict_proba(np.array([[0.0], [0.5], [1.0]]))).all()
    constant = _small(epochs=1).fit(np.hstack([near, np.full((4, 1), 3.0)]), y)
    assert np.isfinite(constant.predict_proba(np.array([[0.5, 3.0], [0.5, 1e308]]))).all()


def test_few_features_have_complements(iris: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = iris
    assert _small().fit(x, y).network_.n_inputs == 8
    assert _small(complement=False).fit(x, y).network_.n_inputs == 4
    assert _small().fit(np.tile(x, 4), y).network_.n_inputs == 16


def test_epochs_are_raised_where_samples_are_few(
    iris: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = iris
    import neurograph.classifier as module

    monkeypatch.setattr(module, "_LEAST_UPDATES", 13)
    monkeypatch.setattr(module, "_LEAST_EPOCHS", 3)
    assert _small(epochs="auto", batch_size=150).fit(x, y).n_iter_ == 13
    assert _small(epochs="auto", batch_size=40).fit(x, y).n_iter_ == 4  # 4 updates an epoch
    assert _small(epochs="auto", batch_size=10).fit(x, y).n_iter_ == 3


@pytest.mark.parametrize(
    ("samples", "features", "classes", "width"),
    [
        (1437, 64, 10, 128),  # digits: twice the features
        (142, 13, 3, 17),  # wine has 26 inputs, and one node for 8 samples
        (455, 30, 2, 56),
        (120, 4, 3, 16),  # no narrower
        (60_000, 784, 10, 256),  # no wider
        (200, 4, 40, 40),  # no narrower than there are classes
    ],
)
def test_widths_grow_with_features_samples_and_classes(samples: int, features: int, classes: int, width: int) -> None:
    from neurograph.classifier import NeuroGraphClassifier

    inputs = features * (2 if features < 16 else 1)
    config = NeuroGraphClassifier()._config((samples, inputs), classes, 0)
    assert config.graph.widths == (inputs, width, width, max(10, classes))


def test_rates_follow_the_bins(iris: tuple[np.ndarray, np.ndarray]) -> None:
    found = _small(phase_bins=64, mag_bins=340, lr_phase="auto", lr_mag="auto")._config((10, 4), 3, 0)
    optimizer = found.train.optimizer
    assert (optimizer.lr_phase, optimizer.lr_mag) == (0.5, 2.0)
    assert _small(epochs=1, phase_bins=16, mag_bins=16, lr_phase="auto").fit(*iris).network_.phase_bins == 16


def test_one_number_is_one_layer(iris: tuple[np.ndarray, np.ndarray]) -> None:
    one, listed = (_small(hidden_layer_sizes=sizes, epochs=1).fit(*iris) for sizes in (8, [8]))
    assert (one.network_.phase == listed.network_.phase).all()


def test_wine_is_learned_with_the_default_widths() -> None:
    from sklearn.datasets import load_wine
    from sklearn.model_selection import train_test_split

    from neurograph.classifier import NeuroGraphClassifier

    x, y = load_wine(return_X_y=True)
    x, test_x, y, test_y = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y)
    model = NeuroGraphClassifier(epochs=40, random_state=0).fit(x, y)
    assert model.score(test_x, test_y) > 0.9
    assert model.network_.n_integers == 8 * (26 + 2 * (16 + 16 + 10))


@pytest.mark.parametrize(
    "names", [np.array([3, 7, 11]), np.array([-1.0, 0.0, 2.0]), np.array(["b", "a", "ü"]), np.array([1, 2, 1]) == 1]
)
def test_labels_keep_their_kind_and_need_not_count_from_0(iris: tuple[np.ndarray, np.ndarray], names: Any) -> None:
    x, y = iris[0], names[np.repeat([0, 1, 2], 50)]
    model = _small(epochs=1).fit(x, y)
    assert model.classes_.tolist() == sorted(set(names.tolist()))
    assert model.predict(x).dtype == names.dtype
    assert model.predict_proba(x).shape == (150, len(model.classes_))


def test_it_stands_in_pipelines_and_searches(iris: tuple[np.ndarray, np.ndarray]) -> None:
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), _small(epochs=10))
    search = GridSearchCV(pipeline, {"neurographclassifier__dim": [1, 4]}, cv=2).fit(*iris)
    assert search.best_score_ > 0.7


def test_digits_are_learned_in_a_few_epochs() -> None:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x, test_x, y, test_y = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
    model = _small(hidden_layer_sizes=(64,), dim=8, epochs=6, scaling="global").fit(x, y)
    assert model.network_.n_inputs == 64
    assert model.score(test_x, test_y) > 0.9


def test_bad_inputs_are_refused(iris: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = iris
    with pytest.raises(DataError, match="got one class, 7"):
        _small().fit(x, np.full(150, 7))
    with pytest.raises(ValueError, match="NaN"):
        _small().fit(np.full_like(x, np.nan), y)
    with pytest.raises(ValueError, match="continuous"):
        _small().fit(x, np.linspace(0, 1, 150))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"scaling": "rank"}, "scaling is"),
        ({"complement": "no"}, "complement is True, False or 'auto'; got 'no'"),
        ({"dim": 0}, "model.dim"),
        ({"epochs": "many"}, "got 'many'"),
        ({"label_smoothing": 2.0}, "got 2.0"),
        ({"hidden_layer_sizes": (0,)}, "got 0"),
        ({"hidden_layer_sizes": "big"}, "got 'big'"),
        ({"hidden_layer_sizes": None}, "got None"),
        ({"phase_bins": "many", "lr_phase": "auto"}, "phase_bins.*got 'many'"),
        ({"batch_size": None, "epochs": "auto"}, "batch_size.*got None"),
        ({"device": "gpu"}, "got 'gpu'"),
    ],
)
def test_bad_hyperparameters_are_refused(
    iris: tuple[np.ndarray, np.ndarray], wrong: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        _small(**wrong).fit(*iris)


def test_a_fit_that_fails_leaves_what_was_there(iris: tuple[np.ndarray, np.ndarray]) -> None:
    from sklearn.exceptions import NotFittedError

    x, y = iris
    model = _small(dim=0)
    with pytest.raises(ConfigError):
        model.fit(x, y)
    with pytest.raises(NotFittedError):
        model.predict(x)
    before = model.set_params(dim=2).fit(x, y).predict(x)
    with pytest.raises(ConfigError):
        model.set_params(dim=0).fit(10 * x, np.where(y == "setosa", "other", y))
    assert (model.predict(x) == before).all()


def test_it_is_trained_on_the_device_that_is_named(
    iris: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="needs a GPU"):
        _small(device="cuda").fit(*iris)
    assert _small(device=torch.device("cpu"), epochs=1).fit(*iris).predict(iris[0]).shape == (150,)


@pytest.mark.gpu
def test_a_gpu_trains_a_network_that_numpy_evaluates(iris: tuple[np.ndarray, np.ndarray]) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = _small(hidden_layer_sizes=(16,), dim=4, epochs=20, device="cuda").fit(*iris)
    assert model.score(*iris) > 0.9


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec("neurograph.classifier")
    assert found is not None
    assert found.origin is not None
    spec = importlib.util.spec_from_file_location("classifier_alone", found.origin)
    assert spec is not None
    assert spec.loader is not None
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(MissingExtraError, match=r"neurograph\[sklearn\]"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
