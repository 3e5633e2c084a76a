import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurograph.errors import ConfigError, DataError
from neurograph.losses import (
    AdaptiveTemperature,
    check_labels,
    classification_loss,
    cosine_logits,
    mean_cosine_logits,
    output_gradient,
    readout_gradient,
    soft_targets,
    top_k_accuracy,
)


def _draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_cosine_logits_are_scaled_cosines() -> None:
    readout, codes = _draw(5, 7).numpy(), _draw(3, 7, seed=1).numpy()
    expected = 12 * (readout @ codes.T) / np.linalg.norm(readout, axis=1)[:, None] / np.linalg.norm(codes, axis=1)
    np.testing.assert_allclose(cosine_logits(torch.tensor(readout), torch.tensor(codes)).numpy(), expected, rtol=1e-12)


def test_a_read_out_of_zeros_has_logits_and_gradients_that_are_numbers() -> None:
    readout = torch.stack([torch.zeros(4), torch.ones(4)]).requires_grad_()
    labels = torch.tensor([0, 1])
    logits = cosine_logits(readout, torch.eye(4))
    (gradient,) = torch.autograd.grad(classification_loss(logits, labels), readout)
    assert logits[0].tolist() == [0, 0, 0, 0]
    assert gradient[0].tolist() == [0, 0, 0, 0]
    assert 0 < float(gradient[1].abs().max()) < 10
    torch.testing.assert_close(readout_gradient(readout.detach(), torch.eye(4), labels), gradient)


def test_the_loss_is_the_cross_entropy_with_temperature_and_smoothing() -> None:
    logits, labels = _draw(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    scaled = logits.numpy() / 0.7
    log_q = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    target = np.full((6, 4), 0.1 / 4)
    target[np.arange(6), labels.numpy()] += 0.9
    expected = -(target * log_q).sum(axis=1).mean()
    assert float(classification_loss(logits, labels, temperature=0.7, label_smoothing=0.1)) == pytest.approx(expected)
    np.testing.assert_allclose(soft_targets(labels, 4, 0.1).numpy(), target, atol=1e-7)


@given(
    seed=st.integers(0, 1000),
    nodes=st.integers(1, 4),
    temperature=st.floats(0.3, 3),
    smoothing=st.floats(0, 0.5),
    weighted=st.booleans(),
)
def test_the_output_gradient_is_autograds(
    seed: int, nodes: int, temperature: float, smoothing: float, weighted: bool
) -> None:
    outputs, codes = _draw(3, nodes, 5, seed=seed).requires_grad_(), _draw(4, 5, seed=seed + 1)
    weights = _draw(nodes, seed=seed + 2).abs() if weighted else None
    labels = torch.randint(4, (3,), generator=torch.Generator().manual_seed(seed))
    logits = mean_cosine_logits(outputs, codes, 2.0, weights)
    loss = classification_loss(logits, labels, temperature=temperature, label_smoothing=smoothing)
    (expected,) = torch.autograd.grad(loss, outputs)
    found = output_gradient(
        outputs.detach(),
        codes,
        labels,
        scale=2.0,
        temperature=temperature,
        label_smoothing=smoothing,
        weights=weights,
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-10)


def test_the_output_gradient_is_the_formula_written_out() -> None:
    """One sample, two nodes: the sum over the classes, term by term, in NumPy."""
    outputs, codes, label = _draw(1, 2, 3).numpy(), _draw(4, 3, seed=9).numpy(), 2
    norms = np.linalg.norm
    logits = np.mean([[u @ v / norms(u) / norms(v) for v in codes] for u in outputs[0]], axis=0)
    q = np.exp(logits) / np.exp(logits).sum()
    expected = np.zeros_like(outputs)
    for n, u in enumerate(outputs[0]):
        for k, v in enumerate(codes):
            w = (q[k] - (k == label)) / 2
            expected[0, n] += w * (v / (norms(u) * norms(v)) - u * (u @ v) / (norms(u) ** 3 * norms(v)))
    found = output_gradient(torch.tensor(outputs), torch.tensor(codes), torch.tensor([label]))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_the_read_out_gradient_is_autograds() -> None:
    readout, codes, labels = _draw(6, 10).requires_grad_(), _draw(3, 10, seed=4), torch.tensor([0, 1, 2, 2, 1, 0])
    (expected,) = torch.autograd.grad(classification_loss(cosine_logits(readout, codes), labels), readout)
    torch.testing.assert_close(readout_gradient(readout.detach(), codes, labels), expected)


def test_the_gradient_depends_on_the_label_unlike_the_originals() -> None:
    outputs, codes = _draw(1, 1, 5), _draw(3, 5, seed=2)
    first = output_gradient(outputs, codes, torch.tensor([0]))
    second = output_gradient(outputs, codes, torch.tensor([1]))
    assert float((first - second).abs().max()) > 1e-3


def test_a_node_without_weight_does_not_count() -> None:
    outputs, codes = _draw(2, 3, 5), _draw(4, 5, seed=1)
    found = mean_cosine_logits(outputs, codes, weights=torch.tensor([2.0, 0.0, 0.0]))
    torch.testing.assert_close(found, mean_cosine_logits(outputs[:, :1], codes))
    gradient = output_gradient(outputs, codes, torch.tensor([0, 1]), weights=torch.tensor([2.0, 0.0, 0.0]))
    assert not bool(gradient[:, 1:].any())


def test_top_k_counts_the_k_largest() -> None:
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    labels = torch.tensor([1, 3, 3])
    assert [top_k_accuracy(logits, labels, k) for k in (1, 2, 4)] == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_the_adaptive_temperature_brings_the_confidence_to_its_target() -> None:
    temperature = AdaptiveTemperature(target=0.6, rate=0.5)
    logits = 5 * _draw(64, 10).float()
    for _ in range(200):
        temperature.update(logits)
    assert float(torch.softmax(logits / temperature.value, 1).amax(1).mean()) == pytest.approx(0.6, abs=1e-3)
    assert temperature.value > 1


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": math.nan}, {"label_smoothing": 1.0}])
def test_softness_that_makes_no_sense_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="got"):
        classification_loss(torch.zeros(1, 2), torch.tensor([0]), **settings)


