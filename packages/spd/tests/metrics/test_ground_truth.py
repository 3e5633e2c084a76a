import pytest
import torch

from spd.metrics.ground_truth import dense_ci_error, direction_match, identity_ci_error, identity_order
from spd.models.components import LinearComponents


def test_an_identity_in_any_order_has_no_error() -> None:
    g = torch.zeros(5, 9)
    g[torch.arange(5), torch.tensor([3, 8, 0, 5, 1])] = 1.0
    assert identity_ci_error(g) == 0
    assert identity_order(g)[:5] == [3, 8, 0, 5, 1]
    assert sorted(identity_order(g)) == list(range(9))


def test_errors_of_an_identity_by_hand() -> None:
    g = torch.eye(4, 6)
    g[0, 5] = 0.15  # above 0.1 off the diagonal, not above 0.2
    g[1, 1] = 0.85  # below 0.9 on it, not below 0.8
    g[2, 3] = 0.5
    assert identity_ci_error(g) == 3
    assert identity_ci_error(g, 0.2) == 1
    assert identity_ci_error(torch.eye(6, 4)) == 2  # two features without a component


def test_the_best_order_is_not_the_greedy_one() -> None:
    g = torch.tensor([[1.0, 0.95], [0.95, 0.0]])
    # Greedy takes 1.0 and is left with 0; the assignment takes 0.95 twice.
    assert identity_order(g) == [1, 0]


def test_errors_of_dense_components_by_hand() -> None:
    g = torch.zeros(4, 5)
    g[:, 2], g[:, 4] = 0.95, torch.tensor([0.3, 0.9, 0.2, 0.1])
    assert dense_ci_error(g, 2) == 0
    assert dense_ci_error(g, 1) == 3  # 0.3, 0.9 and 0.2 stand where nothing should
    g[1, 4] = 0.5
    assert dense_ci_error(g, 2) == 1  # the second never reaches 0.9
    g[0, 0] = 0.15
    assert (dense_ci_error(g, 2), dense_ci_error(g, 2, 0.2)) == (2, 1)


def test_components_that_are_the_columns_match() -> None:
    w = torch.randn(3, 4)
    components = LinearComponents(4, 3, 6)
    with torch.no_grad():
        components.V.zero_()
        components.V[:, :4] = torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0]))
        components.U[:4] = w.T
    found = direction_match(w, components)
    assert found.mmcs == pytest.approx(1.0)
    assert found.ml2r == pytest.approx(5 / 4)
