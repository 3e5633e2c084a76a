"""How well a network classifies: in batches, with a table of confusions, and the same whatever the size of a batch."""

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from neurograph.data import check_samples
from neurograph.errors import ConfigError, DataError
from neurograph.losses import check_labels, classification_loss, top_k_accuracy
from neurograph.model import Model

__all__ = ["Evaluation", "confusion_matrix", "evaluate"]


def confusion_matrix(predicted: Int[Tensor, " S"], labels: Int[Tensor, " S"], n_classes: int) -> Int64[Tensor, "C C"]:
    """Counts by true class (row) and predicted class (column).

    Args:
        predicted: class numbers.
        labels: class numbers.
        n_classes: C.

    Returns:
        The counts.

    Raises:
        DataError: other numbers of predictions and labels, class numbers outside the classes, or none.

    >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 2)
    tensor([[1, 1],
            [0, 1]])
    """
    if predicted.shape != labels.shape:
        raise DataError(
            f"each sample has one prediction and one label; got shapes {tuple(predicted.shape)} and "
            f"{tuple(labels.shape)}. Match them."
        )
    check_labels(labels, n_classes)
    check_labels(predicted, n_classes)
    flat = torch.bincount(labels.long() * n_classes + predicted.long(), minlength=n_classes * n_classes)
    return flat.view(n_classes, n_classes)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        loss: mean cross-entropy.
        confusion: counts, true class by row.
        top_k: share of samples whose class is among the k best, by k.
        names: of the classes.
    """

    loss: float
    confusion: Int64[Tensor, "C C"]
    top_k: dict[int, float]
    names: tuple[str, ...]

    @property
    def n_samples(self) -> int:
        """Samples."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Share of samples whose class was predicted."""
        return int(self.confusion.diagonal().sum()) / self.n_samples

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall over the classes that have samples."""
        frame = self.to_frame()
        return float(frame["recall"][frame["support"] > 0].mean())

    def to_frame(self) -> pd.DataFrame:
        """One row a class: precision, recall, F1 (0 where there is nothing to count) and the number of samples."""
        counts = self.confusion.double().cpu()
        hits = counts.diagonal()
        precision = hits / counts.sum(0).clamp_min(1)
        recall = hits / counts.sum(1).clamp_min(1)
        f1 = 2 * hits / (counts.sum(0) + counts.sum(1)).clamp_min(1)
        return pd.DataFrame(
            {
                "class": list(self.names),
                "precision": precision.numpy(),
                "recall": recall.numpy(),
                "f1": f1.numpy(),
                "support": counts.sum(1).long().numpy(),
            }
        )

    def confusion_frame(self) -> pd.DataFrame:
        """The confusions with the classes' names."""
        table = self.confusion.cpu().numpy()
        return pd.DataFrame(table, index=pd.Index(self.names, name="true"), columns=pd.Index(self.names, name="said"))


def evaluate(
    model: Model,
    x: Float[Tensor, "S I"],
    y: Int[Tensor, " labels"],
    *,
    batch_size: int = 256,
    top_k: tuple[int, ...] = (1, 3),
    names: tuple[str, ...] | None = None,
) -> Evaluation:
    """Classifies samples in batches and compares with their labels.

    Args:
        model: the network.
        x: samples in [0, 1].
        y: labels.
        batch_size: samples at a time: memory and speed, never results.
        top_k: which top-k accuracies are wanted; those above the number of classes are left out.
        names: of the classes; their numbers where not given.

    Returns:
        The evaluation.

    Raises:
        DataError: samples or labels that `neurograph.data.check_samples` refuses, or not one name
            a class.
        ConfigError: a batch size or a k below 1.

    >>> from neurograph.config import Config
    >>> found = evaluate(Model.build(Config(), seed=0), torch.rand(20, 64), torch.arange(20) % 10)
    >>> found.n_samples, found.confusion.shape
    (20, torch.Size([10, 10]))
    """
    check_samples(x, y, n_features=len(model.topology.inputs), n_classes=model.n_classes)
    if batch_size < 1:
        raise ConfigError(f"a batch has at least one sample; got {batch_size}. Raise it.")
    if names is None:
        names = tuple(str(number) for number in range(model.n_classes))
    elif len(names) != model.n_classes:
        raise DataError(f"each class has a name; got {len(names)} for {model.n_classes} classes. Match them.")
    with torch.no_grad():
        logits = torch.cat([model.logits(part) for part in x.split(batch_size)])
    labels = y.to(logits.device)
    return Evaluation(
        float(classification_loss(logits.double(), labels)),
        confusion_matrix(logits.argmax(-1), labels, model.n_classes).cpu(),
        {k: top_k_accuracy(logits, labels, k) for k in top_k if k <= model.n_classes},
        names,
    )
