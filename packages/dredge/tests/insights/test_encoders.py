import os
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jaxtyping import Float32

from dredge.errors import ConfigError, InsightError
from dredge.insights import encoders
from dredge.insights.encoders import Encoder, HashedNgramEncoder, encoder_named, encoder_names, register_encoder
from dredge.reference.oracle_search import ngram_vector

TEXTS = st.text(max_size=60).filter(lambda text: text.strip() != "" and encoders.normalised(text) != "")


@pytest.fixture
def encoder() -> HashedNgramEncoder:
    return HashedNgramEncoder()


@given(st.lists(TEXTS, min_size=1, max_size=8))
@example(["a"])
@example(["ab", "ß", "İstanbul", "ﬁne Ｗide", "aaaaaaaaaaaaaaaaaaaaaaaa"])
@example(["\ud800 half of a pair"])
def test_vectors_are_those_of_the_formula(texts: list[str]) -> None:
    vectors = HashedNgramEncoder().encode(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(texts), 512)
    np.testing.assert_allclose(vectors, np.stack([ngram_vector(text) for text in texts]), atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), 1, rtol=1e-6)


@given(st.lists(TEXTS, min_size=2, max_size=8))
def test_a_vector_does_not_depend_on_its_neighbours(texts: list[str]) -> None:
    encoder = HashedNgramEncoder()
    together = encoder.encode(texts)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_array_equal(encoder.encode([text])[0], vector)


def test_one_gram_worked_by_hand(encoder: HashedNgramEncoder) -> None:
    # " a " is one 3-gram: 32, 97, 32 in the polynomial, then mixed.
    number = ((32 * 0x9E3779B1 + 97) * 0x9E3779B1 + 32) % 2**32
    number ^= number >> 16
    number = number * 0x85EBCA6B % 2**32
    number ^= number >> 13
    number = number * 0xC2B2AE35 % 2**32
    number ^= number >> 16
    expected = np.zeros(512, np.float32)
    expected[number % 512] = -1 if number >= 2**31 else 1
    np.testing.assert_array_equal(encoder.encode(["A"])[0], expected)


def test_another_process_gives_the_same_bits(encoder: HashedNgramEncoder) -> None:
    texts = ["gravity waves", "Été 汉字"]
    script = (
        "import sys; from dredge.insights.encoders import HashedNgramEncoder as E; "
        f"sys.stdout.write(E().encode({texts!r}).astype('<f4').tobytes().hex())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == encoder.encode(texts).astype("<f4").tobytes().hex()


def test_long_texts_are_hashed_and_counted_in_parts(
    encoder: HashedNgramEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "the wave packet is here, and here; " * 40 + "über ﬁne ☃" * 5
    whole = encoder.encode([text, "b"])
    for block in (5, 64, 1000):
        monkeypatch.setattr(encoders, "_BLOCK", block)
        monkeypatch.setattr(encoders, "_COUNTED", 100)
        np.testing.assert_array_equal(encoder.encode([text, "b"]), whole)
    np.testing.assert_allclose(whole[0], ngram_vector(text), atol=1e-7)


def test_many_texts_are_encoded_in_groups(encoder: HashedNgramEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"note {number} " + "x" * (number % 7) for number in range(50)]
    whole = encoder.encode(texts)
    monkeypatch.setattr(encoders, "_TOGETHER", 30)
    np.testing.assert_array_equal(encoder.encode(texts), whole)


def test_a_megabyte_takes_little_memory(encoder: HashedNgramEncoder) -> None:
    text = "".join(chr(97 + number * number % 26) for number in range(1000)) * 1000
    tracemalloc.start()
    vector = encoder.encode([text])[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30_000_000
    assert np.linalg.norm(vector) == pytest.approx(1)


def test_sums_that_would_overflow_are_scaled() -> None:
    sums = np.zeros((2, 512), np.int64)
    sums[0, :2] = 3 << 40, 4 << 40
    sums[1, 5] = -7
    rows = encoders._unit_rows(sums)
    np.testing.assert_allclose(rows[0, :2], [0.6, 0.8], rtol=1e-7)
    assert rows[1, 5] == -1


def test_weights_that_cancel_give_the_first_axis() -> None:
    assert encoders._unit_rows(np.zeros((1, 512), np.int64))[0].tolist() == [1.0] + [0.0] * 511


def test_no_texts_give_no_rows(encoder: HashedNgramEncoder) -> None:
    assert encoder.encode([]).shape == (0, 512)


@pytest.mark.parametrize("blank", ["", " \t\n", "\u3000"])
def test_blank_texts_are_refused_by_their_number(encoder: HashedNgramEncoder, blank: str) -> None:
    with pytest.raises(InsightError, match="number 2 of 3"):
        encoder.encode(["a", blank, "b"])


def test_spellings_that_look_the_same_have_one_vector(encoder: HashedNgramEncoder) -> None:
    vectors = encoder.encode(["Été  à Paris", "e\u0301te\u0301 a\u0300\nPARIS", "ｅ\u0301té à paris"])
    assert (vectors == vectors[0]).all()


def test_errors_in_spelling_stay_near(encoder: HashedNgramEncoder) -> None:
    right, wrong, other = encoder.encode(
        ["the registered encoder of the settings", "teh registred encodr of teh setings", "a list of tuples and sets"]
    )
    assert right @ wrong > 0.3 > 0.2 > right @ other


def test_encoders_have_names() -> None:
    assert isinstance(HashedNgramEncoder(), Encoder)
    assert encoder_names() == ["hashed-ngrams-v1"]
    assert encoder_named("hashed-ngrams-v1").version == "hashed-ngrams-v1"
    with pytest.raises(ConfigError, match="hashed-ngrams-v1; got 'minilm'"):
        encoder_named("minilm")


def test_an_encoder_is_registered_once() -> None:
    class Constant:
        version = "constant-v1"
        dim = 2

        def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "n 2"]:
            return np.tile(np.array([1, 0], np.float32), (len(texts), 1))

    register_encoder("constant-v1", Constant)
    register_encoder("constant-v1", Constant)
    assert encoder_named("constant-v1").dim == 2
    with pytest.raises(ConfigError, match="'constant-v1' is taken"):
        register_encoder("constant-v1", HashedNgramEncoder)
