"""Classifiers that the network is compared with, settings that were tried for each, and the best of them."""

import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int64, Shaped

from neurograph.config import load_config
from neurograph.errors import MissingExtraError
from neurograph.experiments.float_twin import FloatTwin

__all__ = ["RIVALS", "Classifier", "Hyperdimensional", "Rival"]


@runtime_checkable
class Classifier(Protocol):
    """What is compared."""

    def fit(self, x: Any, y: Any) -> Any:
        """Trains."""

    def predict(self, x: Any) -> Any:
        """Class numbers."""


@dataclass(frozen=True)
class Rival:
    """A classifier, and settings that were tried for it.

    Args:
        build: from settings and a seed.
        parameters: how many numbers it learned, or keeps.
        candidates: settings that were tried.
        chosen: the best of them.
    """

    build: Callable[[Mapping[str, Any], int], Classifier]
    parameters: Callable[[Any], int]
    candidates: tuple[Mapping[str, Any], ...]
    chosen: Mapping[str, Any]


@dataclass
class Hyperdimensional:
    """A classifier of torchhd (Heddes and others, *Torchhd*, JMLR 24, 2023, arXiv:2205.09208).

    Args:
        kind: the class's name there.
        settings: its arguments; `gain` multiplies the samples first, which sets the bandwidth of random features.
        seed: of its random vectors and the order of samples.

    Raises:
        MissingExtraError: torchhd is not installed.
    """

    kind: str
    settings: Mapping[str, Any]
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            from torchhd import classifiers  # type: ignore[import-untyped]
        except ImportError as error:
            raise MissingExtraError(
                "the hyperdimensional rivals come with torchhd, which is not installed. From the repository's root: "
                "pip install './packages/neurograph[rivals]'"
            ) from error
        self._kind = getattr(classifiers, self.kind)

    def fit(self, x: Float32[np.ndarray, "S I"], y: Int64[np.ndarray, " S"]) -> "Hyperdimensional":
        """Trains.

        Args:
            x: samples in [0, 1].
            y: class numbers.

        Returns:
            Itself.
        """
        settings = dict(self.settings)
        self._gain = settings.pop("gain", 1.0)
        dimensions = settings.pop("dimensions")
        samples, labels = torch.from_numpy(x) * self._gain, torch.from_numpy(y)
        with torch.random.fork_rng(devices=[]), _quiet(), torch.no_grad():
            torch.manual_seed(self.seed)
            order = torch.randperm(len(x)).split(64)
            self._model = self._kind(x.shape[1], dimensions, int(y.max()) + 1, **settings)
            self._model.fit([(samples[chosen], labels[chosen]) for chosen in order])
        return self

    def predict(self, x: Float32[np.ndarray, "S I"]) -> Shaped[np.ndarray, " S"]:
        """The most similar class.

        Args:
            x: samples in [0, 1].

        Returns:
            Class numbers.
        """
        with torch.no_grad():
            return self._model.predict(torch.from_numpy(x) * self._gain).numpy()

    @property
    def n_parameters(self) -> int:
        """Components of the class vectors, which are learned; random vectors are not counted."""
        return int(self._model.model.weight.numel())


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of torchhd, and no warning of it that class vectors are zeros before the first step."""
    from torchhd import classifiers

    bar = classifiers.trange
    classifiers.trange = lambda *ends, **_: range(*ends)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The norm of a vector is nearly zero")
            yield
    finally:
        classifiers.trange = bar


# --- who competes ---------------------------------------------------------------------------------------------------


def _sklearn(module: str, name: str, **fixed: Any) -> Callable[[Mapping[str, Any], int], Classifier]:
    def build(settings: Mapping[str, Any], seed: int) -> Classifier:
        try:
            kind = getattr(importlib.import_module(f"sklearn.{module}"), name)
        except ImportError as error:
            raise MissingExtraError(
                "these rivals come with scikit-learn, which is not installed. From the repository's root: "
                "pip install './packages/neurograph[sklearn]'"
            ) from error
        seeded = {"random_state": seed} if "random_state" in kind().get_params() else {}
        return kind(**fixed, **settings, **seeded)

    return build


def _hd(kind: str) -> Callable[[Mapping[str, Any], int], Classifier]:
    return lambda settings, seed: Hyperdimensional(kind, settings, seed)


def _grid(**values: Sequence[Any]) -> tuple[Mapping[str, Any], ...]:
    found: list[dict[str, Any]] = [{}]
    for name, each in values.items():
        found = [{**one, name: value} for one in found for value in each]
    return tuple(found)


def _twin(settings: Mapping[str, Any], seed: int) -> Classifier:
    return FloatTwin(load_config("digits"), seed, **settings)


def _tree_nodes(forest: Any) -> int:
    return sum(2 * tree.tree_.node_count for tree in forest.estimators_)


def _learned(model: Any) -> int:
    return int(model.n_parameters)


_SEVENTEEN_LEVELS = {"min_level": 0, "max_level": 1, "n_levels": 17}  # as many as a pixel of a digit has
_LEVELS = {name: (value,) for name, value in _SEVENTEEN_LEVELS.items()}

RIVALS: dict[str, Rival] = {
    "logistic regression": Rival(
        _sklearn("linear_model", "LogisticRegression", max_iter=2000), lambda m: m.coef_.size + m.intercept_.size,
        _grid(C=(0.1, 0.3, 1.0, 3.0, 10.0)), {"C": 3.0},
    ),
    "MLP(128)": Rival(
        _sklearn("neural_network", "MLPClassifier", hidden_layer_sizes=(128,), max_iter=1000),
        lambda m: sum(part.size for part in (*m.coefs_, *m.intercepts_)),
        _grid(alpha=(1e-4, 1e-2, 1.0), learning_rate_init=(1e-3, 3e-3)), {"alpha": 1e-2, "learning_rate_init": 3e-3},
    ),
    "kNN": Rival(
        _sklearn("neighbors", "KNeighborsClassifier"), lambda m: m.n_samples_fit_ * m.n_features_in_,
        _grid(n_neighbors=(1, 3, 5)), {"n_neighbors": 1},
    ),
    "SVC": Rival(
        _sklearn("svm", "SVC"), lambda m: m.support_vectors_.size + m.dual_coef_.size,
        _grid(C=(1.0, 10.0), gamma=("scale", 0.03, 0.1)), {"C": 1.0, "gamma": "scale"},
    ),
    "random forest": Rival(
        _sklearn("ensemble", "RandomForestClassifier"), _tree_nodes, _grid(n_estimators=(100, 500)),
        {"n_estimators": 100},
    ),
    "torchhd centroid": Rival(
        _hd("Vanilla"), _learned, _grid(dimensions=(1000, 4000, 10000), **_LEVELS),
        {"dimensions": 4000, **_SEVENTEEN_LEVELS},
    ),
    "torchhd AdaptHD": Rival(
        _hd("AdaptHD"), _learned, _grid(dimensions=(2000,), epochs=(10,), lr=(0.035, 1.0), **_LEVELS),
        {"dimensions": 2000, "epochs": 10, "lr": 0.035, **_SEVENTEEN_LEVELS},
    ),
    "torchhd OnlineHD": Rival(
        _hd("OnlineHD"), _learned,
        _grid(dimensions=(1000, 4000), epochs=(20,), lr=(0.035, 0.3), gain=(0.3, 0.5, 1.0))
        + _grid(dimensions=(4000,), epochs=(20, 60), lr=(0.035,), gain=(1.0, 1.5))
        + _grid(dimensions=(10000,), epochs=(20,), lr=(0.035,), gain=(1.0, 1.5, 2.0, 3.0))
        + _grid(dimensions=(20000,), epochs=(20,), lr=(0.035,), gain=(1.5, 2.0)),
        {"dimensions": 10000, "epochs": 20, "lr": 0.035, "gain": 2.0},
    ),
    "torchhd NeuralHD": Rival(
        _hd("NeuralHD"), _learned,
        _grid(dimensions=(1000, 4000), epochs=(20,), lr=(0.37,), gain=(0.3, 0.5, 1.0))
        + _grid(dimensions=(1000, 4000), epochs=(20, 60), lr=(0.37,), gain=(1.5,))
        + _grid(dimensions=(4000,), epochs=(60,), lr=(0.37,), gain=(2.0, 3.0)),
        {"dimensions": 4000, "epochs": 60, "lr": 0.37, "gain": 2.0},
    ),
    "torchhd DistHD": Rival(  # more epochs stop with an error in torchhd 5.8 once every training sample is right
        _hd("DistHD"), _learned, _grid(dimensions=(1000, 4000), epochs=(20,), lr=(0.05, 0.3)),
        {"dimensions": 1000, "epochs": 20, "lr": 0.05},
    ),
    "torchhd IntRVFL": Rival(
        _hd("IntRVFL"), _learned,
        _grid(dimensions=(1000, 2000), alpha=(1.0, 100.0), kappa=(3, 7))
        + _grid(dimensions=(2000,), alpha=(1.0,), kappa=(1,))
        + _grid(dimensions=(4000,), alpha=(1.0,), kappa=(1, 3)),
        {"dimensions": 2000, "alpha": 1.0, "kappa": 3},
    ),
    "float twin": Rival(_twin, _learned, _grid(rate=(0.3, 1.0)), {"rate": 0.3}),
}  # fmt: skip
"""By name."""
