import re
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest

from dredge.bench import recall
from dredge.bench.corpus import QUERY_KINDS, edited, partial, recombined, scattered, sentences
from dredge.bench.recall import fit_weights, half_of, measure_latency, measure_recall
from dredge.errors import QueryError
from dredge.insights.fusion import FUSION
from dredge.insights.store import Store


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    """Sentences of a small part of the standard library."""
    import email

    return sentences(folder=Path(email.__file__).parent)


def distance(one: str, other: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours from one word to another."""
    table = np.zeros((len(one) + 1, len(other) + 1), int)
    table[:, 0], table[0] = range(len(one) + 1), range(len(other) + 1)
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            steps = [table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (one[i - 1] != other[j - 1])]
            if i > 1 and j > 1 and one[i - 2 : i] == other[j - 2 : j][::-1]:
                steps.append(table[i - 2, j - 2] + 1)
            table[i, j] = min(steps)
    return int(table[-1, -1])


def test_sentences_are_read_without_importing(tmp_path: Path) -> None:
    (tmp_path / "b.py").write_text(
        '"""First sentence with enough words here. Second one has enough words, too.\n\n'
        '>>> no example is a sentence of words\n"""\n'
        "raise SystemExit\n"
        'def f():\n    """First sentence with enough WORDS here.\n\n    Too short.\n\n'
        '    + 1 - 2 = 3 / 4 * 5 - 6 (7)\n    """\n'
    )
    (tmp_path / "a.py").write_text('"""This file comes before the other one by name."""\n')
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "c.py").write_text('"""Nothing is taken from the folder of tests here."""\n')
    assert sentences(folder=tmp_path) == [
        "This file comes before the other one by name.",
        "First sentence with enough words here.",
        "Second one has enough words, too.",
    ]


def test_each_longer_word_has_one_edit(corpus: list[str]) -> None:
    random = Random(1)
    for sentence in corpus[:60]:
        spoiled = edited(sentence, random)
        # Between the longer words nothing changes, so that the words can be told apart again.
        between = re.split(r"[^\W\d_]{4,}", sentence)
        pattern = "".join(re.escape(part) + r"([^\W\d_]+)" for part in between[:-1]) + re.escape(between[-1])
        found = re.fullmatch(pattern, spoiled)
        assert found
        for right, wrong in zip(re.findall(r"[^\W\d_]{4,}", sentence), found.groups(), strict=True):
            assert distance(right, wrong) == 1
    assert edited("ab abc a1b2", random) == "ab abc a1b2"


def test_half_of_the_words_are_edited() -> None:
    sentence = " ".join(["wavepacket"] * 2000)
    changed = sum(word != "wavepacket" for word in edited(sentence, Random(2), share=0.5).split())
    assert 900 < changed < 1100


def test_parts_of_a_sentence(corpus: list[str]) -> None:
    random = Random(3)
    for sentence in corpus[:50]:
        words = re.findall(r"\w+", sentence)
        three = partial(sentence, random).split()
        assert any(words[at : at + 3] == three for at in range(len(words)))
        rest = iter(words)
        assert len(three) == len(scattered(sentence, random).split()) == 3
        assert all(word in rest for word in scattered(sentence, random).split())
    assert partial("one two", random) == "one two"


def test_recombined_sentences_are_distinct(corpus: list[str]) -> None:
    many = recombined(corpus, len(corpus) + 500, 0)
    assert many[: len(corpus)] == corpus
    assert len(set(many)) == len(corpus) + 500
    assert many == recombined(corpus, len(corpus) + 500, 0) != recombined(corpus, len(corpus) + 500, 1)


def test_halves_share_nothing(corpus: list[str]) -> None:
    one, other = half_of(corpus, "development"), half_of(corpus, "reported")
    assert sorted(one + other) == sorted(corpus)
    assert one != sorted(one)


def test_the_hybrid_beats_both_halves_and_reciprocal_ranks(corpus: list[str]) -> None:
    rows = measure_recall(texts=corpus, seeds=[5], queries=12)
    assert len(rows) == 4 * len(QUERY_KINDS)
    found = {(row.kind, row.mode): row for row in rows}
    for kind in QUERY_KINDS:
        hybrid, text, vector = (found[kind, mode] for mode in ("hybrid", "text", "vector"))
        # One query of 12 is 0.083.
        assert hybrid.at_1 >= max(text.at_1, vector.at_1) - 0.084
        assert hybrid.at_10 >= hybrid.at_1
        assert hybrid.queries == 12
    assert found["unedited", "hybrid"].at_1 == 1
    assert found["edited", "hybrid"].at_1 >= 0.9
    assert found["edited", "text"].at_1 < 0.9
    assert found["edited", "reciprocal ranks"].at_1 < found["edited", "hybrid"].at_1


