from collections.abc import Iterator, Sequence
from itertools import combinations
from random import Random

import numpy as np
import pytest
from jaxtyping import Float32

from dredge.config import SearchSettings
from dredge.errors import NotFoundError, QueryError
from dredge.insights import duplicates
from dredge.insights.duplicates import duplicate_pairs
from dredge.insights.fusion import exact_cosines
from dredge.insights.ids import fingerprint, insight_id
from dredge.insights.search import Searcher
from dredge.insights.store import Store
from dredge.insights.vectors import VectorIndex
from dredge.reference.oracle_search import cosine, near_pairs

ONE = "The registered encoder of the settings is made anew."
NEAR = "The registered encoder of the settings is made new."
CASE = "the  REGISTERED encoder of the settings is made anew.\n"
FAR = "A list of tuples naming each wave packet."


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Store.open(database_url) as store:
        yield store


class Initials:
    """Vectors that know the first letter only, so that fingerprints have something to add."""

    version = "initials-v1"
    dim = 64

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n 64"]:
        vectors = np.zeros((len(texts), 64), np.float32)
        vectors[np.arange(len(texts)), [ord(text[0]) % 64 for text in texts]] = 1
        return vectors


def test_duplicates_of_a_text_and_of_an_id(store: Store) -> None:
    store.put_many([ONE, NEAR, CASE, FAR])
    searcher = Searcher(store)
    hits = searcher.near_duplicates(ONE)
    assert [hit.insight.text for hit in hits[2:]] == [NEAR]
    # The text itself and the other spelling, by id.
    assert [hit.insight.id for hit in hits[:2]] == sorted([insight_id(ONE), insight_id(CASE)])
    assert [hit.score for hit in hits[:2]] == [1, 1]
    assert hits[2].score == hits[2].cosine == pytest.approx(cosine(ONE, NEAR), abs=1e-6)
    by_id = searcher.near_duplicates(insight_id(ONE))
    assert [hit.insight.text for hit in by_id] == [CASE, NEAR]
    assert searcher.near_duplicates(insight_id(ONE), limit=1) == by_id[:1]
    assert searcher.near_duplicates("nothing that is there") == []
    with pytest.raises(NotFoundError):
        searcher.near_duplicates("0" * 64)
    with pytest.raises(QueryError):
        searcher.near_duplicates(" ")


def test_the_cosine_of_the_settings_decides_exactly(store: Store) -> None:
    store.put_many([ONE, NEAR, FAR])
    exact = cosine(ONE, NEAR)
    for least, count in ((exact - 1e-5, 2), (exact + 1e-5, 1)):
        searcher = Searcher(store, SearchSettings(duplicate_cosine=least))
        assert len(searcher.near_duplicates(ONE)) == count
        assert len(list(searcher.duplicate_pairs())) == count - 1


def test_a_fingerprint_is_enough(store: Store) -> None:
    store.encoder = Initials()
    store.put_many([ONE, CASE, "[REGISTERED", "[registered", "far"])
    searcher = Searcher(store)
    hits = searcher.near_duplicates(ONE)
    assert {(hit.insight.text, hit.score) for hit in hits} == {(ONE, 1.0), (CASE, 1.0)}
    assert {hit.cosine for hit in hits} == {0.0, 1.0}
    pairs = {(pair.one, pair.other): pair for pair in searcher.duplicate_pairs()}
    apart, together = (tuple(sorted(map(insight_id, texts))) for texts in ((ONE, CASE), ("[REGISTERED", "[registered")))
    assert pairs.keys() == {apart, together}
    assert (pairs[apart].cosine, pairs[apart].same_fingerprint) == (0.0, True)
    assert (pairs[together].cosine, pairs[together].same_fingerprint) == (1.0, True)


def test_all_pairs_are_those_of_all_products(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(3)
    words = ["wave", "packet", "light", "gravity", "registered", "encoder"]
    texts = sorted({" ".join(random.choices(words, k=random.randint(3, 5))) for _ in range(90)})
    texts += [text.upper() + "  " for text in texts[:10]]
    # Blocks and portions far smaller than the data.
    monkeypatch.setattr(duplicates, "_ROWS", 16)
    monkeypatch.setattr(duplicates, "_PAIRS", 7)
    with Store.open(tmp_path_factory.mktemp("pairs") / "insights.db") as store:
        store.put_many([*texts, "deleted light", "deleted  light"])
        index = VectorIndex(store.encoder)
        index.update(store)
        store.delete(insight_id("deleted light"))
        index.update(store)
        found = list(duplicate_pairs(store, index, 0.8))
    expected = {tuple(sorted((insight_id(texts[a]), insight_id(texts[b])))) for a, b in near_pairs(texts, 0.8)}
    assert len(expected) > 50
    assert len(found) == len({(pair.one, pair.other) for pair in found})
    assert {(pair.one, pair.other) for pair in found} == expected
    marks = {insight_id(text): fingerprint(text) for text in texts}
    for pair in found:
        assert pair.same_fingerprint == (marks[pair.one] == marks[pair.other])
    assert sum(pair.same_fingerprint for pair in found) == 10


def test_what_is_deleted_meanwhile_is_passed_over(store: Store) -> None:
    texts = [ONE, NEAR, CASE]
    store.put_many(texts)
    index = VectorIndex(store.encoder)
    index.update(store)
    store.delete(insight_id(NEAR))
    pairs = [(pair.one, pair.other) for pair in duplicate_pairs(store, index, 0.8)]
    assert pairs == [tuple(sorted((insight_id(ONE), insight_id(CASE))))]


def test_equal_texts_make_every_pair(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_ROWS", 4)
    texts = [f"{' ' * number}light" for number in range(11)]
    with Store.open(tmp_path_factory.mktemp("equal") / "insights.db") as store:
        store.put_many(texts)
        pairs = {(pair.one, pair.other) for pair in Searcher(store).duplicate_pairs()}
    assert pairs == {tuple(sorted(pair)) for pair in combinations(map(insight_id, texts), 2)}


def test_exact_cosines_have_a_budget(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from dredge.insights import fusion

    insights = {
        stored.insight.id: stored.insight for stored in store.put_many(["a" * 30, "b" * 100, "c" * 50, "d" * 50])
    }
    vector = store.encoder.encode(["a" * 30])[0]
    monkeypatch.setattr(fusion, "_ENCODED_EACH", 60)
    monkeypatch.setattr(fusion, "_ENCODED", 90)
    found = exact_cosines(store.encoder, vector, insights)
    assert list(found) == [insight_id("a" * 30), insight_id("c" * 50)]
    assert found[insight_id("a" * 30)] == pytest.approx(1)
    assert exact_cosines(store.encoder, vector, {}) == {}
