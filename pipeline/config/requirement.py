"""The check that settings make of themselves."""

from __future__ import annotations

from pipeline.errors import UserError


def require(condition: bool, message: str) -> None:
    """Raises ``UserError`` with the message if the condition does not hold."""
    if not condition:
        raise UserError(message)
