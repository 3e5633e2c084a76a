"""Radiation within a pass: who gets what, and with which gradients."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from neurograph.core.engine import ForwardEngine
from neurograph.core.graph import Topology, build_static_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import Leaves, NodeStore
from neurograph.core.radiation_cache import RadiationCache
from neurograph.core.spreading import Spreading, deliver, resonance, weights
from neurograph.errors import ConfigError

BINS = 64
TABLES = HighResolutionLookupTables(BINS, 1024, dtype=torch.float64)
TOPOLOGY = Topology.from_frame(build_static_graph(5, 16, 3, cardinality=3, seed=2))
STEP = 2 * math.pi / BINS


def on_grid(shape, seed):
    """States whose angles are whole bins: there the plain formula and the snapped one have one value."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.randint(BINS, shape, generator=generator).double() * STEP
    size = 0.2 + torch.rand(shape, generator=generator, dtype=torch.float64)
    return torch.stack([size * angle.cos(), size * angle.sin()], dim=-2)


def plain_scores(states, phase, index):
    """Σ_d cos(∠z_d + p_d δ) by autograd."""
    angle = torch.atan2(states[:, :, 1], states[:, :, 0]).transpose(0, 1)[:, :, None]
    return (angle + phase[index] * STEP).cos().sum(-1)


@given(st.integers(0, 1000), st.integers(1, 4))
def test_scores_and_gradients_are_those_of_the_formula(seed, k):
    generator = torch.Generator().manual_seed(seed)
    states = on_grid((3, 2, 4), seed).requires_grad_()
    phase = torch.randint(BINS, (9, 4), generator=generator).double().requires_grad_()
    index = torch.randint(9, (2, 3, k), generator=generator)
    upstream = torch.randn(2, 3, k, generator=generator, dtype=torch.float64)
    ours, plain = resonance(states, phase, index, TABLES), plain_scores(states, phase, index)
    assert torch.allclose(ours, plain, atol=1e-8)
    pairs = zip(
        *(torch.autograd.grad((score * upstream).sum(), (states, phase)) for score in (ours, plain)), strict=True
    )
    for one, two in pairs:
        assert torch.allclose(one, two, atol=1e-9)


def test_weights_are_a_softmax_over_those_that_are_there():
    states, phase = on_grid((2, 1, 3), 0), torch.randint(BINS, (6, 3)).double()
    index = torch.tensor([[[4, 1, -1], [-1, -1, -1]]])
    found = weights(states, phase, index, TABLES, gain=0.25, beta=2.0)
    score = plain_scores(states, phase, torch.tensor([[[4, 1], [0, 0]]]))[0, 0] * (2 / 3)
    odds = score.exp() / score.exp().sum()
    assert torch.allclose(found[0, 0], torch.tensor([0.25 * odds[0], 0.25 * odds[1], 0.0], dtype=torch.float64))
    assert found[0, 1].tolist() == [0.0, 0.0, 0.0]


def test_a_source_without_targets_has_no_gradient_and_no_nan():
    states, phase = on_grid((1, 2, 3), 0).requires_grad_(), torch.zeros(4, 3, dtype=torch.float64).requires_grad_()
    weights(states, phase, torch.full((2, 1, 2), -1), TABLES, beta=1000).sum().backward()
    assert states.grad.abs().max() == 0
    assert phase.grad.abs().max() == 0


def test_a_silent_source_has_no_angle():
    states = torch.zeros(1, 1, 2, 3, dtype=torch.float64).requires_grad_()
    score = resonance(states, torch.zeros(4, 3, dtype=torch.float64), torch.tensor([[[0]]]), TABLES)
    assert score.item() == 3.0
    score.sum().backward()
    assert states.grad.abs().max() == 0


def test_messages_are_delivered_one_by_one():
    states = torch.randn(3, 2, 2, 4)
    inbox = torch.randn(5, 2, 2, 4)
    index = torch.tensor([[[0, 1], [4, 4], [2, -1]], [[3, 0], [0, 1], [1, 2]]])
    weight = torch.rand(2, 3, 2) * (index >= 0)
    expected = inbox.clone()
    for b in range(2):
        for s in range(3):
            for rank in range(2):
                if index[b, s, rank] >= 0:
                    expected[index[b, s, rank], b] += weight[b, s, rank] * states[s, b]
    assert torch.allclose(deliver(inbox, states, index, weight), expected, atol=1e-6)


