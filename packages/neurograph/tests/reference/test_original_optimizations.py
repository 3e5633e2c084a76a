"""The note's three optimizations: what they keep the same, what they do not, and how the cache behaves."""

import numpy as np
import pytest
import torch
from torch import Tensor

from neurograph.reference.original import Audit, OriginalEngine, OriginalSettings, RadiationCaches
from neurograph.reference.original.accumulator import OriginalAccumulator
from neurograph.reference.original.credit import OriginalCredit
from neurograph.reference.original.inputs import OriginalAdapter, class_codes
from neurograph.reference.original.radiation import (
    _compute_phase_signature,
    exact_neighbors,
    get_radiation_neighbors,
)

SETTINGS = OriginalSettings(n_inputs=30, n_hidden=60, n_outputs=10, pixels=8)
ENGINE = OriginalEngine(SETTINGS)
REST = (ENGINE.store, ENGINE.frame, ENGINE.tables, 6)


def contexts(count: int, seed: int = 0) -> Tensor:
    return torch.randint(32, (count, 5), generator=torch.Generator().manual_seed(seed))


# --- credit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 60])
@pytest.mark.parametrize("accumulate", [False, True])
def test_credit_by_node_equals_vectorized(count: int, accumulate: bool) -> None:
    active = [f"n{30 + i}" for i in range(count)]
    codes = class_codes(SETTINGS, ENGINE.tables)
    found, stores = [], []
    for form in ("by_node", "vectorized"):
        store = OriginalAccumulator() if accumulate else None
        credit = OriginalCredit(ENGINE.store, ENGINE.tables, codes, store)
        found.append(getattr(credit, form)(active, 3))
        stores.append(store)
    for a, b in zip(*found, strict=True):
        assert a.shape == (count, 5)
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    if accumulate:
        first, second = stores
        assert first is not None
        assert second is not None
        assert list(first.phase) == list(second.phase) == active
        assert first.norm == pytest.approx(second.norm, rel=1e-5)


def test_credit_against_numbers_worked_out_in_float64() -> None:
    active = ["n40", "n77"]
    codes = class_codes(SETTINGS, ENGINE.tables)
    phase_grad, mag_grad = OriginalCredit(ENGINE.store, ENGINE.tables, codes).vectorized(active, 2)

    def parts(p: Tensor, m: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        angle, x = p.numpy() * 2 * np.pi / 32, -3 + 6 * m.numpy() / 511
        return np.cos(angle), np.sin(angle), np.exp(x)

    cos_v, _, mag_v = parts(codes[0][2], codes[1][2])
    v = cos_v * mag_v
    for place, node in enumerate(active):
        cos_u, sin_u, mag_u = parts(ENGINE.store.get_phase(node).data, ENGINE.store.get_mag(node).data)
        u = cos_u * mag_u
        norm_u, norm_v = np.linalg.norm(u), np.linalg.norm(v)
        # d(−cos(u, v))/du
        g = -(v / (norm_u * norm_v) - u * (u @ v) / (norm_u**3 * norm_v))
        np.testing.assert_allclose(phase_grad[place], -sin_u * mag_u * g, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(mag_grad[place], cos_u * mag_u * g, rtol=1e-4, atol=1e-6)


def test_target_vectors_are_formed_once_a_class_where_they_are_cached() -> None:
    credit = OriginalCredit(ENGINE.store, ENGINE.tables, class_codes(SETTINGS, ENGINE.tables))
    for label in (1, 2, 1, 1, 2):
        credit.by_node(["n40"], label)
    assert credit.target_lookups == 5
    for label in (1, 2, 1, 1, 2):
        credit.vectorized(["n40"], label)
    assert credit.target_lookups == 7
    assert set(credit._cached_target_vectors) == {1, 2}


# --- radiation --------------------------------------------------------------------------------------------------------


def test_exact_neighbors_by_brute_force() -> None:
    phases = np.stack([ENGINE.store.get_phase(f"n{i}").numpy() for i in range(100)])
    for number in (3, 50, 99):
        ctx = contexts(1, seed=number)[0]
        score = np.cos((ctx.numpy() + phases) % 32 * 2 * np.pi / 32).sum(axis=1)
        excluded = {number, *(int(name[1:]) for name in ENGINE.frame.input_connections[number])}
        found = exact_neighbors(f"n{number}", ctx, *REST)
        assert len(set(found)) == 6
        assert not {int(name[1:]) for name in found} & excluded
        least = min(score[int(name[1:])] for name in found)
        left = [score[i] for i in range(100) if i not in excluded and f"n{i}" not in found]
        assert max(left) <= least + 1e-5


def test_levels_two_and_three_change_nothing() -> None:
    caches = RadiationCaches(levels=("static", "candidates"))
    for ctx in contexts(12):
        for node in ("n5", "n60", "n95"):
            served = get_radiation_neighbors(node, ctx, *REST, caches)
            assert served == exact_neighbors(node, ctx, *REST)
    assert caches.hits["static"] == caches.hits["candidates"] == 33
    assert caches.misses["static"] == 3
    assert caches.hits["pattern"] == caches.misses["pattern"] == 0
    results = [
        OriginalEngine(SETTINGS, chosen, caches=RadiationCaches(levels=("static", "candidates"))).forward(
            *OriginalAdapter(SETTINGS).eval()(torch.full((8, 8), 0.5))
        )
        for chosen in ((), ("cache",))
    ]
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][node], results[1][node]) for node in results[0])


