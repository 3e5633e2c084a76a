"""What a text is called: by its exact bytes, and by what is left of it when case and spacing are forgotten."""

import hashlib
import unicodedata

from dredge.errors import InsightError

__all__ = ["check_text", "fingerprint", "insight_id"]

_UNSEEN = frozenset(("Cc", "Cf", "Zl", "Zp", "Zs"))


def insight_id(text: str) -> str:
    """The id of a text: the SHA-256 of its UTF-8 bytes, exactly as received.

    Args:
        text: any text.

    Returns:
        64 lower-case hexadecimal digits.

    Raises:
        InsightError: half of a surrogate pair, which UTF-8 cannot encode.

    >>> insight_id("abc")[:16]
    'ba7816bf8f01cfea'
    """
    return hashlib.sha256(_encoded(text)).hexdigest()


def fingerprint(text: str) -> str:
    """What texts share that differ only in case, in white space or in how Unicode spells a character.

    The SHA-256 of the text in NFC, white space collapsed to single blanks and cut off at both ends, casefolded; and in
    NFC once more, because folding can take it apart.

    Args:
        text: any text.

    Returns:
        64 lower-case hexadecimal digits.

    Raises:
        InsightError: half of a surrogate pair, which UTF-8 cannot encode.

    >>> fingerprint(" Gravity  waves ") == fingerprint("gravity WAVES")
    True
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return hashlib.sha256(_encoded(" ".join(text.casefold().split()))).hexdigest()


def check_text(text: str, max_bytes: int | None = None) -> None:
    """Refuses a text that cannot be lifted.

    Args:
        text: any text.
        max_bytes: of its UTF-8 form; None = any number.

    Raises:
        InsightError: a text in which nothing can be seen (only white space, control and format characters), a text
            that is too long, half of a surrogate pair, or U+0000, which not every database can hold.

    >>> check_text("a b", max_bytes=3)
    """
    # A character has at least one byte: what is far too long is refused without being encoded.
    if max_bytes is not None and (len(text) > max_bytes or len(_encoded(text)) > max_bytes):
        raise InsightError(
            f"a text has at most {max_bytes} bytes in UTF-8; got one of {len(text)} characters. Shorten or divide it."
        )
    if "\0" in text:
        raise InsightError(
            f"a text holds no U+0000; got one at character {text.index(chr(0)) + 1}. Remove it, or lift the bytes in "
            "another form."
        )
    if all(unicodedata.category(character) in _UNSEEN for character in text):
        raise InsightError(
            f"a text has something that can be seen; got {len(text)} characters of white space and control. "
            "Leave it out."
        )
    if max_bytes is None:
        _encoded(text)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InsightError(
            f"a text is Unicode that UTF-8 can encode; character {error.start + 1} is the lone surrogate "
            f"U+{ord(text[error.start]):04X}. Send the pair, or U+FFFD in its place."
        ) from error
