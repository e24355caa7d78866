"""Text for people: names and labels as they are, never as markup, and no character that steers a terminal."""

from __future__ import annotations

import re
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

# Escape sequences begin in C0 and C1; the marks of direction make a name read as another; halves of surrogate pairs
# cannot be printed at all.
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return the text on one line, each control character and mark of direction as ``\\u001b``."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


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
