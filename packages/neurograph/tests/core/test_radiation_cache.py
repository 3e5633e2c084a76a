"""The cache: never stale, never wrong, as large as it says, and least recently used first out."""

import copy
import pickle
import threading
from collections import OrderedDict

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from neurograph.core import radiation_cache
from neurograph.core.graph import Topology, build_static_graph
from neurograph.core.high_res_tables import HighResolutionLookupTables
from neurograph.core.node_store import NodeStore
from neurograph.core.radiation import RadiationCache, candidate_mask, get_radiation_neighbors, radiate
from neurograph.core.radiation_cache import digest, listeners
from neurograph.errors import ConfigError, GraphError

BINS = 8


def frame_of(seed):
    return build_static_graph(3, 8, 2, cardinality=3, seed=seed)


TABLES = HighResolutionLookupTables(BINS, 8)
TOPOLOGIES = [Topology.from_frame(frame_of(seed)) for seed in (0, 1)]
SOURCES = torch.tensor([0, 4, 7])


def stores():
    return [NodeStore.random(TOPOLOGIES[0], 2, TABLES, seed) for seed in (0, 1)]


@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2**16)), min_size=8, max_size=24))
def test_no_answer_is_stale_or_wrong_whatever_happens_between(capacity, acts):
    cache, both = RadiationCache(capacity, audit=True), stores()
    contexts = [torch.full((2, 3, 2), i) for i in range(3)]
    for act, number in acts:
        store, topology = both[number % 2], TOPOLOGIES[number // 2 % 2]
        if act == 0:  # through the store
            store.set_(phase=torch.randint(BINS, (13, 2), generator=torch.Generator().manual_seed(number)).short())
        elif act == 1:  # behind its back: no version is raised
            store.phase[number % 13, number % 2] = number % BINS
        elif act == 2:
            store.phase.numpy()[number % 13] = number % BINS
        elif act == 3:
            both[number % 2] = NodeStore.random(TOPOLOGIES[0], 2, TABLES, number % 3)
        else:
            context, k = contexts[number % 3], 1 + number % 2
            may = None if number % 5 else torch.arange(13) % 2 == 0
            found = radiate(context, SOURCES, store, topology, k, candidates=may, cache=cache)
            plain = radiate(context, SOURCES, store, topology, k, candidates=may)
            assert torch.equal(found.index, plain.index)
            assert torch.equal(found.score, plain.score)
    stats = cache.stats()
    assert stats["wrong"] == 0
    assert stats["audited"] == stats["levels"]["pattern"]["hits"]
    assert all(stats["levels"][name]["entries"] <= capacity for name in ("pattern", "candidates"))


def test_an_audit_finds_an_answer_that_is_wrong():
    cache, store = RadiationCache(audit=True), stores()[0]
    context = torch.zeros(1, 3, 2, dtype=torch.long)
    radiate(context, SOURCES, store, TOPOLOGIES[0], 2, cache=cache)
    entries = cache._levels["pattern"].entries
    kept = next(iter(entries.values()))[0]
    kept.copy_(kept.flip(-1))
    radiate(context, SOURCES, store, TOPOLOGIES[0], 2, cache=cache)
    assert (cache.stats()["audited"], cache.stats()["wrong"]) == (1, 1)


def test_an_audit_does_not_trust_the_other_levels():
    cache, store = RadiationCache(audit=True), stores()[0]
    radiate(torch.zeros(1, 3, 2, dtype=torch.long), SOURCES, store, TOPOLOGIES[0], 12, cache=cache)
    bits, _ = next(iter(cache._levels["candidates"].entries.values()))[0]
    bits.fill_(255)  # everybody may be chosen, the sources themselves among them
    for _ in range(2):
        radiate(torch.ones(1, 3, 2, dtype=torch.long), SOURCES, store, TOPOLOGIES[0], 12, cache=cache)
    assert (cache.stats()["audited"], cache.stats()["wrong"]) == (1, 1)


@pytest.mark.parametrize("what", ["context", "sources", "candidates", "store", "past the end"])
def test_what_is_written_to_after_it_was_asked_is_asked_anew(what):
    cache, store = RadiationCache(audit=True), stores()[0]
    context, sources, may = torch.zeros(1, 3, 2, dtype=torch.long), SOURCES.clone(), torch.arange(13) % 3 > 0
    asked = {
        "context": context,
        "sources": sources,
        "candidates": may,
        "store": store.phase,
        "past the end": store.phase,
    }

    def ask():
        found = radiate(context, sources, store, TOPOLOGIES[0], 4, candidates=may, cache=cache)
        plain = radiate(context, sources, store, TOPOLOGIES[0], 4, candidates=may)
        assert torch.equal(found.index, plain.index)
        assert torch.equal(found.score, plain.score)
        return found.index.tolist()

    first = ask()
    held, kept = asked[what], asked[what].clone()
    with torch.no_grad():  # in place: the same tensor, the same address
        if what == "candidates":
            held.logical_not_()
        elif what == "past the end":
            held.add_(BINS)  # no index of the tables; it is taken modulo P, so that nothing is another
        else:
            held.copy_((held * 3 + 1) % BINS)
    assert (ask() == first) is (what == "past the end")
    held.copy_(kept)
    assert ask() == first
    assert cache.stats()["wrong"] == 0


def test_stores_of_one_version_are_told_apart():
    cache, (one, other) = RadiationCache(audit=True), stores()
    context = torch.zeros(1, 3, 2, dtype=torch.long)
    assert one.version == other.version
    answers = [radiate(context, SOURCES, store, TOPOLOGIES[0], 4, cache=cache).index for store in (one, other)]
    assert not torch.equal(*answers)
    for store, answer in zip((one, other), answers, strict=True):
        assert torch.equal(answer, radiate(context, SOURCES, store, TOPOLOGIES[0], 4).index)


def test_an_entry_that_goes_while_it_is_used_is_right_all_the_same():
    cache = RadiationCache(1)

    def outer():
        assert cache.answer("inner", lambda: torch.ones(2)).tolist() == [1, 1]
        return torch.zeros(2)

    kept = cache.answer("outer", outer)
    cache.answer("next", lambda: torch.full((2,), 7.0))  # evicts it
    assert kept.tolist() == [0, 0]
    assert cache.answer("outer", lambda: torch.full((2,), 3.0)).tolist() == [3, 3]
    assert cache.stats()["levels"]["pattern"]["entries"] == 1


def test_a_search_that_fails_leaves_nothing_behind():
    cache = RadiationCache()

    def fails():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.answer("a", fails)
    assert cache.stats()["entries"] == 0
    assert cache.answer("a", lambda: torch.ones(1)).item() == 1


def test_answers_may_be_written_to():
    cache, store = RadiationCache(), stores()[0]
    context = torch.zeros(1, 3, 2, dtype=torch.long)
    first = radiate(context, SOURCES, store, TOPOLOGIES[0], 2, cache=cache)
    kept = first.index.clone()
    first.index.fill_(0)
    assert torch.equal(radiate(context, SOURCES, store, TOPOLOGIES[0], 2, cache=cache).index, kept)


@pytest.mark.parametrize("other", ["context", "sources", "k", "store", "topology", "bins", "candidates"])
def test_each_part_of_a_question_is_part_of_its_key(other):
    cache, store = RadiationCache(), stores()[0]
    asked = {"context": torch.zeros(1, 3, 2, dtype=torch.long), "sources": SOURCES, "k": 2, "store": store,
             "topology": TOPOLOGIES[0], "bins": None, "candidates": None}  # fmt: skip
    changed = {"context": torch.ones(1, 3, 2, dtype=torch.long), "sources": SOURCES.flip(0), "k": 3,
               "store": stores()[1], "topology": TOPOLOGIES[1], "bins": HighResolutionLookupTables(9, 8),
               "candidates": torch.arange(13) > 3}  # fmt: skip

    def ask(case):
        one = case["store"].clone()
        if case["bins"] is not None:
            one.tables = case["bins"]
        radiate(case["context"], case["sources"], one, case["topology"], case["k"],
                candidates=case["candidates"], cache=cache)  # fmt: skip
        return cache.stats()["levels"]["pattern"]["hits"]

    ask(asked)
    assert ask(asked) == 1  # a clone of the store, the same question
    assert ask({**asked, other: changed[other]}) == 1


@given(st.integers(1, 8), st.sampled_from([0.1, 0.2, 0.5, 1.0]), st.lists(st.integers(0, 12), max_size=60))
def test_eviction_follows_a_plain_model(capacity, share, asked):
    cache, model, evicted = RadiationCache(capacity, share), OrderedDict(), 0
    for key in asked:
        cache.answer(key, lambda: torch.zeros(4, dtype=torch.int16))
        if key in model:
            model.move_to_end(key)
            continue
        if len(model) == capacity:
            for _ in range(max(1, int(share * capacity))):
                model.popitem(last=False)
                evicted += 1
        model[key] = None
    level = cache.stats()["levels"]["pattern"]
    assert list(cache._levels["pattern"].entries) == list(model)
    assert (level["entries"], level["evicted"], level["bytes"]) == (len(model), evicted, 8 * len(model))


def test_a_full_cache_loses_a_fifth_and_not_what_was_used_last():
    cache = RadiationCache(1000)
    for key in range(1000):
        cache.answer(key, lambda: torch.zeros(1))
    cache.answer(0, lambda: torch.ones(1))  # used again: no longer the oldest
    cache.answer("new", lambda: torch.zeros(1))
    assert cache.stats()["entries"] == 801
    assert cache.answer(0, lambda: torch.ones(1)).item() == 0.0
    assert cache.answer(1, lambda: torch.ones(1)).item() == 1.0


def test_a_share_is_not_cut_short_by_its_binary_fraction():
    cache = RadiationCache(100, 0.29)  # 0.29 · 100 is 28.999… in binary
    for key in range(101):
        cache.answer(key, lambda: torch.zeros(1))
    assert cache.stats()["evicted"] == 29


def test_less_capacity_shows_at_the_next_entry():
    cache = RadiationCache(10, 0.2)
    for key in range(10):
        cache.answer(key, lambda: torch.zeros(1))
    cache.configure(capacity=4)
    cache.answer("new", lambda: torch.zeros(1))
    assert cache.stats()["entries"] == 4


def test_bytes_are_those_of_the_tensors():
    cache, store = RadiationCache(), stores()[0]
    radiate(torch.zeros(5, 3, 2, dtype=torch.long), SOURCES, store, TOPOLOGIES[0], 2, cache=cache)
    levels = cache.stats()["levels"]
    assert levels["pattern"]["bytes"] == 5 * 3 * 2 * 2  # 16-bit rows
    assert levels["candidates"]["bytes"] == 3 * 2  # 13 bits a source, in whole bytes
    edges = len(TOPOLOGIES[0].src)
    assert levels["static"]["bytes"] == 4 * (14 + edges)
    assert cache.stats()["bytes"] == sum(level["bytes"] for level in levels.values())


def test_a_frame_that_is_changed_in_place_is_another_graph():
    cache, frame, store = RadiationCache(), frame_of(0), stores()[0]
    context = torch.zeros(2, dtype=torch.long)
    before = get_radiation_neighbors("n0", context, store, frame, TABLES, 12, cache=cache)
    name = next(name for name in before if name not in ("n1", "n2"))
    frame["input_connections"][int(name[1:])].append("n0")
    after = get_radiation_neighbors("n0", context, store, frame, TABLES, 12, cache=cache)
    assert after == [other for other in before if other != name]


def test_names_that_are_equal_and_not_the_same_are_other_nodes():
    cache, context = RadiationCache(), torch.zeros(2, dtype=torch.long)
    frame = frame_of(0)
    frame["input_connections"] = [[] for _ in range(13)]
    for kind in (int, float):
        frame["node_id"] = [kind(row) for row in range(13)]
        store = NodeStore.random(Topology.from_frame(frame), 2, TABLES, 0)
        name = str(kind(0))
        found = get_radiation_neighbors(name, context, store, frame, TABLES, 12, cache=cache)
        assert found == get_radiation_neighbors(name, context, store, frame, TABLES, 12, cache=RadiationCache())
        assert set(found) == {str(kind(row)) for row in range(1, 13)}


@pytest.mark.parametrize("spoil", [
    lambda frame: None,
    lambda frame: frame.drop(columns="is_input"),
    lambda frame: frame.assign(input_connections=[None] * 13),
    lambda frame: frame.assign(is_output=[[]] * 13),
])  # fmt: skip
def test_what_is_no_graph_is_refused_as_one(spoil):
    with pytest.raises(GraphError):
        get_radiation_neighbors("n0", torch.zeros(2, dtype=torch.long), stores()[0], spoil(frame_of(0)), TABLES, 1)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
def test_a_copy_has_the_settings_and_is_empty(copied):
    cache = RadiationCache(7, 0.5, enabled=False, audit=True)
    cache.configure(enabled=True)
    cache.answer("a", lambda: torch.zeros(1))
    other = copied(cache)
    assert (other.capacity, other.evict_fraction, other.enabled, other.audit) == (7, 0.5, True, True)
    assert other.stats()["entries"] == 0
    assert cache.stats()["entries"] == 1


def test_a_topology_at_a_dead_ones_address_is_not_taken_for_it(monkeypatch):
    monkeypatch.setattr(radiation_cache, "id", lambda _: 7, raising=False)  # all lie at one address
    cache, store = RadiationCache(), stores()[0]
    context = torch.zeros(1, 3, 2, dtype=torch.long)
    answers = []
    for seed in (0, 1, 0):
        topology = Topology.from_frame(frame_of(seed))
        found = radiate(context, SOURCES, store, topology, 4, cache=cache).index
        assert torch.equal(found, radiate(context, SOURCES, store, topology, 4).index)
        answers.append(found.tolist())
        del topology
    assert answers[0] == answers[2] != answers[1]
    assert cache.stats()["levels"]["static"]["entries"] == 1


def test_graphs_that_are_remembered_are_few():
    cache, store = RadiationCache(), stores()[0]
    kept = [Topology.from_frame(frame_of(seed)) for seed in range(20)]
    for topology in kept:
        radiate(torch.zeros(1, 3, 2, dtype=torch.long), SOURCES, store, topology, 1, cache=cache)
    assert cache.stats()["levels"]["static"]["entries"] <= 16


def test_levels_two_and_three_are_built_once_for_a_graph():
    cache, store = RadiationCache(), stores()[0]
    for number in range(5):
        radiate(torch.full((1, 3, 2), number), SOURCES, store, TOPOLOGIES[0], 2, cache=cache)
    levels = cache.stats()["levels"]
    assert (levels["pattern"]["hits"], levels["pattern"]["misses"]) == (0, 5)
    assert (levels["candidates"]["hits"], levels["candidates"]["misses"]) == (4, 1)
    assert (levels["static"]["hits"], levels["static"]["misses"]) == (0, 1)  # level 3 answers for it
    radiate(torch.zeros(1, 1, 2, dtype=torch.long), SOURCES[:1], store, TOPOLOGIES[0], 2, cache=cache)
    assert cache.stats()["levels"]["static"]["hits"] == 1


@pytest.mark.parametrize("n", [7, 8, 9, 64])
def test_masks_survive_being_packed(n):
    cache = RadiationCache()
    mask = torch.rand(5, n) < 0.5
    cache.allowed("mask", lambda: mask)
    again = cache.allowed("mask", lambda: torch.zeros(5, n, dtype=torch.bool))
    assert torch.equal(again, mask)


def test_masks_are_right():
    topology = TOPOLOGIES[1]
    mask = candidate_mask(torch.tensor([4, 4, 0]), listeners(topology))
    for place, source in enumerate((4, 4, 0)):
        taken = {source, *topology.dst[topology.src == source].tolist()}
        assert {row for row in range(13) if not mask[place, row]} == taken


def test_threads_may_share_one():
    cache, both, wrong = RadiationCache(4), stores(), []

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(20):
            context = torch.randint(2, (1, 3, 2), generator=generator)
            store = both[int(torch.randint(2, (1,), generator=generator))]
            found = radiate(context, SOURCES, store, TOPOLOGIES[0], 2, cache=cache).index
            if not torch.equal(found, radiate(context, SOURCES, store, TOPOLOGIES[0], 2).index):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    level = cache.stats()["levels"]["pattern"]
    assert not wrong
    assert level["hits"] + level["misses"] == 80
    assert level["bytes"] == level["entries"] * 3 * 2 * 2


def test_digests_tell_contents_shapes_and_types_apart():
    zeros = torch.zeros(2, 3, dtype=torch.int16)
    others = [zeros.view(3, 2), zeros.int(), torch.ones_like(zeros), torch.zeros(6, dtype=torch.int16)]
    assert digest(zeros) == digest(zeros.t().contiguous().t())
    assert len({digest(zeros), *map(digest, others)}) == 5


@given(st.binary(min_size=1, max_size=40), st.integers(0, 40), st.integers(0, 40))
def test_digests_tell_apart_where_one_part_ends_and_the_next_begins(content, one, other):
    def parts(cut):
        return [torch.tensor(list(part), dtype=torch.uint8) for part in (content[:cut], content[cut:])]

    same = min(one, len(content)) == min(other, len(content))
    assert (digest(*parts(one)) == digest(*parts(other))) is same
    # A part that spells the head of another.
    head = torch.tensor(list(b"torch.uint8(1,)"), dtype=torch.uint8)
    tail = torch.tensor(list(content[:1]), dtype=torch.uint8)
    assert digest(torch.cat([head, tail])) != digest(head[:0], tail)


@pytest.mark.parametrize("settings", [{"capacity": 0}, {"evict_fraction": 0.0}, {"evict_fraction": 1.5}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ConfigError, match="got"):
        RadiationCache(**settings)
    cache = RadiationCache()
    with pytest.raises(ConfigError, match="got"):
        cache.configure(**settings)
    assert (cache.capacity, cache.evict_fraction) == (1000, 0.2)


@pytest.mark.gpu
def test_a_gpu_has_entries_of_its_own_and_the_same_answers():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    cache, store = RadiationCache(audit=True), stores()[0]
    context = torch.randint(BINS, (2, 3, 2), generator=torch.Generator().manual_seed(0))
    here = radiate(context, SOURCES, store, TOPOLOGIES[0], 3, cache=cache)
    far = (context.cuda(), SOURCES.cuda(), store.to("cuda"), TOPOLOGIES[0].to("cuda"), 3)
    for hits in (0, 1):
        there = radiate(*far, cache=cache)
        assert there.index.device.type == "cuda"
        assert torch.equal(there.index.cpu(), here.index)
        assert cache.stats()["levels"]["pattern"]["hits"] == hits
    assert cache.stats()["wrong"] == 0
