"""Every way to search, against all scores."""

import sys

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from neurograph.core import spatial
from neurograph.core.resonance import unit_scores
from neurograph.core.spatial import METHODS, Nearest, build_index, nearest, recall_at_k
from neurograph.errors import ConfigError, MissingExtraError, TableError

EXACT = [
    "exhaustive",
    pytest.param("tree", marks=pytest.mark.needs_extra("sklearn")),
    pytest.param("flat", marks=pytest.mark.needs_extra("faiss")),
]
ROUGH = [pytest.param(name, marks=pytest.mark.needs_extra("faiss")) for name in ("ivf", "hnsw")]


def draw(bins, q, n, d, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(bins, (q, d), generator=generator), torch.randint(bins, (n, d), generator=generator)


def sorted_scores(ctx, own, bins, k):
    units = unit_scores(ctx[:, None], own, bins).tolist()
    return [[row for _, row in sorted((-u, row) for row, u in enumerate(one))][:k] for one in units]


@pytest.mark.parametrize("method", EXACT)
@given(st.sampled_from([2, 4, 7, 512]), st.integers(1, 40), st.integers(1, 4), st.integers(1, 12), st.integers(0, 999))
def test_exact_searches_find_the_same_with_all_ties(method, bins, n, d, k, seed):
    ctx, own = draw(bins, 3, n, d, seed)
    found = nearest(ctx, own, bins, k, method=method)
    expected = sorted_scores(ctx, own, bins, k)
    assert [[row for row in one if row >= 0] for one in found.index.tolist()] == expected
    assert found.index.shape == (3, k)
    assert recall_at_k(found, nearest(ctx, own, bins, k)) == 1.0


@pytest.mark.parametrize("method", EXACT)
def test_many_ties_are_searched_to_their_end(method):
    # All nodes but the last tie; the one of lowest number has to be found among more than are asked for at first.
    own = torch.zeros(200, 3, dtype=torch.long)
    own[-1] = 1
    own = own[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    found = nearest(torch.zeros(1, 3, dtype=torch.long), own, 8, 2, method=method)
    assert found.index.tolist() == [(own == 0).all(1).nonzero().flatten()[:2].tolist()]
    assert found.score.tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize("method", ROUGH)
def test_approximate_searches_find_most_and_say_how_much(method):
    ctx, own = draw(512, 50, 1500, 4, 1)
    truth = nearest(ctx, own, 512, 5)
    found = build_index(method, own, 512).nearest(ctx, 5)
    assert 0.5 < recall_at_k(found, truth) <= 1.0
    again = build_index(method, own, 512).nearest(ctx, 5)
    assert torch.equal(found.index, again.index)
    there = found.index >= 0
    assert torch.equal(found.units[there], unit_scores(ctx[:, None], own[found.index.clamp(min=0)], 512)[there])


@pytest.mark.needs_extra("faiss")
def test_looking_everywhere_finds_everything_and_looking_little_finds_less():
    ctx, own = draw(512, 50, 1500, 4, 1)
    truth = nearest(ctx, own, 512, 5)
    little, all_ = (nearest(ctx, own, 512, 5, method="ivf", lists=40, probes=probes) for probes in (1, 40))
    assert recall_at_k(all_, truth) > 0.99  # single precision decides near ties
    assert recall_at_k(little, truth) < 0.9


def test_recall_counts_ties_as_right():
    def one(index, units):
        return Nearest(torch.tensor([index]), torch.tensor([units]))

    truth = one([0, 1], [9, 5])
    assert recall_at_k(one([0, 7], [9, 5]), truth) == 1.0
    assert recall_at_k(one([0, 7], [9, 4]), truth) == 0.5
    assert recall_at_k(one([3, -1], [4, 0]), truth) == 0.0


def test_indices_go_round():
    ctx, own = draw(8, 4, 20, 3, 0)
    assert torch.equal(nearest(ctx - 16, own + 8, 8, 3).index, nearest(ctx, own, 8, 3).index)


@pytest.mark.parametrize(
    ("method", "module", "extra"), [("tree", "sklearn.neighbors", "sklearn"), ("hnsw", "faiss", "faiss")]
)
def test_a_missing_extra_is_named(monkeypatch, method, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"neurograph\[{extra}\]"):
        nearest(*draw(8, 1, 4, 2, 0), 8, 1, method=method)


def test_what_cannot_be_asked_is_refused(monkeypatch):
    ctx, own = draw(8, 1, 4, 2, 0)
    monkeypatch.setattr(spatial, "METHODS", METHODS[:2])
    with pytest.raises(ConfigError, match="'flat'"):
        build_index("flat", own, 8)
    with pytest.raises(ConfigError, match="k = 0"):
        nearest(ctx, own, 8, 0)


@pytest.mark.parametrize("method", EXACT + ROUGH)
def test_contexts_of_another_length_are_refused(method):
    index = build_index(method, draw(8, 1, 4, 3, 0)[1], 8)
    with pytest.raises(TableError, match=r"3 phase indices each, one row a context; got torch\.int64 of \(2, 2\)"):
        index.nearest(torch.zeros(2, 2, dtype=torch.long), 1)
    assert index.nearest(torch.zeros(0, 3, dtype=torch.long), 2).index.shape == (0, 2)


@pytest.mark.parametrize("method", EXACT)
def test_no_nodes_at_all_are_refused(method):
    with pytest.raises(TableError, match="at least one node"):
        build_index(method, torch.zeros(0, 3, dtype=torch.long), 8)


@pytest.mark.needs_extra("faiss")
@pytest.mark.parametrize("setting", ["lists", "probes", "links", "effort"])
def test_faiss_is_not_asked_for_nothing(setting):
    with pytest.raises(ConfigError, match=f"got {setting} = 0"):
        build_index("ivf", torch.zeros(4, 3, dtype=torch.long), 8, **{setting: 0})
