"""The network as a scikit-learn classifier."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64
from numpy.typing import NDArray
from pydantic import ValidationError

from neurograph.config import Config
from neurograph.errors import ConfigError, DataError, MissingExtraError
from neurograph.export import integers_of
from neurograph.integer_network import IntegerNetwork
from neurograph.model import Model
from neurograph.train.trainer import Trainer

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise MissingExtraError(
        "NeuroGraphClassifier is a scikit-learn estimator, and scikit-learn 1.6 or newer is not installed. From "
        "the root of the repository: pip install './packages/neurograph[sklearn]'"
    ) from error

__all__ = ["NeuroGraphClassifier"]

_FEW_FEATURES = 16
_LEAST_UPDATES = 400
_LEAST_EPOCHS = 20
_ROWS_A_NODE = 8
_NARROWEST, _WIDEST = 16, 256


class NeuroGraphClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose only trained state is integers: phases and magnitudes on a grid.

    Features are scaled to [0, 1] by what the training samples span, and cut off there. After training the network is
    kept as an :class:`~neurograph.integer_network.IntegerNetwork`, and predictions are made in whole numbers, so that a
    sample's answer does not depend on the samples beside it.

    Args:
        hidden_layer_sizes: nodes of each hidden layer, or one number for a single layer; "auto" = two layers as wide as
            twice the input nodes, but not wider than one node for 8 samples, nor than 256; and never narrower than 16,
            nor than the number of classes.
        dim: D, phasors of a node.
        cardinality: how many nodes a node listens to.
        phase_bins: P.
        mag_bins: M.
        epochs: passes over the samples; "auto" = 20, or more where the samples are so few that there would be less than
            400 updates.
        batch_size: samples of an update.
        lr_phase: steps of a phase index; "auto" = P / 128.
        lr_mag: steps of a magnitude index; "auto" = M / 170.
        label_smoothing: share of the target that is spread over all classes.
        scale: cosines with the class codes are multiplied by it to be logits.
        scaling: "feature" = each by its own span, "global" = all by one, as pixels want.
        complement: give each feature x a second input 1 − x, which tells a small number from none; "auto" = where there
            are fewer than 16 features.
        output_nodes: nodes that are read out; "auto" = 10, or as many as there are classes.
        device: where it is trained; predictions are made by NumPy.
        random_state: a seed, a `numpy.random.RandomState`, or None.

    Attributes:
        classes_: labels, sorted.
        n_features_in_: features of a sample.
        feature_names_in_: their names, where they have some.
        data_min_: least value of the training samples, of each feature or of all.
        data_max_: the largest.
        complement_: whether each feature has a second input.
        network_: the trained network, in whole numbers.
        n_iter_: epochs.
        loss_curve_: mean loss of each epoch.

    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> model = NeuroGraphClassifier(hidden_layer_sizes=16, dim=4, epochs=30, random_state=0).fit(x, y)
    >>> model.score(x, y) > 0.9, model.network_.n_integers
    (True, 240)
    """

    def __init__(
        self,
        hidden_layer_sizes: Any = "auto",
        *,
        dim: Any = 8,
        cardinality: Any = 16,
        phase_bins: Any = 512,
        mag_bins: Any = 1024,
        epochs: Any = "auto",
        batch_size: Any = 64,
        lr_phase: Any = "auto",
        lr_mag: Any = "auto",
        label_smoothing: Any = 0.0,
        scale: Any = 12.0,
        scaling: Any = "feature",
        complement: Any = "auto",
        output_nodes: Any = "auto",
        device: Any = "cpu",
        random_state: Any = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.dim = dim
        self.cardinality = cardinality
        self.phase_bins = phase_bins
        self.mag_bins = mag_bins
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr_phase = lr_phase
        self.lr_mag = lr_mag
        self.label_smoothing = label_smoothing
        self.scale = scale
        self.scaling = scaling
        self.complement = complement
        self.output_nodes = output_nodes
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "NeuroGraphClassifier":
        """Trains a new network. Where that fails, a network that was trained before stays.

        Args:
            X: samples by features.
            y: labels.

        Returns:
            Itself.

        Raises:
            DataError: labels of one class only.
            ConfigError: hyperparameters that cannot be run.
            ValueError: samples or labels that scikit-learn refuses.
        """
        x, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise DataError(
                f"a classifier learns two classes or more; got one class, {classes[0]}. Add samples of another."
            )
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        low, high, complement = self._range_of(x)
        samples = _scaled(x, low, high, complement)
        config = self._config(samples.shape, len(classes), seed)
        model = Model.build(config, n_classes=len(classes), seed=seed)
        trainer = Trainer(model, config.train, seed=seed)
        rows = trainer.fit(torch.from_numpy(samples), torch.from_numpy(labels.astype(np.int64)))
        self.classes_, self.data_min_, self.data_max_, self.complement_ = classes, low, high, complement
        self.network_: IntegerNetwork = integers_of(model)
        self.n_iter_, self.loss_curve_ = len(rows), [row.loss for row in rows]
        return self

    def predict_proba(self, X: Any) -> Float64[np.ndarray, "samples classes"]:
        """Softmax of the logits.

        Args:
            X: samples by features.

        Returns:
            One row a sample, its sum one.

        Raises:
            NotFittedError: nothing was trained yet.
            ValueError: samples that scikit-learn refuses.
        """
        checked = self._checked(X)
        logits = self.network_.logits(checked)
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    def predict(self, X: Any) -> NDArray[Any]:
        """The label of the highest score.

        Args:
            X: samples by features.

        Returns:
            Labels.

        Raises:
            NotFittedError: nothing was trained yet.
            ValueError: samples that scikit-learn refuses.
        """
        checked = self._checked(X)
        return self.classes_[self.network_.predict(checked)]

    # --- inputs ------------------------------------------------------------------------------------------------------

    def _checked(self, X: Any) -> Float32[np.ndarray, "samples inputs"]:
        check_is_fitted(self, "network_")
        x = validate_data(self, X, reset=False, dtype=np.float64)
        return _scaled(x, self.data_min_, self.data_max_, self.complement_)

    def _range_of(self, x: Float64[np.ndarray, "samples features"]) -> tuple[NDArray[Any], NDArray[Any], bool]:
        if self.scaling not in ("feature", "global"):
            raise ConfigError(f"scaling is 'feature' or 'global'; got {self.scaling!r}. Choose one of them.")
        if not _is_auto(self.complement) and not isinstance(self.complement, bool | np.bool_):
            raise ConfigError(f"complement is True, False or 'auto'; got {self.complement!r}. Choose one of them.")
        axis = 0 if self.scaling == "feature" else None
        complement = x.shape[1] < _FEW_FEATURES if _is_auto(self.complement) else bool(self.complement)
        return np.asarray(x.min(axis)), np.asarray(x.max(axis)), complement

    # --- settings ----------------------------------------------------------------------------------------------------

    def _config(self, shape: tuple[int, ...], n_classes: int, seed: int) -> Config:
        samples, inputs = shape
        outputs = max(10, n_classes) if _is_auto(self.output_nodes) else self.output_nodes
        config = _built(
            {
                "graph": {
                    "widths": (inputs, *self._hidden(samples, inputs, n_classes), outputs),
                    "cardinality": self.cardinality, "seed": seed,
                },
                "tables": {"phase_bins": self.phase_bins, "mag_bins": self.mag_bins},
                "model": {"dim": self.dim, "scale": self.scale},
                "train": {
                    "batch_size": self.batch_size, "label_smoothing": self.label_smoothing,
                    **({} if _is_auto(self.epochs) else {"epochs": self.epochs}),
                    "optimizer": {
                        name: getattr(self, name)
                        for name in ("lr_phase", "lr_mag") if not _is_auto(getattr(self, name))
                    },
                },
                "device": str(self.device),
            }
        )  # fmt: skip
        train, optimizer = config.train, config.train.optimizer
        if _is_auto(self.lr_phase):
            optimizer = optimizer.model_copy(update={"lr_phase": config.tables.phase_bins / 128})
        if _is_auto(self.lr_mag):
            optimizer = optimizer.model_copy(update={"lr_mag": config.tables.mag_bins / 170})
        update: dict[str, Any] = {"optimizer": optimizer}
        if _is_auto(self.epochs):
            updates_an_epoch = -(-samples // train.batch_size)
            update["epochs"] = max(_LEAST_EPOCHS, -(-_LEAST_UPDATES // updates_an_epoch))
        return config.model_copy(update={"train": train.model_copy(update=update)})

    def _hidden(self, samples: int, inputs: int, n_classes: int) -> tuple[Any, ...]:
        sizes = self.hidden_layer_sizes
        if _is_auto(sizes):
            width = max(_NARROWEST, n_classes, min(2 * inputs, samples // _ROWS_A_NODE, _WIDEST))
            return width, width
        return tuple(sizes) if isinstance(sizes, Iterable) and not isinstance(sizes, str) else (sizes,)


def _is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == "auto"


def _scaled(
    x: Float64[np.ndarray, "samples features"], low: NDArray[Any], high: NDArray[Any], complement: bool
) -> Float32[np.ndarray, "samples inputs"]:
    """To [0, 1]. Halves do not overflow, however far apart the ends are; a feature of one value becomes 0."""
    half = high / 2 - low / 2
    scaled = ((x.clip(low, high) / 2 - low / 2) / np.where(half > 0, half, 1.0)).astype(np.float32)
    return np.concatenate([scaled, 1 - scaled], axis=1) if complement else scaled


def _built(settings: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        said = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg']}; got {one['input']!r}" for one in error.errors()
        )
        raise ConfigError(
            f"hyperparameters make a network that can be built; these do not: {said}. Correct them."
        ) from error
