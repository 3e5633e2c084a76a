import hashlib
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dredge.errors import InsightError
from dredge.insights.ids import check_text, fingerprint, insight_id

ANY = st.text(st.characters(exclude_categories=["Cs"]))


def test_the_id_is_the_standards_own_example() -> None:
    # FIPS 180-2, B.1.
    assert insight_id("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(ANY)
def test_the_id_is_the_hash_of_the_exact_bytes(text: str) -> None:
    assert insight_id(text) == hashlib.sha256(text.encode("utf-8")).hexdigest()


def test_two_spellings_of_a_word_have_two_ids_and_one_fingerprint() -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    assert insight_id(composed) != insight_id(apart)
    assert fingerprint(composed) == fingerprint(apart)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Gravity waves", "gravity WAVES"),
        ("a b", "  a \t\n\u00a0 b\u3000"),
        ("Stra\u00dfe", "STRASSE"),
        ("\u0390", "\u0399\u0308\u0301"),  # what folding takes apart is composed again
        ("\u03a3\u03a3", "\u03c3\u03c2"),
    ],
)
def test_texts_that_differ_in_case_or_spacing_share_a_fingerprint(one: str, other: str) -> None:
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(("one", "other"), [("ab", "a b"), ("a", "\u00e1"), ("a.", "a"), ("1", "\u00b9")])
def test_texts_that_say_something_else_have_other_fingerprints(one: str, other: str) -> None:
    assert fingerprint(one) != fingerprint(other)


def test_a_fingerprint_is_the_hash_of_the_folded_text() -> None:
    assert fingerprint("  The \u00c9nd\r\n") == hashlib.sha256("the \u00e9nd".encode()).hexdigest()


@given(ANY)
def test_a_fingerprint_forgets_how_unicode_is_spelt(text: str) -> None:
    assert fingerprint(text) == fingerprint(unicodedata.normalize("NFD", text))
    assert fingerprint(text) == fingerprint(f" {text}\n")


@pytest.mark.parametrize("text", ["a\ud800", "\udfff", "\ud83d \ude00"])
def test_half_of_a_surrogate_pair_is_refused_everywhere(text: str) -> None:
    for refuse in (insight_id, fingerprint, check_text, lambda text: check_text(text, 100)):
        with pytest.raises(InsightError, match=r"lone surrogate U\+D"):
            refuse(text)


@pytest.mark.parametrize(
    "text", ["", " ", "\t\r\n", "\u00a0\u2003\u3000", "\u200b", "\x1b\x7f", "\ufeff \u202e", " " * 100_000]
)
def test_a_text_in_which_nothing_can_be_seen_is_refused(text: str) -> None:
    with pytest.raises(InsightError, match="something that can be seen"):
        check_text(text)


@pytest.mark.parametrize("text", [".", "\u0301", "\u200b.", "\x1b[0m", "\U0001f600", "\ue000"])
def test_a_text_with_one_visible_character_is_taken(text: str) -> None:
    check_text(text, 100)


def test_the_limit_is_of_bytes() -> None:
    check_text("\u00e9" * 5, 10)
    with pytest.raises(InsightError, match="at most 9 bytes in UTF-8; got one of 5 characters"):
        check_text("\u00e9" * 5, 9)
    with pytest.raises(InsightError, match="at most 4 bytes"):
        check_text("abcde", 4)


def test_the_character_that_postgresql_cannot_hold_is_refused() -> None:
    with pytest.raises(InsightError, match=r"U\+0000; got one at character 3"):
        check_text("ab\0c")