@settings(max_examples=10)
@given(st.integers(0, 200))
def test_targets_are_later_nodes_that_do_not_listen_anyway(seed):
    store = NodeStore.random(TOPOLOGY, 4, TABLES, seed)
    spreading = Spreading(TOPOLOGY, TABLES, top_k=5)
    for level, rows in enumerate(TOPOLOGY.levels[:-1]):
        index = spreading.choose(level, on_grid((len(rows), 3, 4), seed), store.phase.double())
        for s, row in enumerate(rows.tolist()):
            heard = set(TOPOLOGY.dst[TOPOLOGY.src == row].tolist())
            later = set((TOPOLOGY.level > level).nonzero().flatten().tolist()) - heard
            for b in range(3):
                chosen = [found for found in index[b, s].tolist() if found >= 0]
                assert len(chosen) == len(set(chosen)) == min(5, len(later))
                assert set(chosen) <= later


def engine(**settings):
    return ForwardEngine(TOPOLOGY, TABLES, radiation=Spreading(TOPOLOGY, TABLES, **settings))


def test_a_pass_with_radiation_equals_a_plain_walk():
    store, x = NodeStore.random(TOPOLOGY, 4, TABLES, 7), torch.rand(3, 5, dtype=torch.float64)
    state = engine(top_k=2, gain=0.5, beta=3.0)(x, store).planar
    z = torch.complex(state[:, :, 0], state[:, :, 1])
    w = TABLES.lookup_magnitude(store.mag) * torch.exp(1j * store.phase.double() * STEP)
    inbox = torch.zeros_like(z)
    spreading = Spreading(TOPOLOGY, TABLES, top_k=2)
    for level, rows in enumerate(TOPOLOGY.levels):
        for row in rows.tolist() if level else []:
            sources = TOPOLOGY.src[TOPOLOGY.dst == row]
            u = w[row] * (z[sources].sum(0) / math.sqrt(len(sources)) + inbox[row])
            size = (u.abs().tanh() * 1023).round() / 1023
            assert torch.allclose(z[row].abs(), size, atol=1.5 / 1023)
            off = torch.angle(z[row] * u.conj())[size > 0]
            assert off.numel() == 0 or off.abs().max() <= STEP / 2 + 1e-9
        if level + 1 < len(TOPOLOGY.levels):
            index = spreading.choose(level, state[rows], store.phase.double())
            for b in range(3):
                for s, row in enumerate(rows.tolist()):
                    there = [found for found in index[b, s].tolist() if found >= 0]
                    angle = torch.angle(z[row, b]) if bool((z[row, b].abs() > 0).all()) else None
                    score = [
                        3 / 4 * sum(math.cos(
                            (float(angle[d]) if angle is not None else float(torch.angle(z[row, b, d])))
                            + float(store.phase[to, d]) * STEP) for d in range(4))
                        for to in there
                    ]  # fmt: skip
                    total = sum(math.exp(one) for one in score)
                    for to, one in zip(there, score, strict=True):
                        inbox[to, b] += 0.5 * math.exp(one) / total * z[row, b]


def test_batches_equal_singles_and_the_cache_changes_nothing():
    store, x = NodeStore.random(TOPOLOGY, 4, TABLES, 3), torch.rand(6, 5, dtype=torch.float64)
    cache = RadiationCache(audit=True)
    plain, kept = engine(top_k=3), engine(top_k=3, cache=cache)
    whole = plain(x, store).planar
    for b in range(6):
        assert torch.allclose(plain(x[b : b + 1], store).planar[:, 0], whole[:, b], atol=1e-9)
    for _ in range(3):
        assert torch.equal(kept(x, store).planar, whole)
    levels = len([rows for rows in TOPOLOGY.levels[:-1] if len(rows)])
    assert cache.stats()["levels"]["pattern"]["hits"] == 2 * levels
    assert cache.stats()["wrong"] == 0


