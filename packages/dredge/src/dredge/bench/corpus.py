"""Texts and queries to measure search with: sentences of the standard library's docstrings, and ways to spoil them.

The sentences are read from the source files of the running interpreter, which is the same text for everyone with the
same version of Python. Nothing is imported and nothing is downloaded.
"""

import ast
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final

__all__ = ["QUERY_KINDS", "edited", "partial", "recombined", "scattered", "sentences"]

_LEFT_OUT: Final = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


def sentences(*, folder: Path | None = None, words: tuple[int, int] = (6, 40)) -> list[str]:
    """Distinct sentences of docstrings.

    Args:
        folder: of source files; None = the standard library's.
        words: fewest and most words of a sentence.

    Returns:
        The sentences, in the order of the files' names and of the lines; about 10,000 of the standard library.
    """
    root = folder or Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        if _LEFT_OUT.isdisjoint(path.relative_to(root).parts):
            for text in _docstrings(path):
                for sentence in _split(text):
                    if words[0] <= len(sentence.split()) <= words[1]:
                        found.setdefault(sentence.casefold(), sentence)
    return list(found.values())


def _docstrings(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in old sources
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # files that are meant not to be Python
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def _split(text: str) -> Iterator[str]:
    """Sentences of paragraphs of prose; lines of examples, tables and underlines are left out."""
    for paragraph in re.split(r"\n\s*\n", text):
        if not re.search(r">>>|[=*+-]{4}|\|", paragraph):
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z\"'(])", " ".join(paragraph.split())):
                if sum(map(str.isalpha, sentence)) > 0.6 * len(sentence):
                    yield sentence


def recombined(parts: Sequence[str], count: int, seed: int) -> list[str]:
    """Distinct sentences made of the first half of one and the second half of another, as many as wanted.

    Args:
        parts: the sentences.
        count: how many; far fewer than `len(parts)`².
        seed: of the choice.

    Returns:
        The sentences themselves, then combinations.
    """
    random = Random(seed)
    found = dict.fromkeys(parts)
    while len(found) < count:
        one, other = (random.choice(parts).split() for _ in range(2))
        found.setdefault(" ".join(one[: len(one) // 2] + other[len(other) // 2 :]))
    return list(found)[:count]


def edited(sentence: str, random: Random, *, share: float = 1.0, letters: int = 4) -> str:
    """A sentence with one random edit in each of its longer words.

    An edit drops a letter, inserts or replaces one, or swaps two neighbours, at a random place.

    Args:
        sentence: the sentence.
        random: source of the choices.
        share: of the longer words that are edited, each with this probability.
        letters: of the shortest words that are edited.

    Returns:
        The spoiled sentence.

    >>> edited("finds the waves", Random(1)) != "finds the waves"
    True
    """
    return re.sub(
        rf"[^\W\d_]{{{letters},}}",
        lambda match: _one_edit(match.group(), random) if random.random() < share else match.group(),
        sentence,
    )


def _one_edit(word: str, random: Random) -> str:
    while True:
        at = random.randrange(len(word))
        letter = random.choice(_LETTERS)
        spoiled = random.choice(
            [
                word[:at] + word[at + 1 :],
                word[:at] + letter + word[at:],
                word[:at] + letter + word[at + 1 :],
                word[: max(at - 1, 0)] + word[max(at - 1, 0) : at + 1][::-1] + word[at + 1 :],
            ]
        )
        if spoiled != word:
            return spoiled


def partial(sentence: str, random: Random, *, words: int = 3) -> str:
    """Neighbouring words of a sentence.

    Args:
        sentence: the sentence.
        random: source of the choice.
        words: how many.

    Returns:
        The words, joined by blanks.

    >>> partial("one two three four", Random(0), words=4)
    'one two three four'
    """
    every = re.findall(r"\w+", sentence)
    start = random.randrange(max(1, len(every) - words + 1))
    return " ".join(every[start : start + words])


def scattered(sentence: str, random: Random, *, words: int = 3) -> str:
    """Words from anywhere in a sentence, in its order, the longest ones more likely.

    Args:
        sentence: the sentence.
        random: source of the choice.
        words: how many.

    Returns:
        The words, joined by blanks.
    """
    every = re.findall(r"\w+", sentence)
    chosen: set[int] = set()
    while len(chosen) < min(words, len(every)):
        chosen.update(random.choices(range(len(every)), [len(word) for word in every]))
    return " ".join(every[at] for at in sorted(chosen))


QUERY_KINDS: Final[dict[str, Callable[[str, Random], str]]] = {
    "unedited": lambda sentence, random: sentence,
    "half edited": lambda sentence, random: edited(sentence, random, share=0.5),
    "edited": edited,
    "partial": partial,
    "scattered": scattered,
}
"""How a query is made of a stored sentence, by the name that `dredge bench recall` prints."""
