"""Endings that several commands share: notes on the data, figures as they are printed, a run's page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from pipeline.cli.parser import console


def say_notes(notes: Iterable[str], quiet: bool) -> None:
    """Print notes on the data to standard error, unless ``quiet``."""
    for note in () if quiet else notes:
        console().print(f"note: {note}")


def end_with_report(folder: Path, command: str, args: Sequence[str], began: datetime, quiet: bool) -> None:
    """Note the command in the run's journal and make its page anew."""
    from pipeline.run_report.journal import note_command
    from pipeline.run_report.page import write_report

    note_command(folder, command, args, began)
    report = write_report(folder)
    if not quiet:
        console().print(f"report: {report}")


def rounded(figures: dict[str, float]) -> dict[str, float]:
    """Figures to four digits, as they are printed."""
    return {name: round(value, 4) for name, value in figures.items()}