def test_signatures_forget_what_lies_below_the_quantum() -> None:
    a, b, c = (torch.tensor(v) for v in ([4, 8, 0, 31, 12], [7, 11, 3, 28, 15], [8, 8, 0, 31, 12]))
    assert _compute_phase_signature(a) == _compute_phase_signature(b)
    assert _compute_phase_signature(a) != _compute_phase_signature(c)
    assert _compute_phase_signature(a, 1) != _compute_phase_signature(b, 1)


def test_a_hit_of_another_context_is_wrong_and_the_audit_says_so() -> None:
    caches = RadiationCaches(audit=Audit())
    a, b = torch.tensor([4, 8, 0, 31, 12]), torch.tensor([7, 11, 3, 28, 15])
    first = get_radiation_neighbors("n50", a, *REST, caches)
    assert get_radiation_neighbors("n50", b, *REST, caches) == first
    exact = exact_neighbors("n50", b, *REST)
    assert set(exact) != set(first)
    assert caches.audit is not None
    assert (caches.audit.hits, caches.audit.wrong) == (1, 1)
    assert caches.audit.mean_overlap == len(set(exact) & set(first)) / 6
    get_radiation_neighbors("n50", a, *REST, caches)
    assert (caches.audit.hits, caches.audit.wrong) == (2, 1)  # the same context again is right


def test_a_hit_after_a_change_of_parameters_is_stale() -> None:
    engine = OriginalEngine(SETTINGS, {"cache"}, caches=RadiationCaches(audit=Audit()))
    rest = (engine.store, engine.frame, engine.tables, 6)
    ctx = contexts(1)[0]
    before = get_radiation_neighbors("n50", ctx, *rest, engine.caches)
    with torch.no_grad():
        for node in engine.store.ids:
            engine.store.phase_table[node].copy_((engine.store.get_phase(node) * 7 + 3) % 32)
    assert get_radiation_neighbors("n50", ctx, *rest, engine.caches) == before
    assert set(exact_neighbors("n50", ctx, *rest)) != set(before)
    assert engine.caches is not None
    assert engine.caches.audit is not None
    assert engine.caches.audit.wrong == 1


def test_another_network_is_answered_from_shared_caches() -> None:
    shared = RadiationCaches()
    first = OriginalEngine(SETTINGS, {"cache"}, caches=shared)
    second = OriginalEngine(OriginalSettings(**{**vars(SETTINGS), "seed": 11}), {"cache"}, caches=shared)
    ctx = contexts(1)[0]
    served = get_radiation_neighbors("n50", ctx, first.store, first.frame, first.tables, 6, shared)
    foreign = get_radiation_neighbors("n50", ctx, second.store, second.frame, second.tables, 6, shared)
    assert foreign == served
    assert set(foreign) != set(exact_neighbors("n50", ctx, second.store, second.frame, second.tables, 6))


def test_a_caller_who_changes_what_a_hit_gave_changes_no_entry() -> None:
    caches = RadiationCaches()
    ctx = contexts(1)[0]
    get_radiation_neighbors("n50", ctx, *REST, caches).clear()
    get_radiation_neighbors("n50", ctx, *REST, caches).clear()
    assert len(get_radiation_neighbors("n50", ctx, *REST, caches)) == 6


def _fill(caches: RadiationCaches, first: int, last: int) -> None:
    for number in range(first, last):
        caches._put((f"k{number}", 0, 6), ["n1"])


def test_a_thousand_entries_and_one_more_lose_the_oldest_two_hundred() -> None:
    caches = RadiationCaches()
    _fill(caches, 0, 1000)
    assert (caches.entries["pattern"], caches.evicted) == (1000, 0)
    assert caches._get(("k0", 0, 6)) == ["n1"]  # a hit, just before
    _fill(caches, 1000, 1001)
    assert (caches.entries["pattern"], caches.evicted) == (801, 200)
    assert caches._get(("k0", 0, 6)) is None  # first in, first out: the hit did not save it
    assert caches._get(("k199", 0, 6)) is None
    assert caches._get(("k200", 0, 6)) == ["n1"]


def test_the_least_recently_used_go_where_that_is_the_policy() -> None:
    caches = RadiationCaches(policy="lru")
    _fill(caches, 0, 1000)
    caches._get(("k0", 0, 6))
    _fill(caches, 1000, 1001)
    assert caches._get(("k0", 0, 6)) == ["n1"]
    assert caches._get(("k200", 0, 6)) is None
    assert caches._get(("k201", 0, 6)) == ["n1"]


def test_bytes_by_the_note_and_as_they_are() -> None:
    caches = RadiationCaches()
    get_radiation_neighbors("n50", contexts(1)[0], *REST, caches)
    static = len(ENGINE.frame.input_connections[50])
    assert caches.estimated_bytes == {"pattern": 6 * 8, "static": static * 8, "candidates": (100 - static - 1) * 8}
    assert caches.held_bytes > sum(caches.estimated_bytes.values())
    assert caches.hit_rate() == 0.0
    get_radiation_neighbors("n50", contexts(1)[0], *REST, caches)
    assert caches.hit_rate("pattern") == 0.5
    assert caches.hit_rate() == 1 / 4  # a hit of level 1 asks the others nothing
