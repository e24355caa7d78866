"""The sections of a page about where a run came from: data and what is wrong with them, settings, commands, machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from pipeline.config import Experiment, to_dict
from pipeline.config.text import flat, shown
from pipeline.report.charts import Series, axis_over
from pipeline.report.templates import Section, section
from pipeline.run_report.learning import epochs_chart
from pipeline.run_report.records import RunRecord, unit_of

_TEMPLATE = "run_report/origin.html"
_NUM_BINS = 20
_SPLITS = {"train": "training", "val": "validation", "test": "test"}


def data_section(run: RunRecord) -> Section:
    """Unreadable videos with their cause, classes and sources of each split, durations."""
    given = run.data.get("splits", {})
    splits = {name: given[name] for name in _SPLITS if name in given}
    bad, durations = list(_bad_videos(run)), _durations(splits)
    unit = unit_of(run)
    return section("data", "Data", _TEMPLATE, bad=bad, splits=splits, words=_SPLITS, durations=durations, unit=unit)


def _bad_videos(run: RunRecord) -> Iterator[tuple[str, str, str, str]]:
    """Path, where it was met, stage and cause."""
    for row in run.bad_videos:
        yield row["path"], "training", row["stage"], row["cause"]
    for evaluation in run.evaluations:
        for answer in evaluation.answers:
            if answer.error:
                stage, _, cause = answer.error.partition(": ")
                yield answer.path, f"evaluation ({evaluation.name})", stage, cause
    for record in run.timelines:
        for result in record.evaluation.results:
            if result.error:
                yield result.path, f"evaluation ({record.name})", "", result.error


def _durations(splits: Mapping[str, Any]) -> dict[str, Any]:
    """Histograms of the videos' durations in each split, and a table; empty without any."""
    durations = {_SPLITS[name]: found for name, split in splits.items() if (found := split.get("durations_seconds"))}
    if not durations:
        return {}
    longest = max(max(values) for values in durations.values())
    x = axis_over("seconds", [0.0, longest], from_zero=True)
    width = x.high / _NUM_BINS
    series = [Series(name, _histogram(found, width), f"s{k}") for k, (name, found) in enumerate(durations.items())]
    return {
        "series": series,
        "legend": [(line.name, line.style) for line in series],
        "x": x,
        "y": axis_over("", [share for line in series for _, share in line.points], "percent", from_zero=True),
        "name": f"Durations of videos, up to {longest:.1f} seconds; the table has the figures",
        "rows": [(name, len(found), min(found), median(found), max(found)) for name, found in durations.items()],
    }


def _histogram(values: Sequence[float], width: float) -> list[tuple[float, float]]:
    counts = [0] * _NUM_BINS
    for value in values:
        counts[min(int(value / width), _NUM_BINS - 1)] += 1
    return [((place + 0.5) * width, count / len(values)) for place, count in enumerate(counts)]


def settings_section(run: RunRecord) -> Section:
    """Section with the settings that differ from the defaults, and all as the YAML that makes the same run."""
    defaults = dict(flat(to_dict(Experiment())))
    changed = [(key, value) for key, value in flat(run.settings) if defaults.get(key) != value]
    rows = [(key, shown(value), shown(defaults.get(key))) for key, value in changed]
    return section("settings", "Settings", _TEMPLATE, rows=rows, text=run.settings_text)


def machine_section(run: RunRecord) -> Section:
    """Commands with their times, the machine they ran on, and the speed of training."""
    speed, waiting = run.curves.get("clips_per_second", ()), run.curves.get("waiting_share", ())
    return section(
        "machine",
        "Commands, hardware and speed",
        _TEMPLATE,
        commands=run.commands,
        machines=list({str((line["machine"], line["versions"])): line for line in run.commands}.values()),
        speed=speed,
        waiting=waiting,
        charts=[
            epochs_chart("Clips a second", [Series("clips a second", speed)]),
            epochs_chart("Time spent waiting for data", [Series("waiting", waiting)], None, "percent"),
        ],
    )
