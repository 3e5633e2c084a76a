"""Texts as pages show them: cut to a few lines, the words of a query marked, and what cannot be seen made visible."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

from dredge.insights.fulltext import words

__all__ = ["Excerpt", "excerpt", "marked", "visible"]

_TITLE: Final = 90
_BODY: Final = 240
_LEAD: Final = 60
"""Characters of a body before the first word that was asked for."""
_SEARCHED: Final = 20_000
"""Characters in which words are looked for: a longer text is not read through for three lines of it."""
# Letters and digits, with the accents that a decomposed text has behind them.
_WORD: Final = re.compile("(?:[^\\W_][\u0300-\u036f]*)+")
_UNSEEN: Final = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n\r"}


@dataclass(frozen=True)
class Excerpt:
    """The beginning of a text, and what follows or what was asked for.

    Args:
        title: of the first line that is not blank.
        body: of the rest; it may be empty.
    """

    title: Markup
    body: Markup


def visible(text: str) -> str:
    r"""A text with escapes in place of control characters, which a page would show as nothing.

    Args:
        text: any text.

    Returns:
        The text; tabs and ends of lines stay.

    >>> print(visible("red \x1b[31m"))
    red \x1b[31m
    """
    return text.translate(_UNSEEN)


def marked(text: str, asked: Collection[str]) -> Markup:
    """A text as HTML, the words that were asked for marked.

    Args:
        text: any text.
        asked: words without case and accents, as `dredge.insights.fulltext.words` has them.

    Returns:
        Escaped HTML.

    >>> marked("L'Été <3", ["ete"])
    Markup('L&#39;<mark>Été</mark> &lt;3')
    """
    parts, end = [], 0
    for found in _found(text, asked):
        parts += [escape(text[end : found.start()]), Markup("<mark>{}</mark>").format(found.group())]
        end = found.end()
    return Markup("").join([*parts, escape(text[end:])])


def excerpt(text: str, asked: Collection[str] = ()) -> Excerpt:
    r"""A few lines of a text.

    Args:
        text: any text.
        asked: words to show and to mark.

    Returns:
        The excerpt.

    >>> excerpt("Gravity waves\n\nbend light.", ["light"]).body
    Markup('bend <mark>light</mark>.')
    """
    shown = visible(text[:_SEARCHED])
    first, _, rest = shown.strip().partition("\n")
    title, spilled = _cut(" ".join(first.split()), _TITLE)
    follows = " ".join(f"{spilled} {rest}".split())
    start = next((found.start() for found in _found(follows, asked)), 0)
    before = 0 if start < _BODY - _LEAD else follows.rfind(" ", 0, start - _LEAD) + 1 or start - _LEAD
    body, beyond = _cut(follows[before:], _BODY)
    more = "…" if beyond or len(text) > _SEARCHED else ""
    return Excerpt(
        marked(title, asked) + ("…" if spilled else ""), ("… " if before else "") + marked(body, asked) + more
    )


def _found(text: str, asked: Collection[str]) -> list[re.Match[str]]:
    wanted = frozenset(asked)
    return [found for found in _WORD.finditer(text) if not wanted.isdisjoint(words(found.group()))] if wanted else []


def _cut(text: str, most: int) -> tuple[str, str]:
    """A text of at most so many characters, and the rest; between words where there is a blank in its last third."""
    if len(text) <= most:
        return text, ""
    at = text.rfind(" ", 2 * most // 3, most + 1)
    at = most if at < 0 else at
    # Between a word and "…" stands no full stop.
    return text[:at].rstrip(" .,;:"), text[at:].strip()
