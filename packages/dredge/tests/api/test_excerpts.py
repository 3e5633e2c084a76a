"""What lists and results show of a text."""

import html
import re

from hypothesis import given
from hypothesis import strategies as st

from dredge.api.excerpts import excerpt, marked, visible
from dredge.insights.fulltext import words

Texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=600)


def stripped(markup: str) -> str:
    return html.unescape(re.sub(r"</?mark>", "", markup))


@given(text=Texts, asked=st.text(max_size=40))
def test_marking_adds_marks_and_nothing_else(text: str, asked: str) -> None:
    found = marked(text, words(asked))
    assert stripped(found) == text
    inside = re.findall(r"<mark>(.*?)</mark>", found)
    assert all(set(words(html.unescape(one))) & set(words(asked)) for one in inside)
    assert "<" not in re.sub(r"</?mark>", "", found)


def test_words_are_marked_as_the_search_finds_them() -> None:
    assert marked("Été, cafe\u0301 and ETE-coffee", ["ete", "cafe"]) == (
        "<mark>Été</mark>, <mark>cafe\u0301</mark> and <mark>ETE</mark>-coffee"
    )
    # A word within another is none.
    assert marked("cafeteria", ["cafe"]) == "cafeteria"
    assert marked("<b>b</b>", ["b"]) == "&lt;<mark>b</mark>&gt;<mark>b</mark>&lt;/<mark>b</mark>&gt;"


@given(text=Texts, asked=st.text(max_size=20))
def test_an_excerpt_is_short_and_of_the_text(text: str, asked: str) -> None:
    found = excerpt(text, words(asked))
    title, body = stripped(found.title), stripped(found.body)
    # An escape takes the place of one character.
    assert len(title) <= 91
    assert len(body) <= 243
    squeezed = " ".join(visible(text).split())
    assert title.rstrip("…").rstrip() in squeezed + "…"
    assert body.strip("… ") in squeezed + "…"


def test_a_text_is_cut_between_words_and_a_word_anywhere() -> None:
    found = excerpt("word " * 1000)
    assert found.title == " ".join(["word"] * 18) + "…"
    assert found.body.endswith("word…")
    assert excerpt("A" * 300).title == "A" * 90 + "…"
    assert excerpt("A short one.").body == ""
    assert excerpt("\n\n  First\tline \nsecond\n\nthird ").title == "First line"
    assert excerpt("First\nsecond\n\nthird ").body == "second third"


def test_what_was_asked_for_is_shown_however_far_down() -> None:
    text = "Title\n" + "filler " * 500 + "needle " + "filler " * 500
    body = excerpt(text, ["needle"]).body
    assert "<mark>needle</mark>" in body
    assert body.startswith("… filler")
    assert body.endswith("…")
    # Not through all of a long text.
    assert "needle" not in excerpt("Title\n" + "filler " * 5000 + "needle", ["needle"]).body


def test_what_cannot_be_seen_is_told() -> None:
    assert visible("a\tb\r\nc\x00\x1b\x7f\x85\u200d") == "a\tb\r\nc\\x00\\x1b\\x7f\\x85\u200d"
