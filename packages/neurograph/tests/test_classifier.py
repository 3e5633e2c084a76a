"""The network among scikit-learn's estimators."""

import importlib.util
import pickle
import sys

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn", reason="needs the extra sklearn")

from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_digits, load_iris  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV, train_test_split  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

import neurograph.classifier as module  # noqa: E402
from neurograph.classifier import NeuroGraphClassifier  # noqa: E402
from neurograph.errors import ConfigError, DataError, MissingExtraError  # noqa: E402

pytestmark = pytest.mark.needs_extra("sklearn")


def _small(**settings: object) -> NeuroGraphClassifier:
    arguments = {"hidden_layer_sizes": (8,), "dim": 2, "epochs": 5, "batch_size": 32, "lr_phase": 8.0, "lr_mag": 12.0}
    return NeuroGraphClassifier(**(arguments | {"random_state": 0} | settings))


@parametrize_with_checks([_small()])
def test_every_check_of_scikit_learn_passes(estimator: object, check: object) -> None:
    check(estimator)  # type: ignore[operator]


@pytest.fixture(scope="module")
def iris() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_iris(return_X_y=True)
    return x, np.array(["setosa", "versicolor", "virginica"])[y]


@pytest.fixture(scope="module")
def fitted(iris: tuple[np.ndarray, np.ndarray]) -> NeuroGraphClassifier:
    return _small(hidden_layer_sizes=(16,), dim=4, epochs=20).fit(*iris)


def test_it_learns_labels_of_any_kind(fitted: NeuroGraphClassifier, iris: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = iris
    assert fitted.score(x, y) > 0.9
    assert fitted.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    probabilities = fitted.predict_proba(x)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (fitted.classes_[probabilities.argmax(1)] == fitted.predict(x)).all()
    assert (fitted.n_features_in_, fitted.n_iter_, len(fitted.loss_curve_)) == (4, 20, 20)
    assert fitted.loss_curve_[-1] < fitted.loss_curve_[0]


def test_only_integers_are_trained(fitted: NeuroGraphClassifier) -> None:
    network = fitted.network_
    assert network.phase.dtype == network.mag.dtype == np.int64
    # Four features and their complements, 16 hidden and 10 output nodes.
    assert network.n_integers == 4 * (8 + 2 * (16 + 10))


def test_a_seed_is_a_network_and_a_pickle_is_the_same(
    fitted: NeuroGraphClassifier, iris: tuple[np.ndarray, np.ndarray]
) -> None:
    x, y = iris
    again = clone(fitted).fit(x, y)
    other = clone(fitted).set_params(random_state=1).fit(x, y)
    assert (again.predict_proba(x) == fitted.predict_proba(x)).all()
    assert (other.predict_proba(x) != fitted.predict_proba(x)).any()
    assert (pickle.loads(pickle.dumps(fitted)).predict_proba(x) == fitted.predict_proba(x)).all()


def test_a_sample_is_answered_the_same_in_any_batch(
    fitted: NeuroGraphClassifier, iris: tuple[np.ndarray, np.ndarray]
) -> None:
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
    assert _small(scaling="global").fit(x, y).span_ == x.max() - x.min()


def test_few_features_have_complements(iris: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = iris
    assert _small().fit(x, y).network_.n_inputs == 8
    assert _small(complement=False).fit(x, y).network_.n_inputs == 4
    assert _small().fit(np.tile(x, 4), y).network_.n_inputs == 16


def test_epochs_are_raised_where_samples_are_few(
    iris: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = iris
    monkeypatch.setattr(module, "_LEAST_UPDATES", 13)
    monkeypatch.setattr(module, "_LEAST_EPOCHS", 3)
    assert _small(epochs="auto", batch_size=150).fit(x, y).n_iter_ == 13
    assert _small(epochs="auto", batch_size=40).fit(x, y).n_iter_ == 4  # 4 updates an epoch
    assert _small(epochs="auto", batch_size=10).fit(x, y).n_iter_ == 3


def test_it_stands_in_pipelines_and_searches(iris: tuple[np.ndarray, np.ndarray]) -> None:
    pipeline = make_pipeline(StandardScaler(), _small(epochs=10))
    search = GridSearchCV(pipeline, {"neurographclassifier__dim": [1, 4]}, cv=2).fit(*iris)
    assert search.best_score_ > 0.7


def test_digits_are_learned_in_a_few_epochs() -> None:
    x, y = load_digits(return_X_y=True)
    x, test_x, y, test_y = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
    model = NeuroGraphClassifier((64,), epochs=6, scaling="global", random_state=0).fit(x, y)
    assert model.network_.n_inputs == 64
    assert model.score(test_x, test_y) > 0.9


def test_bad_inputs_and_hyperparameters_are_refused(iris: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = iris
    with pytest.raises(DataError, match="two classes"):
        _small().fit(x, np.zeros(150, dtype=int))
    with pytest.raises(ValueError, match="NaN"):
        _small().fit(np.full_like(x, np.nan), y)
    with pytest.raises(NotFittedError):
        _small().predict(x)
    with pytest.raises(ConfigError, match="scaling is"):
        _small(scaling="rank").fit(x, y)
    for wrong in ({"dim": 0}, {"epochs": "many"}, {"label_smoothing": 2.0}, {"hidden_layer_sizes": (0,)}):
        with pytest.raises(ConfigError, match="hyperparameters"):
            _small(**wrong).fit(x, y)


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("classifier_alone", module.__file__ or "")
    assert spec is not None
    assert spec.loader is not None
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(MissingExtraError, match=r"neurograph\[sklearn\]"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
