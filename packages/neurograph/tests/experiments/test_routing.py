"""The routing task: what is drawn, what is written, that both sides get their due, and who wins."""

import pytest
import torch

from neurograph.core.graph import Topology, connectivity_report
from neurograph.errors import ConfigError
from neurograph.experiments import routing
from neurograph.experiments.routing import RoutingResult, run_routing, tune_routing
from neurograph.experiments.routing_networks import (
    MemorySettings,
    RoutingTask,
    StaticSettings,
    bundled_network,
    draw_facts,
    memory_graph,
    memory_network,
    static_network,
)

SMALL = RoutingTask(facts=48, bits=24, classes=10, flip=0.02, lot=16, questions=2)


def accuracy(model, facts):
    return float((model.predict(facts.questions) == facts.answers).double().mean())


def test_questions_are_keys_with_some_bits_flipped():
    task = RoutingTask(facts=400, bits=32, flip=0.1, questions=3)
    facts = draw_facts(task, 0)
    for x in (facts.keys, facts.questions):
        assert torch.equal(x[:, :32] + x[:, 32:], torch.ones(len(x), 32))
        assert set(x.unique().tolist()) == {0.0, 1.0}
    off = (facts.questions - facts.keys.repeat_interleave(3, 0)).abs()[:, :32].mean().item()
    assert abs(off - 0.1) < 0.01
    assert torch.equal(facts.answers, facts.values.repeat_interleave(3))
    assert not torch.equal(draw_facts(task, 1).keys, facts.keys)
    assert torch.equal(draw_facts(task, 0).questions, facts.questions)


def test_bundles_answer_by_the_nearest_sum_of_keys():
    task = RoutingTask(facts=10, bits=32, classes=10, flip=0.02, lot=10, questions=4)
    facts = draw_facts(task, 1)._replace(values=torch.arange(10), answers=torch.arange(10).repeat_interleave(4))
    # One key a class: a bundle is that key's conjugate, and the rival is right.
    model = bundled_network(task, facts, 1, 9000)
    state = model.engine(facts.keys, model.store)
    own = model.store.phase[-10:].long()
    assert torch.equal((state.phase[64, torch.arange(10)] + own) % 512, torch.zeros_like(own))
    assert accuracy(model, facts) == 1.0


@pytest.mark.parametrize("radiation", [True, False])
def test_the_memory_has_no_other_way_than_its_own(radiation):
    topology = Topology.from_frame(memory_graph(SMALL, radiation=radiation))
    # With radiation nothing but radiation leads from inputs to the answer.
    assert (connectivity_report(topology).hops["answer"] is None) == radiation
    level = {name: int(topology.level[row]) for name, row in topology.index.items()}
    assert level["query"] < level["fact0"] < level["answer"]


def test_written_phases_are_the_conjugate_of_the_query_and_no_lot_disturbs_another():
    facts = draw_facts(SMALL, 3)
    model = memory_network(SMALL, facts, 3)
    rows = model.topology.index
    state = model.engine(facts.keys, model.store)
    context, written = state.phase[rows["query"]], model.store.phase[rows["fact0"] : rows["fact47"] + 1].long()
    assert torch.equal((context + written) % 512, torch.zeros(48, 16, dtype=torch.long))
    # Asked for the key itself, one memory node speaks: its own.
    loud = state.planar[rows["fact0"] : rows["fact47"] + 1].abs().sum((2, 3)) > 0
    assert torch.equal(loud, torch.eye(48, dtype=torch.bool))
    assert float((model.predict(facts.keys) == facts.values).double().mean()) == 1.0


def test_radiation_remembers_what_static_edges_do_not():
    facts = draw_facts(SMALL, 3)
    memory = memory_network(SMALL, facts, 3)
    assert accuracy(memory, facts) > 0.9
    # The same integers behind edges: all memory nodes speak, and chance is 10 %.
    edges = memory_network(SMALL, facts, 3, radiation=False)
    assert torch.equal(edges.store.phase, memory.store.phase)
    assert torch.equal(edges.store.mag, memory.store.mag)
    assert accuracy(edges, facts) < 0.4


def test_the_static_rival_has_as_many_integers_and_a_way_to_the_answer():
    facts = draw_facts(SMALL, 0)
    for depth in (1, 2, 3):
        model = static_network(SMALL, facts, 0, 3000, StaticSettings(depth=depth, steps=1))
        assert 3000 <= model.store.n_trainable < 3000 + 2 * 8 * depth
        report = connectivity_report(model.topology)
        assert all(hops == depth + 1 for hops in report.hops.values())


