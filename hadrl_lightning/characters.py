"""Characters for outputs that lack some: a console or a file in ASCII, cp1252, GBK, …"""

import codecs
import sys
import unicodedata
from typing import Any

PLAIN = {
    "Σ": "sum",
    "÷": "/",
    "±": "+-",
    "×": "x",
    "·": "*",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "→": "->",
    "σ": "sigma",
    "µ": "u",
    "•": "*",
    "“": '"',
    "”": '"',
    "’": "'",
    "─": "-",
    "━": "-",
    "│": "|",
}
"""What stands for a character where it can't be written."""
HANDLER = "hadrl.plain"
"""Name of the error handler that puts them in."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(_stand_in(character) for character in lost), error.end


def _stand_in(character: str) -> str:
    """ASCII in place of a character: our choice, its letters without accents, or its number."""
    decomposed = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode("ascii")
    return PLAIN.get(character) or decomposed or character.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error(HANDLER, _plain)


def plain(text: str, encoding: str) -> str:
    """The text in characters that the encoding has."""
    return text.encode(encoding, HANDLER).decode(encoding)


def use_plain_characters(*streams: Any) -> None:
    """Have a stream write something plain in place of a character that it lacks, where it would raise or write a code.

    Args:
        streams: stdout and stderr if there are none. What can't be changed, such as a stream that keeps text, is left.
    """
    for stream in streams or (sys.stdout, sys.stderr):
        if getattr(stream, "errors", HANDLER) != HANDLER and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=HANDLER)