def test_a_sentence_that_is_not_found_is_not_among_the_first_ten() -> None:
    # Fewer texts than ten; and no word of a query is spelled as in its sentence.
    texts = ["wavelengths encoders packets", "gravity lensing observatories", "lighthouses signals harbours"]
    rows = measure_recall(texts=texts, seeds=[0], queries=3, kinds=["edited"])
    found = {row.mode: (row.at_1, row.at_10) for row in rows}
    assert found["text"] == (0, 0)
    assert found["vector"] == (1, 1)


def test_queries_depend_on_the_seed_alone(corpus: list[str]) -> None:
    made = [list(recall._queries(corpus, "edited", 5, seed)) for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]


def test_a_given_store_is_used_and_left_open(tmp_path: Path, corpus: list[str]) -> None:
    with Store.open(tmp_path / "insights.db") as store:
        measure_recall(texts=corpus[:30], seeds=[0], queries=2, kinds=["partial"], store=store)
        assert store.count() == 30


@pytest.mark.parametrize(("queries", "kinds"), [(0, ["edited"]), (31, ["edited"]), (1, ["semantic"])])
def test_what_cannot_be_measured_is_refused(corpus: list[str], queries: int, kinds: Sequence[str]) -> None:
    with pytest.raises(QueryError, match=f"got {kinds[0]} and {queries}"):
        measure_recall(texts=corpus[:30], queries=queries, kinds=kinds)
    if queries != 1:
        with pytest.raises(QueryError, match=f"number 1 to 30; got .* and {queries}"):
            fit_weights(texts=corpus[:30], queries=queries)


def test_latency_has_a_row_a_mode(monkeypatch: pytest.MonkeyPatch, corpus: list[str]) -> None:
    monkeypatch.setattr(recall, "sentences", lambda: corpus)
    rows = measure_latency(rows=300, queries=2)
    assert [row.mode for row in rows] == ["hybrid", "text", "vector"]
    for row in rows:
        assert (row.rows, row.queries) == (300, 10)
        assert 0 < row.wall_p50 <= row.wall_p95
        assert 0 < row.cpu_p50 <= row.cpu_p95
        assert row.bytes_per_row > 549
    with pytest.raises(QueryError, match="got 3 and 4"):
        measure_latency(rows=3, queries=4)


def test_the_fit_finds_known_weights() -> None:
    generator = np.random.default_rng(0)
    numbers = generator.uniform(size=(4000, 6, 3))
    true = np.array([3.0, 2.0, 1.0])
    chances = np.exp(numbers @ true)
    chances /= chances.sum(axis=1, keepdims=True)
    for row, chance in zip(numbers, chances, strict=True):
        right = generator.choice(6, p=chance)
        row[[0, right]] = row[[right, 0]]
    weights, _ = recall._conditional_logit(numbers, np.zeros((4000, 6)))
    # Three standard errors, about 1 / √(4000 · 1/12).
    assert np.abs(weights - true).max() < 0.17


def test_the_fit_of_a_few_queries_is_not_far_from_the_constants(corpus: list[str]) -> None:
    weights = fit_weights(texts=half_of(corpus, "development"), queries=12)
    # The likelihood is flat, and a few queries tell no more.
    assert 0.5 < weights.cosine / (weights.share + weights.rank) / FUSION.cosine < 2
    assert weights.loss < 1
    assert 40 <= weights.queries <= 60


@pytest.mark.slow
def test_the_constants_are_what_the_fit_says() -> None:
    weights = fit_weights(queries=200, seed=4)
    words = weights.share + weights.rank
    assert weights.cosine / words == pytest.approx(FUSION.cosine, rel=0.25)
    assert weights.rank / words == pytest.approx(FUSION.rank, abs=0.15)


@pytest.mark.slow
def test_the_hybrid_is_never_a_point_worse_than_its_better_half() -> None:
    rows = measure_recall(seeds=[31], queries=400)
    found = {(row.kind, row.mode): row.at_1 for row in rows}
    for kind in QUERY_KINDS:
        assert found[kind, "hybrid"] >= max(found[kind, "text"], found[kind, "vector"]) - 0.01
    assert found["edited", "hybrid"] >= 0.97
