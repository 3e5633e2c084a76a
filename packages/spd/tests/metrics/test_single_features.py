"""Orders, errors and directions of components that were put together by hand."""

from typing import Any

import pytest
import torch
from torch import nn

from spd.config.evals import DenseCI, DirectionMatchConfig, IdentityCI, IdentityCIError, PermutedCIPlots, UVPlots
from spd.config.losses import StochasticReconLoss
from spd.config.models import MLPConfig, ModulePattern
from spd.config.run import Config
from spd.config.schedules import LrSchedule
from spd.errors import ConfigError
from spd.metrics.ground_truth import direction_match
from spd.metrics.measure import Found, Measure, Subject
from spd.metrics.single_features import (
    CIErrors,
    ComponentMatrices,
    Directions,
    PermutedImportances,
    component_order,
)
from spd.models.components import LinearComponents
from spd.sampling import SourceSampler
from spd.training import build_model

FEATURES, C = 4, 7
OWN = [5, 2, 6, 1]


def _subject(example: torch.Tensor | None = None) -> Subject:
    """Component OWN[j] is exactly column j of the first layer; its importance is 1 where |h| is above 0.7."""
    torch.manual_seed(3)
    target = nn.Sequential(nn.Linear(FEATURES, 3, bias=False), nn.ReLU(), nn.Linear(3, FEATURES))
    config = Config(
        module_info=tuple(ModulePattern(module_pattern=name, C=C) for name in "02"), ci=MLPConfig(hidden_dims=(1,)),
        output_loss_type="mse", loss_metrics=(StochasticReconLoss(coeff=1.0),), lr_schedule=LrSchedule(start_val=1e-3),
        steps=1, batch_size=2,
    )  # fmt: skip
    model = build_model(target, config)
    components = model.components["0"]
    with torch.no_grad():
        components.V.zero_()
        components.V[range(FEATURES), OWN] = 1.0
        components.U[OWN] = target[0].weight.T
        first, last = model.ci_fns["0"].layers  # z = gelu(100 h) / 50, which is 2 h where h > 0
        first.W.fill_(100.0)
        last.W.fill_(1 / 50)
        first.b.zero_()
        last.b.zero_()
    return Subject(model, config, torch.rand(8, FEATURES) if example is None else example, SourceSampler(0), None)


def _measured(measure: Measure, subject: Subject) -> Found:
    measure.begin(subject)
    return measure.finish(measure.fixed)


def test_components_are_drawn_in_the_order_of_their_features_and_dead_ones_last() -> None:
    g = torch.zeros(2, 6)
    g[0, 4], g[1, 2] = 1.0, 0.9  # the features' own
    g[0, 1], g[1, 5] = 0.2, 0.3  # alive besides
    assert component_order(g).tolist() == [4, 2, 5, 1, 0, 3]
    assert component_order(g, dense=True).tolist() == [4, 2, 5, 1, 0, 3]
    assert component_order(g, threshold=0.25).tolist() == [4, 2, 5, 1, 0, 3]
    # A feature whose own component is dead keeps its place.
    order = component_order(torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.4], [0.0, 0.3, 0.0, 0.0]])).tolist()
    assert order[1] == 1  # the second feature's own, though the first has none that is alive
    assert component_order(torch.tensor([[0.1, 0.9], [0.1, 0.0], [0.2, 0.0]]), dense=True).tolist() == [1, 0]


def test_an_exact_decomposition_has_no_errors_and_matches_exactly() -> None:
    subject = _subject()
    g = subject.single_features["0"]
    want = torch.zeros(FEATURES, C)
    want[range(FEATURES), OWN] = 1.0
    torch.testing.assert_close(g, want)
    config = IdentityCIError(identity_ci=(IdentityCI(layer_pattern="0", n_features=FEATURES),))
    assert _measured(CIErrors("E", config), subject).numbers == {"E/0/0.1": 0.0, "E/0/0.2": 0.0}
    directions = _measured(Directions("D", DirectionMatchConfig(layer_pattern="0")), subject).numbers
    assert directions == pytest.approx({"D/0/mmcs": 1.0, "D/0/ml2r": 1.0})


