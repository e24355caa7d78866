"""The one family of errors that a user can cause and cure: the command line prints it and exits with 2."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class UserError(Exception):
    """Something in the input is wrong. The message says what, where, why and what to do."""


class DecodeError(UserError):
    """A video cannot be read, or not exactly.

    Attributes:
        path: the file.
        stage: ``open``, ``index``, ``seek`` or ``decode``.
        cause: what is wrong, in words.
    """

    def __init__(self, path: str | Path, stage: str, cause: str) -> None:
        super().__init__(f"{path}: {stage}: {cause}")
        self.path, self.stage, self.cause = Path(path), stage, cause

    def __reduce__(self) -> tuple[type[DecodeError], tuple[Path, str, str]]:
        # The default would call __init__ with the message alone when a worker process sends the error home.
        return type(self), (self.path, self.stage, self.cause)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is no key of a table: it lists the keys and guesses which was meant."""
    keys = sorted(known)
    name = name[:100]  # it may come from a file
    close = get_close_matches(name, keys, n=1, cutoff=0.5)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return UserError(f"unknown {kind} {name!r}.{guess} Known: {', '.join(keys)}")


def no_finite_scores() -> UserError:
    """The error for a model whose scores are nan: no file is to hold them."""
    return UserError(
        "the model's scores are no finite numbers, as with weights that are damaged or too large; fetch its file anew, "
        "or train again with a lower training.learning_rate"
    )