def test_weights_and_k_that_make_no_sense_are_refused() -> None:
    for weights in ([0.0, 0.0], [1.0, -1.0], [1.0], [1.0, math.nan]):
        with pytest.raises(ConfigError, match="each of 2 output nodes has a weight"):
            mean_cosine_logits(_draw(1, 2, 3), _draw(2, 3), weights=torch.tensor(weights))
    with pytest.raises(ConfigError, match="k is from 1 to the 2 classes; got 3"):
        top_k_accuracy(torch.zeros(1, 2), torch.tensor([0]), 3)


@pytest.mark.parametrize(("labels", "wrong"), [([0, 3], "3"), ([-1, 0], "-1")])
def test_labels_outside_the_classes_are_refused(labels: list[int], wrong: str) -> None:
    with pytest.raises(DataError, match=f"from 0 to 2; got {wrong}"):
        check_labels(torch.tensor(labels), 3)


def test_no_labels_are_refused() -> None:
    none = torch.tensor([], dtype=torch.long)
    for take in (
        lambda: check_labels(none, 3),
        lambda: classification_loss(torch.zeros(0, 3), none),
        lambda: output_gradient(_draw(0, 2, 3), _draw(4, 3), none),
        lambda: readout_gradient(_draw(0, 3), _draw(4, 3), none),
        lambda: soft_targets(none, 3),
        lambda: top_k_accuracy(torch.zeros(0, 3), none),
    ):
        with pytest.raises(DataError, match="got none"):
            take()


def test_closed_forms_refuse_labels_outside_the_classes() -> None:
    for label in (-100, 4):  # the first is what torch's cross-entropy leaves out without a word
        with pytest.raises(DataError, match=f"from 0 to 3; got {label}"):
            readout_gradient(_draw(1, 3), _draw(4, 3), torch.tensor([label]))


@pytest.mark.parametrize("settings", [{"target": 1.0}, {"rate": 0.0}, {"low": 2.0}, {"high": 0.5}, {"low": 0.0}])
def test_temperatures_that_cannot_adapt_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="0 < low ≤ value ≤ high"):
        AdaptiveTemperature(**settings)
