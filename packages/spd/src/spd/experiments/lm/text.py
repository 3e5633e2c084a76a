"""Characters of the text that Python brings with it: something like language, at hand without a network.

The text is that of `help()`: Python's own reference, each paragraph once. It differs a little between versions of
Python; the alphabet does not.
"""

from functools import lru_cache
from importlib import import_module
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from spd.data import mixed_seed
from spd.errors import DataError

__all__ = ["ALPHABET", "VOCAB_SIZE", "Split", "TextBatches", "decoded", "encoded", "python_text"]

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
"""A line's end, and printable ASCII; all else has the one code that follows."""

VOCAB_SIZE = len(ALPHABET) + 1

Split = Literal["train", "held_out"]

_HELD_OUT = 0.1
_CODES = {character: code for code, character in enumerate(ALPHABET)}


def encoded(text: str) -> Int64[Tensor, " characters"]:
    r"""Codes of a text's characters.

    Args:
        text: any.

    Returns:
        One number for each character.

    >>> encoded("\n a°").tolist()
    [0, 1, 66, 96]
    """
    return torch.tensor([_CODES.get(character, len(ALPHABET)) for character in text], dtype=torch.int64)


def decoded(codes: Int64[Tensor, " characters"]) -> str:
    """The text of codes.

    Args:
        codes: numbers from `encoded`.

    Returns:
        The text; characters that are not in the alphabet come out as U+FFFD.

    >>> decoded(encoded("for x in y:"))
    'for x in y:'
    """
    return "".join((ALPHABET + "\N{REPLACEMENT CHARACTER}")[code] for code in codes.tolist())


@lru_cache(maxsize=2)
def python_text(split: Split) -> Int64[Tensor, " characters"]:
    """The characters of Python's reference: the first nine tenths to train on, the last tenth held out.

    Args:
        split: which part.

    Returns:
        Their codes; the same tensor each time, not to be changed.

    Raises:
        DataError: a Python that was built without its documentation.
    """
    try:
        topics: dict[str, str] = import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise DataError(
            "the text is that of pydoc_data.topics, which this Python was installed without. Install the full standard "
            "library, or choose another task."
        ) from error
    # Topics share paragraphs, which would make held-out text known.
    paragraphs = dict.fromkeys(part for name in sorted(topics) for part in topics[name].split("\n\n"))
    codes = encoded("\n\n".join(paragraphs))
    cut = round(len(codes) * (1 - _HELD_OUT))
    return codes[:cut] if split == "train" else codes[cut:]


class TextBatches:
    """Pieces of the text, each beginning anywhere.

    Args:
        batch_size: pieces of a batch.
        seq_len: characters of a piece.
        split: from which part.
        seed: of the stream.
        rank: which process of several, each with data of its own.

    Raises:
        DataError: pieces longer than the text.

    >>> TextBatches(2, 16).batch(0).shape
    torch.Size([2, 16])
    """

    def __init__(self, batch_size: int, seq_len: int, *, split: Split = "train", seed: int = 0, rank: int = 0) -> None:
        length = len(python_text(split))
        if not 1 <= seq_len <= length:
            raise DataError(f"a piece has 1 to {length} characters of the text; got seq_len {seq_len}. Shorten it.")
        self.batch_size, self.seq_len, self.split = batch_size, seq_len, split
        self.seed, self.rank = seed, rank

    def batch(self, index: int) -> Int64[Tensor, "batch positions"]:
        """The batch with this index.

        Args:
            index: from 0.

        Returns:
            Codes of characters.
        """
        generator = torch.Generator().manual_seed(mixed_seed("text", self.split, self.seed, self.rank, index))
        text = python_text(self.split)
        starts = torch.randint(len(text) - self.seq_len + 1, (self.batch_size, 1), generator=generator)
        return text[starts + torch.arange(self.seq_len)]
