"""The whole page of a run, or of two: sections put into run.html, with styles, script and pictures inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.config import DecodeConfig
from pipeline.errors import UserError
from pipeline.files.writing import write_atomically
from pipeline.report.templates import Section, template
from pipeline.run_report.clips import make_thumbnails
from pipeline.run_report.comparison import comparison_sections
from pipeline.run_report.learning import curves_section, time_section
from pipeline.run_report.origin import data_section, machine_section, settings_section
from pipeline.run_report.records import EvaluationRecord, RunRecord, as_written, read_run, unit_of
from pipeline.run_report.results import (
    calibration_section,
    classes_section,
    clips_section,
    confusion_section,
    headline_section,
    videos_section,
    worst,
)
from pipeline.run_report.timelines import timeline_headline_section, timeline_sections

REPORT = "report.html"
_MAX_CLIP_BYTES = 3_500_000
"""All thumbnails of a page together, so that a page stays below 5 MB."""


def refuse_foreign_report(folder: Path) -> None:
    """Refuse a folder whose ``report.html`` is somebody else's.

    Raises:
        UserError: it is there, and ``write_report`` did not write it.
    """
    path = folder / REPORT
    if path.is_file() and "clipgru report" not in path.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise UserError(f"{path} is there and was not written by clipgru; move it away, or choose a folder by --output")


def write_report(
    folder: Path, output: Path | None = None, num_clips: int = 24, decode: Mapping[str, Any] | None = None
) -> Path:
    """Makes the page of a run from what lies in its folder; the same files give the same page.

    Args:
        folder: a run's.
        output: the page; default ``report.html`` in the folder.
        num_clips: how many of each evaluation's worst clips, or long videos, are shown.
        decode: decoding settings in place of the run's.

    Raises:
        UserError: the folder holds nothing of a run, or cannot be written to.
    """
    run = read_run(folder)
    config = replace(_decode_config(run.settings), **(decode or {}))
    path = output or folder / REPORT
    with as_written(folder):
        parts = [headline_section(e) for e in run.evaluations]
        parts += [timeline_headline_section(record) for record in run.timelines]
        parts += [curves_section(run)] if run.curves or run.folds else []
        for evaluation in run.evaluations:
            parts += _evaluation_sections(run, evaluation, num_clips, config)
        for record in run.timelines:
            parts += timeline_sections(record, path.parent, config, num_clips)
        parts += [] if run.timelines else [time_section(run)]
        parts += [data_section(run), settings_section(run), machine_section(run)]
        page = template("run_report/run.html").render(title=run.name, subtitle=_subtitle(run), sections=parts)
    write_atomically(path, page)
    return path


def write_comparison(first: Path, second: Path, output: Path | None = None) -> Path:
    """Makes a page that holds two runs side by side; default ``compare_<second>.html`` in the first one's folder.

    Raises:
        UserError: a folder holds nothing of a run, or the output cannot be written to.
    """
    runs = read_run(first), read_run(second)
    title = f"{runs[0].name} and {runs[1].name}"
    subtitle = Markup("A is <code>{}</code>, B is <code>{}</code>.").format(first, second)
    path = output or first / f"compare_{runs[1].name}.html"
    with as_written(first):
        sections = comparison_sections(*runs)
        page = template("run_report/run.html").render(title=title, subtitle=subtitle, sections=sections)
    write_atomically(path, page)
    return path


def _evaluation_sections(
    run: RunRecord, evaluation: EvaluationRecord, num_clips: int, config: DecodeConfig
) -> list[Section]:
    clips = list(make_thumbnails(worst(evaluation, num_clips), config, _MAX_CLIP_BYTES // len(run.evaluations)))
    return [
        classes_section(evaluation),
        confusion_section(evaluation),
        calibration_section(evaluation),
        clips_section(evaluation, clips),
        videos_section(evaluation),
    ]


def _decode_config(settings: dict[str, Any]) -> DecodeConfig:
    """Decoding settings of the run, with the decoder that reads everything and is always there. A run's folder may come
    from anyone and does not open the network. Keys of another version are left out: a thumbnail does not depend on
    them."""
    known = DecodeConfig.__dataclass_fields__
    config = DecodeConfig(**{key: value for key, value in settings.get("decode", {}).items() if key in known})
    return replace(config, decoder="pyav", allow_url=False)


def _subtitle(run: RunRecord) -> str:
    """One line about the model that was trained."""
    model = run.settings.get("model", {})
    said = []
    if model:
        said.append(f"{model.get('backbone')} with {' + '.join(model.get('heads', []))}")
    if run.model:
        said.append(f"{len(run.model['labels'])} classes")
        count = run.model.get("provenance", {}).get("num_training_videos")
        said += [f"trained on {count:,} {unit_of(run)}"] if count else []
    if run.folds:
        said.append(f"{len(run.folds)} folds")
    return ", ".join(said) + ("." if said else "")
