"""Text for people: names and labels as they are, never as markup, and no character that steers a terminal."""

from __future__ import annotations

from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

# Escape sequences begin in C0 and C1; the marks of direction make a name read as another; halves of surrogate pairs
# cannot be printed at all.
_STEERING = (
    *range(0x20),
    *range(0x7F, 0xA0),
    0x061C,
    *range(0x200E, 0x2010),
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),
)
_ESCAPES = {code: f"\\u{code:04x}" for code in _STEERING}


def printable(text: str) -> str:
    """Return the text on one line, each control character and mark of direction as ``\\u001b``."""
    return text.translate(_ESCAPES)


def _printable_lines(text: str) -> str:
    """Return the text with its line ends kept, otherwise as ``printable``."""
    return "\n".join(printable(line) for line in text.split("\n"))


def say(text: str, stream: TextIO | None = None) -> None:
    """Print lines for people, to standard output unless told otherwise."""
    print(_printable_lines(text), file=stream, flush=True)


class PlainConsole(Console):
    """The console for messages: on standard error, so that standard output stays for answers. Texts are printed as
    they are, and wrapped by the terminal alone; tables take ``soft_wrap=False``."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(stderr=True, quiet=quiet, soft_wrap=True, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Every text passes here, those in tables too."""
        return super().render_str(_printable_lines(text), **settings)
