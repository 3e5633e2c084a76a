import inspect

import numpy as np
import pytest
import torch

from neurograph.config import Config
from neurograph.errors import ConfigError, DataError
from neurograph.evaluation import Evaluation, confusion_matrix, evaluate
from neurograph.model import Model


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.build(Config.model_validate({"graph": {"widths": [16, 32, 32, 5], "cardinality": 8}}), seed=3)


def _samples(n: int = 101) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 16, generator=generator), torch.randint(5, (n,), generator=generator)


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_results_do_not_depend_on_the_size_of_a_batch(model: Model, size: int) -> None:
    x, y = _samples()
    found, whole = evaluate(model, x, y, batch_size=size), evaluate(model, x, y, batch_size=101)
    assert torch.equal(found.confusion, whole.confusion)
    assert found.top_k == whole.top_k
    assert found.loss == pytest.approx(whole.loss, rel=1e-5)


def test_figures_are_those_of_the_predictions(model: Model) -> None:
    x, y = _samples()
    predicted, found = model.predict(x), evaluate(model, x, y)
    assert found.n_samples == 101
    assert found.accuracy == pytest.approx(float((predicted == y).double().mean()))
    assert found.top_k[1] == pytest.approx(found.accuracy)
    assert found.top_k[3] >= found.top_k[1]
    for label in range(5):
        for said in range(5):
            assert int(found.confusion[label, said]) == int(((y == label) & (predicted == said)).sum())


@pytest.mark.needs_extra("sklearn")
def test_figures_of_classes_are_scikit_learns() -> None:
    from sklearn import metrics

    generator = np.random.default_rng(0)
    labels, said = generator.integers(4, size=200), generator.integers(4, size=200)
    matrix = confusion_matrix(torch.from_numpy(said), torch.from_numpy(labels), 4)
    found = Evaluation(0.0, matrix, {}, ("a", "b", "c", "d"))
    np.testing.assert_array_equal(matrix.numpy(), metrics.confusion_matrix(labels, said))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(labels, said)
    frame = found.to_frame()
    np.testing.assert_allclose(frame[["precision", "recall", "f1"]].to_numpy().T, [precision, recall, f1])
    assert frame["support"].tolist() == support.tolist()
    assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, said))
    assert found.confusion_frame().loc["a", "b"] == matrix[0, 1]


def test_a_class_without_samples_counts_for_nothing() -> None:
    found = Evaluation(0.0, confusion_matrix(torch.tensor([0, 1]), torch.tensor([0, 1]), 3), {}, ("a", "b", "c"))
    assert found.balanced_accuracy == found.accuracy == 1.0
    assert found.to_frame()["f1"].tolist() == [1.0, 1.0, 0.0]


def test_what_does_not_fit_is_refused(model: Model) -> None:
    x, y = _samples(4)
    with pytest.raises(DataError, match="below 5; got values from 0 to 5"):
        evaluate(model, x, torch.tensor([0, 1, 2, 5]))
    with pytest.raises(DataError, match="4 samples and 3 labels"):
        evaluate(model, x, y[:3])
    with pytest.raises(DataError, match="at least one sample; got 0"):
        evaluate(model, x[:0], y[:0])
    with pytest.raises(DataError, match="got nan in sample 2, feature 3"):
        evaluate(model, x.index_put((torch.tensor([2]), torch.tensor([3])), torch.tensor(torch.nan)), y)
    with pytest.raises(DataError, match="got 15 numbers for 16 input nodes"):
        evaluate(model, x[:, 1:], y)
    with pytest.raises(DataError, match="got 2 for 5 classes"):
        evaluate(model, x, y, names=("a", "b"))
    with pytest.raises(ConfigError, match="got 0"):
        evaluate(model, x, y, batch_size=0)
    with pytest.raises(ConfigError, match="got 0"):
        evaluate(model, x, y, top_k=(0,))


def test_samples_of_another_kind_are_those_of_the_network(model: Model) -> None:
    x, y = _samples(20)
    found = evaluate(model, x.double(), y.int())
    assert torch.equal(found.confusion, evaluate(model, x, y).confusion)
    assert 7 not in evaluate(model, x, y, top_k=(1, 7)).top_k


def test_confusions_need_one_prediction_a_label() -> None:
    with pytest.raises(DataError, match="none"):
        confusion_matrix(torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long), 2)
    with pytest.raises(DataError, match="got 2"):
        confusion_matrix(torch.tensor([2]), torch.tensor([0]), 2)
    # The shape checker of these tests would refuse it before the function does.
    plain = inspect.unwrap(confusion_matrix)
    with pytest.raises(DataError, match=r"\(1,\) and \(2,\)"):
        plain(torch.tensor([0]), torch.tensor([0, 1]), 2)
