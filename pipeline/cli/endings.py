"""Endings that several commands share: notes on the data, figures as they are printed, a run's page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pipeline.cli.parser import console
from pipeline.files.stopping import Interrupted

T = TypeVar("T")


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


def finished_folds(
    folds: Iterable[T], say: Callable[[T], None], run_dir: Path, quiet: bool, args: Sequence[str], began: datetime
) -> list[T] | None:
    """Return every fold of a protocol, each said as it is there; None in all processes but the first, which ends the
    command. An interrupt is noted in the run's journal, and says that the command goes on when it is started again."""
    from pipeline.ranks import current_rank
    from pipeline.run_report.journal import note_command

    finished: list[T] = []
    try:
        for fold in folds:
            finished.append(fold)
            if not quiet and current_rank() == 0:
                say(fold)
    except Interrupted as interrupted:
        if current_rank() > 0:
            return None
        note_command(run_dir, "evaluate", args, began, "interrupted")
        raise Interrupted(interrupted.signal_number, "the same command goes on with this fold") from None
    return finished if current_rank() == 0 else None


def rounded_figures(figures: dict[str, float]) -> dict[str, float]:
    """Figures to four digits, as they are printed."""
    return {name: round(value, 4) for name, value in figures.items()}
