"""Numbers and tables of importances, by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from spd.config.evals import (
    CI_L0,
    CIHistograms,
    CIMeanPerComponent,
    ComponentActivationDensity,
)
from spd.config.losses import StochasticReconLoss
from spd.config.models import MLPConfig, ModulePattern
from spd.config.run import Config
from spd.config.schedules import LrSchedule
from spd.errors import ConfigError
from spd.metrics.ci_tables import (
    G_EDGES,
    L0,
    Z_EDGES,
    ActivationDensity,
    ActiveComponents,
    Histograms,
    MeanPerComponent,
    groups_of,
    histogram,
)
from spd.metrics.measure import Found, Measure, Seen, Subject
from spd.models.component_model import CIOutputs
from spd.sampling import SourceSampler
from spd.training import build_model

G = [
    {"a": torch.tensor([[0.0, 0.5, 1.0], [0.25, 0.3, 0.0]]), "b": torch.tensor([[1.0, 0.0], [0.26, 0.0]])},
    {"a": torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.5, 0.0]]), "b": torch.tensor([[0.0, 0.0], [0.0, 0.0]])},
    {"a": torch.tensor([[0.0, 0.1, 0.9]]), "b": torch.tensor([[0.25, 0.1]])},  # a smaller batch
]


def _subject(**changes: Any) -> Subject:
    target = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    target.forward = lambda x: target["b"](target["a"](x))  # type: ignore[method-assign]
    config = Config(
        module_info=(ModulePattern(module_pattern="a", C=3), ModulePattern(module_pattern="b", C=2)), ci=MLPConfig(),
        output_loss_type="mse", loss_metrics=(StochasticReconLoss(coeff=1.0),), lr_schedule=LrSchedule(start_val=1e-3),
        steps=1, batch_size=2, ci_alive_threshold=0.25, **changes,
    )  # fmt: skip
    return Subject(build_model(target, config), config, torch.rand(2, 2), SourceSampler(0), None)


def _seen(subject: Subject, g: dict[str, torch.Tensor]) -> Seen:
    seen = subject.see(subject.example)
    return replace(seen, ci=CIOutputs(g, g, {site: 4 * values - 1 for site, values in g.items()}))


def _measured(measure: Measure) -> Found:
    subject = _subject()
    measure.begin(subject)
    for g in G:
        measure.update(_seen(subject, g))
    return measure.finish(measure.sums)


def test_active_components_by_site_group_and_in_all() -> None:
    found = _measured(L0("L", CI_L0(groups={"first": ("a", "*"), "both": ("*",)}))).numbers
    # Above 0.25, strictly: a has 2 + 1, 1 + 1 and 1; b has 1 + 1, 0 and 0; over five positions.
    assert found == pytest.approx(
        {"L/a": 6 / 5, "L/b": 2 / 5, "L/group/first": 8 / 5, "L/group/both": 0.0, "L/total": 8 / 5}
    )
    with pytest.raises(ConfigError, match="group 'c' matches at least one site; 'c' matches none of a, b"):
        L0("L", CI_L0(groups={"c": ("c",)})).begin(_subject())


def test_a_site_is_in_the_first_group_that_matches_and_counts_there_once() -> None:
    groups = {"attention": ("*.q", "h.0.*"), "layer 0": ("h.0.*",), "rest": ("*",)}
    sites = ["h.0.q", "h.0.mlp", "h.1.q", "h.1.mlp"]
    assert groups_of(sites, groups) == {"attention": ["h.0.q", "h.0.mlp", "h.1.q"], "layer 0": [], "rest": ["h.1.mlp"]}


def test_means_and_shares_of_components_are_over_all_positions() -> None:
    means = _measured(MeanPerComponent("M", CIMeanPerComponent())).tables
    torch.testing.assert_close(means["M/a"], torch.tensor([0.05, 0.38, 0.38]))
    torch.testing.assert_close(means["M/b"], torch.tensor([1.51 / 5, 0.02]))
    shares = _measured(ActivationDensity("D", ComponentActivationDensity())).tables
    torch.testing.assert_close(shares["D/a"], torch.tensor([0.0, 0.8, 0.4]))
    torch.testing.assert_close(shares["D/b"], torch.tensor([0.4, 0.0]))
    assert _measured(ActiveComponents("A")).numbers == {"A/a": 2.0, "A/b": 1.0}


def test_histograms_are_those_of_numpy() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    for edges in ((-1.0, 1.0, 8), (0.0, 1.0, 10)):
        low, high, bins = edges
        want = np.histogram(values.clamp(low, high).numpy(), bins=bins, range=(low, high))[0]
        assert histogram(values, edges).tolist() == want.tolist()
    every = _measured(Histograms("H", CIHistograms())).tables
    assert {key: int(table.sum()) for key, table in every.items()} == {
        "H/a/g": 15, "H/a/z": 15, "H/b/g": 10, "H/b/z": 10,
    }  # fmt: skip
    first = _measured(Histograms("H", CIHistograms(n_batches_accum=1))).tables
    assert {key: int(table.sum()) for key, table in first.items()} == {"H/a/g": 6, "H/a/z": 6, "H/b/g": 4, "H/b/z": 4}
    g, z = first["H/a/g"], first["H/a/z"]
    assert (g[0].item(), g[-1].item(), len(g)) == (2, 1, G_EDGES[2])
    zero = Z_EDGES[2] // 2  # z = 4 g − 1: twice −1, twice 0 or more, and 3
    assert z[:zero].sum().item() == 2
    assert z[zero:].sum().item() == 4
