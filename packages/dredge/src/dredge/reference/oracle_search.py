"""Search as its formulas say, text by text in float64: slow and right. Tests compare the fast form with it."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from dredge.insights.fusion import Fusion

__all__ = ["bm25", "cosine", "fused", "near_pairs", "ngram_vector", "rounded"]

_DIM = 512


def ngram_vector(text: str) -> Float64[np.ndarray, "512"]:
    """The vector of `hashed-ngrams-v1`: v_h(g) += s(g) · round(64 (1 + ln tf(g))) / 64, then v / ‖v‖.

    Args:
        text: any with a character that is not white space.

    Returns:
        A vector of length 1.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text.casefold()).casefold().split())
    plain = f" {plain} "
    counts = Counter(
        _hash(plain[at : at + size]) for size in (3, 4, 5) for at in range(len(plain) - size + 1)
    )  # fmt: skip
    vector = np.zeros(_DIM)
    for number, count in counts.items():
        sign = -1 if number >> 31 else 1
        vector[number % _DIM] += sign * round(64 * (1 + math.log(count))) / 64
    if not vector.any():
        vector[0] = 1
    return vector / math.sqrt(math.fsum(vector**2))


def _hash(gram: str) -> int:
    number = 0
    for character in gram:
        number = (number * 0x9E3779B1 + ord(character)) % 2**32
    number ^= number >> 16
    number = number * 0x85EBCA6B % 2**32
    number ^= number >> 13
    number = number * 0xC2B2AE35 % 2**32
    return number ^ number >> 16


def rounded(vector: Float64[np.ndarray, " dim"]) -> tuple[list[int], float]:
    """Codes and step of a vector: step = max |v| / 127, code = round(v / step).

    Args:
        vector: of any length.

    Returns:
        The codes, and the step.
    """
    step = float(np.abs(vector).max()) / 127
    return [round(number / step) if step else 0 for number in vector.tolist()], step


def cosine(one: str, other: str) -> float:
    """Cosine of two texts.

    Args:
        one: a text.
        other: a text.

    Returns:
        Σ u_i v_i of their vectors.
    """
    return math.fsum(ngram_vector(one) * ngram_vector(other))


def bm25(query: str, texts: Sequence[str]) -> list[float]:
    """BM25 as SQLite computes it, of ASCII texts.

    For each distinct word of the query that is in n of N texts, f times in a text of L words, of A on the average::

        max(10⁻⁶, ln((N − n + ½) / (n + ½))) · 2.2 f / (f + 1.2 (0.25 + 0.75 L / A))

    Args:
        query: its words are runs of letters and digits.
        texts: all of them.

    Returns:
        A sum a text; 0 where no word is in it.
    """
    counted = [Counter(_words(text)) for text in texts]
    lengths = [sum(count.values()) for count in counted]
    average = sum(lengths) / len(lengths)
    scores = [0.0] * len(texts)
    for word in dict.fromkeys(_words(query)):
        n = sum(word in count for count in counted)
        idf = max(1e-6, math.log((len(texts) - n + 0.5) / (n + 0.5)))
        for number, (count, length) in enumerate(zip(counted, lengths, strict=True)):
            f = count[word]
            scores[number] += idf * 2.2 * f / (f + 1.2 * (0.25 + 0.75 * length / average))
    return scores


def fused(query: str, texts: Sequence[str], fusion: Fusion) -> list[float]:
    """The score of a hybrid search, of ASCII texts, with every text a candidate.

    Args:
        query: any text.
        texts: all of them.
        fusion: the constants.

    Returns:
        (cosine · c⁺ + w (1 − rank + rank · r)) / (cosine + 1) a text.
    """
    asked = set(_words(query))
    ranked = bm25(query, texts)
    best = max(ranked)
    scores = []
    for text, score in zip(texts, ranked, strict=True):
        share = len(asked & set(_words(text))) / len(asked) if asked else 0.0
        lexical = share * (1 - fusion.rank + fusion.rank * (score / best if best else 0.0))
        scores.append((fusion.cosine * max(0.0, cosine(query, text)) + lexical) / (fusion.cosine + 1))
    return scores


def near_pairs(texts: Sequence[str], least: float) -> set[tuple[int, int]]:
    """Pairs of texts of a cosine, or a larger one.

    Args:
        texts: all of them.
        least: the cosine.

    Returns:
        Numbers of the texts, the smaller first.
    """
    vectors = [ngram_vector(text) for text in texts]
    return {
        (one, other)
        for one in range(len(texts))
        for other in range(one + 1, len(texts))
        if math.fsum(vectors[one] * vectors[other]) >= least
    }


def _words(text: str) -> list[str]:
    return re.findall("[a-z0-9]+", text.lower())