def test_the_static_rival_does_learn_what_it_sees():
    # It is no straw man: on the lot that it saw last it is right.
    facts = draw_facts(SMALL, 0)
    model = static_network(SMALL, facts, 0, 4000, StaticSettings(depth=2, lr=4.0, steps=30))
    last = slice(48 - 16, 48)
    assert float((model.predict(facts.keys[last]) == facts.values[last]).double().mean()) > 0.9


def test_a_result_has_a_row_for_each_way():
    task = RoutingTask(facts=6, bits=6, classes=10, lot=6, questions=1)
    result = run_routing((5, 6), task, replays=1)
    frame = result.to_frame()
    assert frame["way"].tolist() == [
        "radiation",
        "static",
        "static, bundled",
        "static, written",
        "static, replayed",
    ]
    assert frame["seeds"].tolist() == [2] * 5
    integers = frame.set_index("way")["integers"]
    assert integers["static"] >= integers["radiation"] == integers["static, written"]
    assert integers["static, bundled"] >= integers["radiation"]


def test_the_same_seed_gives_the_same_network():
    facts = draw_facts(SMALL, 1)
    for make in (
        lambda: memory_network(SMALL, facts, 1),
        lambda: static_network(SMALL, facts, 1, 2000, StaticSettings(steps=2)),
    ):
        one, two = make().store, make().store
        assert torch.equal(one.phase, two.phase)
        assert torch.equal(one.mag, two.mag)


def test_too_few_dimensions_for_the_classes_are_refused():
    with pytest.raises(ConfigError, match="D = 8 for 10 classes"):
        memory_network(SMALL, draw_facts(SMALL, 0), 0, MemorySettings(dim=8))


@pytest.mark.parametrize(
    "wrong", [{"facts": 0}, {"bits": 0}, {"lot": 0}, {"questions": 0}, {"classes": 1}, {"flip": 2}]
)
def test_tasks_that_cannot_be_are_refused(wrong):
    with pytest.raises(ConfigError, match="a task has facts"):
        RoutingTask(**wrong)


def test_settings_that_cannot_be_run_are_refused():
    facts = draw_facts(SMALL, 0)
    for wrong in ({"steps": 0}, {"depth": 0}, {"dim": 0}, {"lr": 0}):
        with pytest.raises(ConfigError, match="layers have phasors"):
            StaticSettings(**wrong)
    with pytest.raises(ConfigError, match="got 0 passes"):
        static_network(SMALL, facts, 0, 2000, passes=0)
    with pytest.raises(ConfigError, match="order"):
        memory_network(SMALL, facts, 0, MemorySettings(dim=23))
    for run in (run_routing, tune_routing):
        with pytest.raises(ConfigError, match="Give seeds"):
            run(())


def test_tuning_tries_twelve_settings_of_each_and_ends_with_the_best_first(monkeypatch):
    tried, model = [], memory_network(SMALL, draw_facts(SMALL, 0), 0)

    def network(task, facts, seed, *settings):
        tried.append((seed, settings[-1] if settings else None))
        return model

    monkeypatch.setattr(routing, "memory_network", network)
    monkeypatch.setattr(routing, "static_network", network)
    monkeypatch.setattr(routing, "_right", lambda model, facts: len(tried) / 100)
    found = tune_routing((7, 8), SMALL)
    assert found["way"].tolist() == ["radiation"] * 12 + ["static"] * 12
    assert {seed for seed, _ in tried} == {7, 8}
    shown = [settings for _, settings in tried if settings is not None]
    assert len(set(shown)) == 24
    assert {MemorySettings(), StaticSettings()} <= set(shown)
    for _, part in found.groupby("way"):
        assert part["accuracy"].is_monotonic_decreasing


def test_the_margin_is_over_the_best_static_rival_that_sees_facts_once():
    shares = {"radiation": 0.9, "static": 0.3, "static, bundled": 0.5, "static, written": 0.1, "static, replayed": 0.95}
    rows = tuple({"way": way, "seed": 0, "accuracy": share, "integers": 9} for way, share in shares.items())
    assert RoutingResult(rows).margin == pytest.approx(40)


@pytest.mark.slow
def test_radiation_wins_by_twenty_points_on_fresh_seeds():
    result = run_routing(replays=0)
    assert result.to_frame()["seeds"].min() >= 3
    assert result.margin >= 20
