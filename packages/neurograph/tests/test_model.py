"""What a network makes of samples of other types, none or too many, and of classes that it cannot tell apart."""

import pytest
import torch

from neurograph.config import Config
from neurograph.errors import ConfigError, DataError
from neurograph.model import Model


def _model(**changes: object) -> Model:
    settings = {"graph": {"widths": (9, 12, 3), "cardinality": 4}, "model": {"dim": 4}, **changes}
    return Model.build(Config.model_validate(settings))


def test_samples_of_double_precision_are_taken_as_the_tables_are() -> None:
    model, x = _model(), torch.rand(20, 9, dtype=torch.float64)
    assert torch.equal(model.logits(x), model.logits(x.float()))
    assert torch.equal(model.predict(x), model.predict(x.float()))
    model.logits(x.requires_grad_()).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float64
    assert x.grad.abs().sum() > 0


def test_no_samples_have_no_classes() -> None:
    model, x = _model(), torch.zeros(0, 9)
    assert model.predict(x).shape == (0,)
    assert model.probabilities(x).shape == (0, 3)
    with pytest.raises(DataError, match="9 inputs"):
        model.predict(torch.zeros(2, 8))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_batches_are_put_together(size: int) -> None:
    model, x = _model(), torch.rand(20, 9)
    torch.testing.assert_close(model.probabilities(x, size), model.logits(x).softmax(-1))
    assert torch.equal(model.predict(x, size), model.logits(x).argmax(-1))


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="got 0"):
        _model().predict(torch.rand(3, 9), 0)


def test_classes_that_read_outs_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(ConfigError, match="length 1 for 3 classes"):
        Model.build(Config.model_validate({"graph": {"widths": (9, 1)}, "model": {"dim": 1}}), n_classes=3)
    with pytest.raises(ConfigError, match="2 classes"):
        Model.build(Config.model_validate({"graph": {"widths": (9, 1)}}))


def test_a_copy_has_integers_of_its_own() -> None:
    model, x = _model(radiation={"top_k": 2}), torch.rand(5, 9)
    other = model.to("cpu")
    assert torch.equal(other.logits(x), model.logits(x))
    other.store.set_((other.store.phase + 7) % 512)
    assert not torch.equal(other.logits(x), model.logits(x))
