import pytest

from dredge.errors import InsightError, NotFoundError, QueryError
from dredge.insights.ids import insight_id
from dredge.insights.store import Store

SIGNAL = "ab" * 32


def test_an_id_that_none_has_is_named(store: Store) -> None:
    store.put("something")
    for identifier in ("0" * 64, "", "\0", "\ud800", "' OR 1=1 --", "x" * 10_000):
        assert store.find(identifier) is None
        for ask in (store.get, store.delete):
            with pytest.raises(NotFoundError, match="an insight has this id; none has") as caught:
                ask(identifier)
            assert len(str(caught.value)) < 700
    assert store.count() == 1


def test_ids_are_found_by_their_beginning(store: Store) -> None:
    ids = ["0" * 64, "0" * 63 + "1", "0a" + "f" * 62, "f" * 64]
    for identifier in ids:
        store.put_signal(identifier, f"signal {identifier}", {"x": 1})
    for prefix in ("0", "00", "0a", "f", "f" * 64, "0" * 63, "1", "0b"):
        assert store.ids_beginning(prefix, limit=9) == [one for one in ids if one.startswith(prefix)]
    assert store.ids_beginning("0") == ids[:2]
    for none in ("", "0A", "g", "%", "0" * 65):
        assert store.ids_beginning(none) == []


def test_many_come_in_the_order_asked_and_signals_with_their_documents(store: Store) -> None:
    texts = [item.insight for item in store.put_many([f"text {number}" for number in range(1200)])]
    signal = store.put_signal(SIGNAL, "a signal", {"x": 1}).insight
    wanted = [texts[7], signal, texts[3], *reversed(texts[10:])]
    found = store.get_many([insight.id for insight in wanted] + ["0" * 64, texts[7].id])
    assert list(found.values()) == wanted
    assert store.get_many([SIGNAL], documents=False)[SIGNAL].signal is None


def test_pages_hold_each_insight_once_the_newest_first_while_others_come_and_go(store: Store) -> None:
    texts = [f"text {number}" for number in range(10)]
    store.put_many(texts[:4])  # in one batch, so at one time
    for content in texts[4:]:
        store.put(content)
    seen: list[str] = []
    cursor = None
    for turn in range(3):
        page = store.page(limit=3, cursor=cursor)
        seen += [insight.text for insight in page.items]
        cursor = page.next
        store.put(f"later {turn}")
        if turn == 0:
            store.delete(insight_id("text 6"))
    assert cursor is None
    assert seen == ["text 9", "text 8", "text 7", "text 5", "text 4", "text 3", "text 2", "text 1", "text 0"]


def test_pages_of_a_kind(store: Store) -> None:
    store.put_many(["a", "b", "c"])
    store.put_signal(SIGNAL, "s", {"x": 1})
    assert [insight.text for insight in store.page(limit=9).items] == ["s", "c", "b", "a"]
    assert [insight.text for insight in store.page(limit=9, kind="text").items] == ["c", "b", "a"]
    page = store.page(limit=1, kind="signal")
    assert (page.items, page.next) == ([store.get(SIGNAL)], None)
    assert store.page(limit=1, documents=False).items[0].signal is None
    assert store.page(limit=4).next is None


def test_an_empty_store_has_an_empty_page(store: Store) -> None:
    page = store.page(limit=5)
    assert (page.items, page.next) == ([], None)


def test_a_cursor_that_is_none_is_refused(store: Store) -> None:
    for cursor in ("", "x", "MQ", "\u00e9", "MS4y\n", "LS4x", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5LjE", "A" * 9999):
        with pytest.raises(QueryError, match="a cursor is `next` of a page"):
            store.page(limit=5, cursor=cursor)


def test_a_page_has_one_or_more(store: Store) -> None:
    with pytest.raises(QueryError, match="got limit 0"):
        store.page(limit=0)


def test_what_a_store_holds(store: Store) -> None:
    store.put_many(["a", "b", "a"])
    store.put_signal(SIGNAL, "s", {})
    stats = store.stats()
    assert (stats.insights, stats.texts, stats.signals, stats.seen, stats.stale) == (3, 2, 1, 4, 0)
    assert (stats.dialect, stats.encoder) == (store.dialect, "letters-v1")
    assert stats.bytes > 10_000


def test_same_words_in_other_case_and_spacing_share_a_fingerprint(store: Store) -> None:
    stored = store.put_many(["Caf\u00e9  au lait", "cafe\u0301 AU\nlait", "tea"])
    assert store.by_fingerprint("CAF\u00c9 au lait ") == [stored[0].insight.id, stored[1].insight.id]
    assert store.by_fingerprint("nothing") == []
    with pytest.raises(InsightError):
        store.by_fingerprint("\ud800")
