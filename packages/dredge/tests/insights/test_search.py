import threading
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jaxtyping import Float32

from dredge.bench.corpus import edited
from dredge.config import SearchSettings
from dredge.errors import NotFoundError, QueryError
from dredge.insights import frequencies, fusion, search
from dredge.insights.encoders import HashedNgramEncoder
from dredge.insights.frequencies import WordFrequencies
from dredge.insights.fusion import Fusion
from dredge.insights.ids import insight_id
from dredge.insights.records import Insight
from dredge.insights.search import MAX_RESULTS, Searcher
from dredge.insights.store import Store
from dredge.reference.oracle_search import bm25, cosine, fused

TEXTS = [
    "Gravity waves bend light.",
    "The registered encoder of the settings is made anew.",
    "A list of tuples naming each wave packet.",
    "Light falls into the well.",
    "The quick brown fox jumps over the lazy dog.",
    "Return the number of bytes in the file.",
]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Store.open(database_url) as store:
        yield store


@pytest.fixture
def searcher(store: Store) -> Searcher:
    store.put_many(TEXTS)
    return Searcher(store, SearchSettings())


@pytest.fixture(scope="module")
def filled(shared_url: str) -> Iterator[Searcher]:
    """For tests that change nothing."""
    with Store.open(shared_url) as store:
        store.put_many(TEXTS)
        yield Searcher(store)


def texts_of(hits: Sequence[Any]) -> list[str]:
    return [hit.insight.text for hit in hits]


# --- what is found ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hybrid", "text", "vector"])
def test_a_text_is_found_by_itself(filled: Searcher, mode: search.Mode) -> None:
    for text in TEXTS:
        hits = filled.search(text, mode=mode)
        assert hits[0].insight.text == text
        assert hits[0].score == pytest.approx(1, abs=1e-6)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_words_and_errors_in_spelling_are_found_on_each_database(searcher: Searcher) -> None:
    for query, right in (("gravty wavs bnd", 0), ("bytes in file", 5), ("LIGHT", 3), ("packet naming", 2)):
        hits = searcher.search(query)
        assert hits[0].insight.text == TEXTS[right]
        assert len(hits) == len(TEXTS)
        assert all(0 <= hit.score <= 1 for hit in hits)


def test_text_mode_keeps_the_order_of_the_database(searcher: Searcher) -> None:
    query = "the light of the file"
    raw = searcher.store.lexical(query, 10)
    hits = searcher.search(query, mode="text")
    assert [hit.insight.id for hit in hits] == [id for id, _ in raw]
    # The best has two of the four words "the", "light", "of", "file" at the least.
    assert hits[0].score in (0.5, 0.75)
    for hit, (_, score) in zip(hits, raw, strict=True):
        assert hit.score == pytest.approx(hits[0].score * score / raw[0][1])
        assert hit.cosine is None


def test_vector_mode_gives_exact_cosines(searcher: Searcher) -> None:
    hits = searcher.search("gravty waves", mode="vector", limit=4)
    exact = sorted(((cosine("gravty waves", text), text) for text in TEXTS), reverse=True)[:4]
    assert texts_of(hits) == [text for _, text in exact]
    for hit, (expected, _) in zip(hits, exact, strict=True):
        assert hit.cosine == pytest.approx(expected, abs=1e-6)
        assert hit.score == pytest.approx(max(expected, 0), abs=1e-6)
        assert hit.lexical is None


WORDS = st.sampled_from(["wave", "waves", "light", "lightly", "a", "of", "packet", "gravity"])
SENTENCES = st.lists(WORDS, min_size=1, max_size=6).map(" ".join)


@pytest.fixture(scope="module")
def reused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """An SQLite database that a test empties before it uses it."""
    with Store.open(tmp_path_factory.mktemp("oracle") / "insights.db") as store:
        yield store


@given(texts=st.lists(SENTENCES, min_size=1, max_size=12, unique=True), query=SENTENCES)
def test_hybrid_scores_are_those_of_the_formula(reused: Store, texts: list[str], query: str) -> None:
    for insight in reused.page(limit=100).items:
        reused.delete(insight.id)
    reused.put_many(texts)
    constants = Fusion(cosine=1.25, rank=0.25)
    hits = {hit.insight.text: hit for hit in Searcher(reused, fusion=constants).search(query, limit=50)}
    raw = bm25(query, texts)
    for text, expected, score in zip(texts, fused(query, texts, constants), raw, strict=True):
        assert hits[text].score == pytest.approx(expected, abs=1e-6)
        assert (hits[text].lexical is not None) == (score > 0)
    found = sorted(score for _, score in reused.lexical(query, 50))
    assert found == pytest.approx(sorted(score for score in raw if score > 0), rel=1e-6)


