"""Scores: each formula in float64, by slices, and what is refused."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resu.core.mask import SparseMask
from resu.core.phases import Phase, SparseParameter, sparsify
from resu.core.scores import (
    SCORES,
    activation,
    consistency,
    gradient,
    magnitude,
    momentum,
    movement,
    named_score,
    tensor_rows,
)
from resu.core.select import Candidate, Score, select_top
from resu.errors import ConfigError, MaskError, OptimizerError, PhaseError
from resu.optim.masked import MaskedAdamW

SHAPES = [(6, 5), (4, 3, 2, 2), (7,)]


class Moments:
    """An optimizer reduced to its moments."""

    def __init__(self, m: Tensor | None, v: Tensor | None = None) -> None:
        self.m, self.v = m, v

    def moments_rows(self, parameter: Tensor, part: slice) -> tuple[Tensor, Tensor | None] | None:
        return None if self.m is None else (self.m[part], None if self.v is None else self.v[part])


def make(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> SparseParameter:
    generator = torch.Generator().manual_seed(seed)
    parameter = nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
    parameter.grad = torch.randn(shape, generator=generator).to(dtype)
    return sparsify(parameter, SparseMask.random(shape, 0.5), "layer.weight")


def slices(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + 2, rows)) for start in range(0, rows, 2))


def whole(score: Score, rows: int) -> np.ndarray:
    parts = [score(part) for part in slices(rows)]
    assert all(part.dtype is torch.float32 for part in parts)
    return torch.cat(parts).double().numpy()


def double(tensor: Tensor, state: SparseParameter) -> np.ndarray:
    return tensor.detach().double().reshape(state.mask.rows, state.mask.cols).numpy()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_of_weight_and_gradient(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    state = make(shape, dtype)
    w, g = double(state.parameter, state), double(state.parameter.grad, state)
    rows = state.mask.rows
    np.testing.assert_array_equal(whole(magnitude(state), rows), np.abs(w))
    np.testing.assert_array_equal(whole(gradient(state), rows), np.abs(g))
    np.testing.assert_allclose(whole(movement(state), rows), np.abs(w) * np.abs(g), rtol=1e-7)


def test_gradients_that_are_not_contiguous_are_read_by_position() -> None:
    state = make((6, 5))
    expected = state.parameter.grad.clone()
    state.parameter.grad = expected.T.contiguous().T
    assert not state.parameter.grad.is_contiguous()
    torch.testing.assert_close(gradient(state)(slice(2, 5)), expected[2:5].abs(), rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("phase", list(Phase))
def test_scores_of_moments(shape: tuple[int, ...], phase: Phase) -> None:
    state = make(shape)
    state.phase = phase
    rng = np.random.default_rng(1)
    m, v = rng.normal(size=(state.mask.rows, state.mask.cols)), rng.random((state.mask.rows, state.mask.cols))
    m, v = m.astype(np.float32).astype(float), v.astype(np.float32).astype(float)
    optimizer = Moments(torch.from_numpy(m).float(), torch.from_numpy(v).float())
    spread = v if phase is Phase.SHADOW else np.sqrt(v)
    np.testing.assert_array_equal(whole(momentum(state, optimizer), state.mask.rows), np.abs(m))
    np.testing.assert_allclose(
        whole(consistency(state, optimizer, delta=1e-3), state.mask.rows), m**2 / (spread + 1e-3), rtol=1e-6
    )


def test_a_steady_gradient_scores_its_size_and_a_fickle_one_less() -> None:
    state = make((1, 2))
    state.phase = Phase.SHADOW
    m, v = torch.zeros(1, 2), torch.zeros(1, 2)
    for step in range(200):
        g = torch.tensor([[2.0, 2.0 if step % 2 else -2.0]])
        m, v = 0.9 * m + 0.1 * g, 0.9 * v + 0.1 * g.abs()
    steady, fickle = consistency(state, Moments(m, v))(slice(0, 1))[0].tolist()
    assert steady == pytest.approx(2.0, rel=1e-5)
    assert fickle < 0.01


def test_consistency_does_not_overflow_where_its_value_is_a_float() -> None:
    state = make((1, 2))
    state.phase = Phase.SHADOW
    score = consistency(state, Moments(torch.full((1, 2), 1e25), torch.full((1, 2), 1e25)))(slice(0, 1))
    assert score.tolist() == [[pytest.approx(1e25)] * 2]


def test_activation_weighs_columns_and_groups() -> None:
    state = make((6, 5))
    w, norms = double(state.parameter, state), np.arange(1.0, 6.0)
    np.testing.assert_allclose(whole(activation(state, torch.from_numpy(norms)), 6), np.abs(w) * norms, rtol=1e-6)
    grouped = np.stack([norms, norms[::-1], norms * 7])
    expected = np.abs(w) * np.repeat(grouped, 2, axis=0)
    np.testing.assert_allclose(whole(activation(state, torch.from_numpy(grouped.copy())), 6), expected, rtol=1e-6)


@pytest.mark.parametrize("norms", [torch.ones(4), torch.ones(4, 5)])
def test_norms_of_another_layer_are_refused(norms: Tensor) -> None:
    with pytest.raises(MaskError, match=r"one a column of the weight, .* divide its 6 rows; .* 5 columns"):
        activation(make((6, 5)), norms)


def test_named_scores_are_the_functions() -> None:
    state = make((6, 5))
    optimizer = Moments(torch.randn(6, 5), torch.rand(6, 5))
    part = slice(1, 4)
    for name, expected in {
        "magnitude": magnitude(state),
        "gradient": gradient(state),
        "movement": movement(state),
        "momentum": momentum(state, optimizer),
        "consistency": consistency(state, optimizer),
    }.items():
        assert torch.equal(named_score(name, state, optimizer)(part), expected(part))
    assert set(SCORES) == {"magnitude", "gradient", "movement", "momentum", "consistency"}
    with pytest.raises(ConfigError, match=r"one of magnitude, gradient, .*; got 'size'"):
        named_score("size", state)


def test_scores_without_what_they_read_are_refused_at_once() -> None:
    state = make((6, 5))
    for name in ("momentum", "consistency"):
        with pytest.raises(OptimizerError, match=r"none was given for layer\.weight"):
            named_score(name, state)
        with pytest.raises(OptimizerError, match=r"has none of layer\.weight yet. Take a step first"):
            named_score(name, state, Moments(None))
    assert named_score("momentum", state, Moments(torch.ones(6, 5)))(slice(0, 1)).sum() == 5
    with pytest.raises(OptimizerError, match=r"no second moment of layer\.weight"):
        named_score("consistency", state, Moments(torch.ones(6, 5)))
    state.parameter.grad = None
    for name in ("gradient", "movement"):
        with pytest.raises(PhaseError, match=r"layer\.weight has none. Score between backward"):
            named_score(name, state)


def test_the_masked_optimizer_is_a_source_of_moments() -> None:
    state = make((6, 5))
    state.phase = Phase.JOINT
    optimizer = MaskedAdamW([state.parameter], betas=(0.9, 0.999), backend="eager")
    grad = state.parameter.grad.clone()
    optimizer.step()
    torch.testing.assert_close(momentum(state, optimizer)(slice(0, 6)), 0.1 * grad.abs())
    # |m|² / √v after one step: (0.1 g)² / √(0.001 g²).
    expected = 0.01 / 0.001**0.5 * grad.abs()
    torch.testing.assert_close(consistency(state, optimizer)(slice(0, 6)), expected, rtol=1e-4, atol=1e-7)


def test_scores_serve_the_selection() -> None:
    state = make((4, 3, 2, 2))
    candidate = Candidate(magnitude(state), state.mask.shape, state.mask.device)
    (chosen,) = select_top([candidate], 7)
    order = np.argsort(-np.abs(state.parameter.detach().numpy().ravel()), kind="stable")[:7]
    assert chosen.active_indices.tolist() == sorted(order.tolist())


def test_rows_of_a_tensor_are_views_where_they_can_be() -> None:
    tensor = torch.randn(4, 6)
    assert tensor_rows(tensor, slice(1, 3)).data_ptr() == tensor[1:].data_ptr()
    assert tensor_rows(tensor[0], slice(0, 1)).shape == (1, 6)