@pytest.mark.parametrize("change", ["phase", "sample", "top_k", "candidates", "another network", "another graph"])
def test_a_cache_that_is_shared_never_answers_for_another(change):
    cache, store = RadiationCache(audit=True), NodeStore.random(TOPOLOGY, 4, TABLES, 3)
    x = torch.rand(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    engine(top_k=2, cache=cache)(x, store)
    settings, graph = {"top_k": 2}, TOPOLOGY
    if change == "phase":
        store.phase.copy_((store.phase * 3 + 1) % TABLES.phase_bins)  # in place; the version stays
    elif change == "sample":
        x.copy_(x.flip(0))
    elif change == "top_k":
        settings["top_k"] = 3
    elif change == "candidates":
        settings["candidates"] = torch.arange(TOPOLOGY.n_nodes) % 2 == 0
    elif change == "another network":
        store = NodeStore.random(TOPOLOGY, 4, TABLES, 4)  # of the same version
    else:
        graph = Topology.from_frame(build_static_graph(5, 16, 3, cardinality=3, seed=9))
        assert graph.n_nodes == TOPOLOGY.n_nodes
    kept, plain = (
        ForwardEngine(graph, TABLES, radiation=Spreading(graph, TABLES, cache=given, **settings))
        for given in (cache, None)
    )
    for _ in range(2):
        assert torch.equal(kept(x, store).planar, plain(x, store).planar)
    assert cache.stats()["wrong"] == 0
    assert cache.stats()["audited"] > 0


def test_gradients_reach_every_index_that_matters_and_agree_with_differences():
    # Without snapping the pass is smooth wherever the chosen targets stay the same.
    store, x = NodeStore.random(TOPOLOGY, 3, TABLES, 11), torch.rand(2, 5, dtype=torch.float64)
    chosen = {}

    class Fixed(Spreading):
        def choose(self, level, states, phase):
            if level not in chosen:
                chosen[level] = super().choose(level, states, phase)
            return chosen[level]

        def __call__(self, level, states, done, leaves, inbox):
            # Continuous scores in place of the snapped ones: what the gradient is of.
            reach = self._reach[level]
            if not len(reach.columns):
                return inbox
            source = states[reach.sources]
            index = self.choose(level, source, leaves.phase)
            if plain:
                score = plain_scores(source, leaves.phase, index.clamp(min=0)) * (self.beta / 3)
                odds = score.masked_fill(index < 0, -1e300).softmax(-1) * (index >= 0)
                return deliver(inbox, source, index, self.gain * odds)
            return super().__call__(level, states, done, leaves, inbox)

    run = ForwardEngine(TOPOLOGY, TABLES, snap=False, radiation=Fixed(TOPOLOGY, TABLES, top_k=2))
    plain = False
    probe = torch.randn(2, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradients = []
    for plain in (False, True):  # noqa: B007  (read by the class above)
        leaves = store.leaves()
        gradients.append(torch.autograd.grad((run(x, leaves).readout * probe).sum(), list(leaves)))
    for one, two in zip(*gradients, strict=True):
        # Scores are taken at snapped angles: close, not equal.
        assert torch.nn.functional.cosine_similarity(one.flatten(), two.flatten(), dim=0) > 0.98
    leaves = store.leaves()
    free = Leaves(leaves.phase.detach().requires_grad_(), leaves.mag.detach())
    assert torch.autograd.grad(run(x, free).readout.square().sum(), free.phase)[0].abs().sum() > 0


def test_sources_and_candidates_can_be_limited():
    store, x = NodeStore.random(TOPOLOGY, 4, TABLES, 3), torch.rand(2, 5, dtype=torch.float64)
    nobody = torch.zeros(TOPOLOGY.n_nodes, dtype=torch.bool)
    silent = ForwardEngine(TOPOLOGY, TABLES)(x, store).planar
    assert torch.equal(engine(sources=nobody)(x, store).planar, silent)
    assert torch.equal(engine(candidates=nobody)(x, store).planar, silent)
    assert not torch.equal(engine()(x, store).planar, silent)


@pytest.mark.parametrize("settings", [{"top_k": 0}, {"beta": -1.0}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ConfigError, match="got top_k"):
        Spreading(TOPOLOGY, TABLES, **settings)


@pytest.mark.gpu
def test_a_gpu_passes_on_the_same_messages():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    store, x = NodeStore.random(TOPOLOGY, 4, TABLES, 3), torch.rand(6, 5, dtype=torch.float64)
    far = TOPOLOGY.to("cuda")
    tables = TABLES.to("cuda")
    there = ForwardEngine(far, tables, radiation=Spreading(far, tables))(x.cuda(), store.to("cuda")).planar.cpu()
    assert torch.allclose(there, engine()(x, store).planar, atol=1e-9)