def test_equal_scores_are_ordered_by_id(filled: Searcher) -> None:
    hits = filled.search("☃☃☃☃", mode="hybrid")
    keys = [(-hit.score, hit.insight.id) for hit in hits]
    assert keys == sorted(keys)
    assert all(hit.lexical is None for hit in hits)


def test_pages_follow_each_other(filled: Searcher) -> None:
    for mode in ("hybrid", "vector", "text"):
        whole = filled.search("the light of the file", mode=mode)
        paged = [
            hit
            for offset in range(0, len(whole) + 2, 2)
            for hit in filled.search("the light of the file", mode=mode, limit=2, offset=offset)
        ]
        assert [(hit.insight.id, hit.score) for hit in paged] == [(hit.insight.id, hit.score) for hit in whole]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=30), mode=st.sampled_from(["hybrid", "text", "vector"]))
def test_any_query_is_answered_or_refused(filled: Searcher, query: str, mode: search.Mode) -> None:
    try:
        hits = filled.search(query, mode=mode)
    except QueryError:
        assert not query.strip() or not query.isprintable()
        return
    assert all(0 <= hit.score <= 1 for hit in hits)
    assert all(hit.lexical is None or 0 <= hit.lexical <= 1 for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_nothing_in_a_query_is_an_operator(searcher: Searcher) -> None:
    for query in (
        '"', "a AND", "NEAR(a b)", "text:light", "-light", "light*", "^the", "(", "'; DROP TABLE insights; --", "%_\\",
    ):  # fmt: skip
        for mode in ("hybrid", "text", "vector"):
            searcher.search(query, mode=mode)
    assert {TEXTS[0], TEXTS[3]} == set(texts_of(searcher.search("-light", mode="text")))
    assert searcher.store.count() == len(TEXTS)


def test_an_empty_store_finds_nothing(store: Store) -> None:
    searcher = Searcher(store)
    assert [searcher.search("light", mode=mode) for mode in ("hybrid", "text", "vector")] == [[], [], []]
    assert searcher.near_duplicates("light") == []
    assert list(searcher.duplicate_pairs()) == []


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", " \n\t", "\u200b\u3000", "\ud800", "a\0b", "x" * 10_001])
@pytest.mark.parametrize("mode", ["hybrid", "text", "vector"])
def test_what_is_no_query_is_refused(filled: Searcher, query: str, mode: search.Mode) -> None:
    with pytest.raises(QueryError):
        filled.search(query, mode=mode)


@pytest.mark.parametrize(("limit", "offset"), [(0, 0), (-1, 0), (1, -1), (MAX_RESULTS + 1, 0), (1, MAX_RESULTS)])
def test_limits_are_checked(filled: Searcher, limit: int, offset: int) -> None:
    with pytest.raises(QueryError, match=f"got {limit} and {offset}"):
        filled.search("light", limit=limit, offset=offset)
    if offset == 0:
        with pytest.raises(QueryError):
            filled.similar(insight_id(TEXTS[0]), limit)
        with pytest.raises(QueryError):
            filled.near_duplicates("light", limit=limit)


def test_a_mode_is_one_of_three(filled: Searcher) -> None:
    with pytest.raises(QueryError, match="hybrid, text, vector; got 'semantic'"):
        filled.search("light", mode="semantic")


# --- similar ----------------------------------------------------------------------------------------------------------


def test_similar_leaves_out_the_one_itself(searcher: Searcher) -> None:
    id = insight_id(TEXTS[0])
    near = searcher.store.put("Gravity waves bend the light!").insight
    hits = searcher.similar(id, 3)
    assert len(hits) == 3
    assert hits[0].insight == near
    assert hits[0].cosine == pytest.approx(cosine(TEXTS[0], near.text), abs=1e-6)
    assert id not in {hit.insight.id for hit in hits}
    assert len(searcher.similar(id, MAX_RESULTS)) == len(TEXTS)
    with pytest.raises(NotFoundError, match=r"none has 'f{64}'"):
        searcher.similar("f" * 64)


def test_signals_are_found_by_their_text(searcher: Searcher) -> None:
    signal = "ab" * 32
    searcher.store.put_signal(signal, "Signal of 2 packets: gravity wave at 3 Hz", {"packets": [1, 2]})
    assert searcher.search("packets at 3 Hz")[0].insight.id == signal
    assert searcher.search("packets at 3 Hz")[0].insight.kind == "signal"
    assert searcher.similar(signal, 1)[0].insight.text in TEXTS
    assert signal in {hit.insight.id for hit in searcher.similar(insight_id(TEXTS[0]), 6)}


# --- what changes -----------------------------------------------------------------------------------------------------


def test_what_another_has_put_or_deleted_is_seen_at_once(database_url: str) -> None:
    with Store.open(database_url) as mine, Store.open(database_url) as theirs:
        searcher = Searcher(mine)
        assert searcher.search("gravity") == []
        theirs.put_many(TEXTS)
        for mode in ("hybrid", "text", "vector"):
            assert searcher.search("gravity", mode=mode)[0].insight.text == TEXTS[0]
        theirs.delete(insight_id(TEXTS[0]))
        for mode in ("hybrid", "text", "vector"):
            assert TEXTS[0] not in texts_of(searcher.search("gravity", mode=mode))


class Halved:
    """Another encoder, of another length."""

    version = "halved-v1"
    dim = 256

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n 256"]:
        halves = HashedNgramEncoder().encode(texts)[:, :256] + np.float32(1e-3)
        return (halves / np.linalg.norm(halves, axis=1, keepdims=True)).astype(np.float32)


def test_another_encoder_makes_another_index(searcher: Searcher) -> None:
    before = searcher.search("gravty wavs", mode="vector")
    searcher.store.reindex(Halved())
    after = searcher.search("gravty wavs", mode="vector")
    assert after[0].insight.id == before[0].insight.id
    assert after[0].cosine != before[0].cosine
    assert searcher.index().snapshot().codes.shape == (len(TEXTS), 256)


def test_what_another_encoder_made_is_still_found_by_its_words(searcher: Searcher) -> None:
    searcher.store.encoder = Halved()
    hits = searcher.search("gravity waves", limit=50)
    assert hits[0].insight.text == TEXTS[0]
    assert hits[0].lexical == pytest.approx(1)
    assert searcher.search("gravity waves", mode="vector") == []


def test_threads_search_while_others_put(searcher: Searcher) -> None:
    wrong: list[object] = []

    def look(number: int) -> None:
        try:
            for turn in range(5):
                text = f"note {number} of turn {turn}: {LETTERS[number]}{LETTERS[turn]} resonance"
                searcher.store.put(text)
                found = searcher.search(text, limit=1)[0].insight.text
                if found != text:
                    wrong.append(found)
        except Exception as error:  # noqa: BLE001 - told to the test's own thread
            wrong.append(error)

    threads = [threading.Thread(target=look, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert len(searcher.index()) == len(TEXTS) + 20


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_long_texts_are_ranked_by_what_is_known_of_them(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher.store.put("gravity waves " + "and much else " * 50)
    exact = searcher.search("gravity waves bend", limit=50)
    monkeypatch.setattr(fusion, "_ENCODED_EACH", 5)
    rounded = searcher.search("gravity waves bend", limit=50)
    assert texts_of(rounded[:2]) == texts_of(exact[:2])
    for one, other in zip(exact[:2], rounded[:2], strict=True):
        assert one.score == pytest.approx(other.score, abs=0.005)
    # Texts that are not read have no share of words; full text alone speaks for them.
    monkeypatch.setattr(fusion, "_TOGETHER", 1)
    monkeypatch.setattr(fusion, "_READ", 1)
    unread = searcher.search("gravity waves bend", limit=50)
    assert unread[0].insight.text == TEXTS[0]
    assert {hit.insight.id for hit in unread} == {hit.insight.id for hit in exact}


def test_no_more_long_texts_are_read_than_are_shown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = store.put_many([f"note {number} of many waves, all alike but for its number" for number in range(80)])
    searcher = Searcher(store, SearchSettings(duplicate_cosine=0.8))
    read: list[str] = []
    get_many = store.get_many

    def spy(ids: Sequence[str], *, documents: bool = True) -> dict[str, Insight]:
        read.extend(ids)
        return get_many(ids, documents=documents)

    monkeypatch.setattr(store, "get_many", spy)
    # As if the first of them were long already.
    monkeypatch.setattr(fusion, "_TOGETHER", 5)
    monkeypatch.setattr(fusion, "_READ", 1)
    assert len(searcher.search("alike waves", mode="vector", limit=7)) == 7
    assert len(set(read)) <= 12
    read.clear()
    assert len(searcher.similar(kept[3].insight.id, 4)) == 4
    assert len(set(read)) <= 10
    read.clear()
    # Of these, the texts decide.
    assert len(searcher.near_duplicates(kept[3].insight.id, limit=4)) == 4
    assert len(set(read)) < 60


def test_common_words_are_not_asked_for(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    lexical = searcher.store.lexical

    def spy(query: str, limit: int) -> list[tuple[str, float]]:
        asked.append(query)
        return lexical(query, limit)

    monkeypatch.setattr(searcher.store, "lexical", spy)
    monkeypatch.setattr(search, "_SCORED", {"sqlite": 3, "postgresql": 3})
    searcher.search("the light of gravity")
    # In 4, 2, 3 and 1 of the texts.
    assert asked == ["gravity light"]
    hits = searcher.search("the")
    assert asked == ["gravity light"]
    # Vectors find it, and the word counts.
    assert hits[0].lexical == pytest.approx(5 / 6)
    searcher.search("the", mode="text")
    assert asked == ["gravity light", "the"]


def test_frequencies_are_estimated_from_a_sample(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_many([f"common word {number}" + (" seldom" if number % 10 == 0 else "") for number in range(400)])
    searcher = Searcher(store)
    monkeypatch.setattr(frequencies, "_TEXTS", 200)
    found = WordFrequencies()
    found.update(store, searcher.index())
    assert found.rare(["common", "seldom", "unheard"], 399) == ["unheard", "seldom"]
    assert found.rare(["common", "seldom"], 1000) == ["seldom", "common"]
    assert found.rare(["seldom"], 5) == []
    # A cut-short sample is one of all rows, not of the first ones.
    monkeypatch.setattr(frequencies, "_CHARACTERS", 1000)
    short = WordFrequencies()
    short.update(store, searcher.index())
    assert short.rare(["common"], 400.5) == ["common"]
    assert short.rare(["common"], 399) == []
    assert short.rare(["seldom"], 200) == ["seldom"]


def test_a_sample_is_taken_anew_when_rows_have_doubled(store: Store) -> None:
    searcher = Searcher(store)
    found = WordFrequencies()
    found.update(store, searcher.index())
    store.put_many(["first one", "first two", "first three"])
    found.update(store, searcher.index())
    assert found.rare(["first"], 2) == []
    store.put_many([f"second {number}" for number in range(3)])
    found.update(store, searcher.index())
    assert found.rare(["second"], 2) == ["second"]
    store.put_many([f"second {number}" for number in range(3, 9)])
    found.update(store, searcher.index())
    assert found.rare(["second"], 2) == []


# --- fusion -----------------------------------------------------------------------------------------------------------


def test_the_hybrid_is_no_worse_than_its_better_half(store: Store) -> None:
    random = Random(7)
    vocabulary = ["".join(random.choices(LETTERS, k=random.randint(3, 8))) for _ in range(150)]
    common = ["the", "of", "and", "is", "in", "a"]
    texts = [
        " ".join(random.choice(common if random.random() < 0.4 else vocabulary) for _ in range(12)) for _ in range(200)
    ]
    store.put_many(texts)
    searcher = Searcher(store)
    sample = random.sample(texts, 12)
    for spoil in (lambda text: text, lambda text: edited(text, random), lambda text: " ".join(text.split()[4:8])):
        right = dict.fromkeys(("hybrid", "text", "vector"), 0)
        for text in sample:
            query = spoil(text)
            for mode in right:
                hits = searcher.search(query, mode=mode, limit=1)
                right[mode] += bool(hits) and hits[0].insight.text == text
        assert right["hybrid"] >= max(right["text"], right["vector"])
    assert right["hybrid"] >= 10
