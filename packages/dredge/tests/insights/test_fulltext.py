import contextlib
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from dredge.errors import InsightError, QueryError
from dredge.insights import fulltext
from dredge.insights.ids import insight_id
from dredge.insights.store import Store


def ids(found: Sequence[tuple[str, float]]) -> list[str]:
    return [identifier for identifier, _ in found]


def test_words_are_found_without_case_and_accents(store: Store) -> None:
    found = store.put("Le R\u00c9SUM\u00c9 de l'\u00e9t\u00e9").insight.id
    store.put("another one")
    for query in ("resume", "R\u00e9sum\u00e9", "re\u0301sume\u0301", "ETE", "resume-ete", '"resume"'):
        assert ids(store.lexical(query, 5)) == [found], query


def test_words_of_other_scripts_are_found(store: Store) -> None:
    for content, query in (
        ("\u043c\u043e\u0439 \u0434\u043e\u043c", "\u041c\u041e\u0419"),  # Russian, of a letter with an accent
        ("\u091c\u0940 \u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u093f\u0928\u094d\u0926\u0940"),  # Hindi
        ("\uc548\ub155 \uc138\uacc4", "\uc138\uacc4"),  # Korean
        ("x\u0302y value", "x\u0302y"),  # an accent that no single character has
        ("\u03a0\u03bb\u03ac\u03c4\u03c9\u03bd", "\u03c0\u03bb\u03ac\u03c4\u03c9\u03bd"),  # Greek
        ("dash\u2014between", "between"),
    ):
        assert ids(store.lexical(query, 5)) == []
        identifier = store.put(content).insight.id
        assert ids(store.lexical(query, 5)) == [identifier], query


def test_rare_words_weigh_more_and_more_words_more(store: Store) -> None:
    common = [f"the wave number {number}" for number in range(30)]
    store.put_many(common)
    rare = store.put("the zebra number x").insight.id
    both = store.put("the zebra waves number x").insight.id
    found = store.lexical("wave zebra", 50)
    assert ids(found)[:2] == [rare, both]
    assert len(found) == 32
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    assert all(score > 0 for _, score in found)
    assert ids(store.lexical("zebra waves", 50)) == [both, rare]


def test_rows_with_the_rarer_words_are_ranked_by_all_words(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lakes = [f"the wave and the lake {number}" for number in range(12)]
    zebras = [f"zebra {number}" + " far of a lake" * 10 * (number % 2) for number in range(7)]
    store.put_many([*lakes, *zebras, *(f"nothing {number} here" for number in range(41))])
    query = "The l\u00c1ke of zebra wave"
    every = store.lexical(query, 100)
    assert len(every) == 19
    # On SQLite "of" and "zebra", in 3 and 7 rows, decide which are ranked, and nothing else changes.
    monkeypatch.setattr(fulltext, "_RANKED", 10)
    if store.dialect == "sqlite":
        chosen = [hit for hit in every if hit[0] in set(map(insight_id, zebras))]
        assert chosen != every[:7]
    else:
        chosen = every
    for limit in (1, 4, 7):
        assert store.lexical(query, limit) == chosen[:limit]
    # More than have them are asked for; and words that none has decide nothing.
    assert store.lexical(query, 8) == every[:8]
    assert store.lexical("the quagga", 50) == store.lexical("the", 50)
    assert len(store.lexical("lake wave quagga", 15)) == 15


def test_common_words_alone_are_ranked_by_the_rarest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_many([f"the number {number}" + " is" * (number % 3 == 0) for number in range(30)])
    every = store.lexical("is the number", 30)
    monkeypatch.setattr(fulltext, "_RANKED", 1)
    assert store.lexical("is the number", 10) == every[:10]
    assert store.lexical("is the number", 30) == every


def test_shorter_texts_with_a_word_come_before_longer_ones(store: Store) -> None:
    long = store.put("zebra " + " ".join(f"filler{number}" for number in range(50))).insight.id
    short = store.put("zebra here").insight.id
    store.put_many([f"other {number}" for number in range(5)])
    assert ids(store.lexical("zebra", 5)) == [short, long]
    assert ids(store.lexical("zebra", 1)) == [short]


def test_deleted_texts_are_found_no_more_and_come_back_when_put(store: Store) -> None:
    stored = store.put_many(["alpha beta", "alpha gamma"])
    store.delete(stored[0].insight.id)
    assert ids(store.lexical("alpha beta", 5)) == [stored[1].insight.id]
    store.put("alpha beta")
    assert ids(store.lexical("alpha beta", 5)) == [stored[0].insight.id, stored[1].insight.id]
    for item in stored:
        store.delete(item.insight.id)
    assert store.lexical("alpha beta gamma", 5) == []
    if store.dialect == "sqlite":
        with store.database.writing() as connection:
            # Compares the index with the texts themselves, and fails where they differ.
            connection.execute(text("INSERT INTO insights_fts(insights_fts, rank) VALUES ('integrity-check', 1)"))


def test_a_query_without_words_finds_nothing(store: Store) -> None:
    store.put("something ! ? _")
    for query in ("", " ", "!?", "\0", '"', "\\", "\ud800", "\u0301", "_", "\u2014\u3002"):
        assert store.lexical(query, 5) == []


def test_a_limit_of_none_is_refused(store: Store) -> None:
    for limit in (0, -1):
        with pytest.raises(QueryError, match=f"got limit {limit}"):
            store.lexical("a", limit)


def test_nothing_in_a_query_is_an_operator(store: Store) -> None:
    found = store.put("a near and or not text w1 drop").insight.id
    store.put("b")
    for query in (
        "NEAR(a b)", "a AND", "OR", "a NOT b", "text:a", "a*", '"a', "a^2 {b} (c", "-a", "a' & !b | <-> :*", "a\0b",
        "'; DROP TABLE insights; --", ":a %s %(a)s ?", " ".join(f"w{number}" for number in range(500)),
    ):  # fmt: skip
        assert found in ids(store.lexical(query, 5)), query
    assert store.count() == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60))
def test_any_query_is_safe_and_a_text_is_found_by_itself(store: Store, query: str) -> None:
    store.lexical(query, 3)
    with contextlib.suppress(InsightError):
        stored = store.put(query)
        found = ids(store.lexical(query, 1000))
        assert not found or stored.insight.id in found