def test_errors_are_counted_at_each_tolerance_and_for_dense_components() -> None:
    subject = _subject()
    with torch.no_grad():
        subject.model.components["0"].V[0, OWN[0]] = 0.575  # 2 · 0.75 · 0.575 = 0.8625: too low at 0.1, not at 0.2
        subject.model.components["0"].V[1, OWN[3]] = 0.1  # 0.15 off the diagonal
    identity = IdentityCIError(identity_ci=(IdentityCI(layer_pattern="0", n_features=FEATURES),))
    assert _measured(CIErrors("E", identity), subject).numbers == {"E/0/0.1": 2.0, "E/0/0.2": 0.0}
    dense = IdentityCIError(dense_ci=(DenseCI(layer_pattern="0", k=3),), tolerances=(0.1,))
    # Three columns reach 0.9, one entry of 0.8625 stands where nothing should.
    assert _measured(CIErrors("E", dense), subject).numbers == {"E/0/0.1": 1.0}


def test_lengths_and_directions_by_hand() -> None:
    """Components half as long, and one of them turned round: |cos| counts with its sign."""
    w = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    components = LinearComponents(2, 2, 2)
    with torch.no_grad():
        components.V.copy_(torch.tensor([[-1.0, 0.0], [0.0, 1.0]]))
        components.U.copy_(torch.tensor([[-1.5, 0.0], [0.3, 0.4]]))
    found = direction_match(w, components)
    assert found.mmcs == pytest.approx((1.0 + 0.8) / 2)
    assert found.ml2r == pytest.approx((0.5 + 0.5) / 2)


def test_tables_for_pictures_are_in_the_components_own_order() -> None:
    subject = _subject()
    importances = _measured(PermutedImportances("P", PermutedCIPlots(dense_patterns=("2",))), subject).tables
    assert importances["P/0/order"][:FEATURES].tolist() == OWN
    torch.testing.assert_close(importances["P/0/importances"], subject.single_features["0"])
    assert importances["P/2/order"].tolist() == component_order(subject.single_features["2"], dense=True).tolist()
    matrices = _measured(ComponentMatrices("U", UVPlots(identity_patterns=("0",))), subject).tables
    assert {key.rsplit("/", 1)[1] for key in matrices} == {"V", "U", "order", "importances"}
    torch.testing.assert_close(matrices["U/0/V"], subject.model.components["0"].V.detach())
    torch.testing.assert_close(matrices["U/0/U"], subject.model.components["0"].U.detach())
    assert matrices["U/0/order"].tolist() == importances["P/0/order"].tolist()


@pytest.mark.parametrize(
    ("measure", "example", "message"),
    [
        (PermutedImportances("P", PermutedCIPlots()), torch.zeros(2, 3, dtype=torch.int64), "torch.int64 of shape"),
        (
            CIErrors("E", IdentityCIError(identity_ci=(IdentityCI(layer_pattern="0", n_features=9),))), None,
            "width of the network's input, 4; got 9 for '0'",
        ),
        (Directions("D", DirectionMatchConfig(layer_pattern="x*")), None, r"'x\*' matches none of 0, 2"),
        (
            CIErrors(
                "E",
                IdentityCIError(
                    identity_ci=(IdentityCI(layer_pattern="*", n_features=FEATURES),),
                    dense_ci=(DenseCI(layer_pattern="2", k=1),),
                ),
            ),
            None, "2 is matched by two patterns",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(measure: Any, example: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measure.begin(_subject(example))


def test_errors_without_sites_are_refused() -> None:
    with pytest.raises(ConfigError, match="identity_ci and dense_ci are empty"):
        CIErrors("E", IdentityCIError())
