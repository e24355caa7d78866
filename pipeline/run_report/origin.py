"""The parts of a page about where a run came from: data and what is wrong with them, settings, commands, machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median
from typing import Any

from pipeline.config import Experiment, to_dict
from pipeline.config.text import flat, shown
from pipeline.report.charts import Series, axis_over, bar_chart
from pipeline.report.markup import Cell, code, figure, note, number, section, table, text, unfold
from pipeline.run_report.learning import epochs_chart
from pipeline.run_report.records import RunRecord

_NUM_BINS = 20
_FACTS = ("processor", "cores used", "memory", "GPUs", "system", "versions")
_SPLITS = {"train": "training", "val": "validation", "test": "test"}


def data_section(run: RunRecord) -> str:
    """Unreadable videos with their cause, classes and sources of each split, durations."""
    content = _bad_videos(run) + _classes(run.data.get("splits", {}))
    return section("data", "Data", content + _durations(run.data.get("splits", {})))


def _bad_videos(run: RunRecord) -> str:
    rows = [_bad_row(row["path"], "training", row["stage"], row["cause"]) for row in run.bad_videos]
    for evaluation in run.evaluations:
        for answer in evaluation.answers:
            if answer.error:
                stage, _, cause = answer.error.partition(": ")
                rows.append(_bad_row(answer.path, f"evaluation ({evaluation.name})", stage, cause))
    if not rows:
        return "<p>Every video that was asked for could be read.</p>"
    words = "1 video" if len(rows) == 1 else f"{len(rows)} videos"
    said = note(f"{words} could not be read. In training they are left out, in evaluation they are wrong answers.")
    return said + table("Unreadable videos", ["file", "met in", "stage", "cause"], rows, sortable=True)


def _bad_row(path: str, met_in: str, stage: str, cause: str) -> list[Cell]:
    return [_long(path), text(met_in), text(stage), _long(cause)]


def _long(words: str) -> Cell:
    return Cell(f'<span class="path">{escape(words)}</span>', words)


def _classes(splits: Mapping[str, Any]) -> str:
    if not splits:
        return ""
    names = [name for name in _SPLITS if name in splits]
    labels = list(splits[names[0]]["class_counts"])
    rows = [[text(label), *(number(splits[name]["class_counts"][label]) for name in names)] for label in labels]
    counts = list(splits[names[0]]["class_counts"].values())
    sides = "; ".join(
        f"{_SPLITS[name]}: {sum(splits[name]['class_counts'].values()):,} videos "
        f"from {splits[name]['num_sources']:,} sources"
        for name in names
    )
    said = f"<p>{sides}. In {_SPLITS[names[0]]} a class has {min(counts):,} to {max(counts):,} videos.</p>"
    listed = table("Videos by class and split", ["class", *(_SPLITS[name] for name in names)], rows, sortable=True)
    return said + unfold(f"{len(labels)} classes", listed)


def _durations(splits: Mapping[str, Any]) -> str:
    durations = {
        name: splits[name]["durations_seconds"] for name in _SPLITS if splits.get(name, {}).get("durations_seconds")
    }
    if not durations:
        return ""
    longest = max(max(values) for values in durations.values())
    x = axis_over("seconds", [0.0, longest], from_zero=True)
    width = x.high / _NUM_BINS
    series = [
        Series(_SPLITS[name], _histogram(values, width), f"s{k}") for k, (name, values) in enumerate(durations.items())
    ]
    y = axis_over("", [share for line in series for _, share in line.points], "percent", from_zero=True)
    rows = [
        [text(_SPLITS[name]), number(len(values)), *(number(of(values), ".2f") for of in (min, median, max))]
        for name, values in durations.items()
    ]
    head = ["split", "videos opened", "shortest, s", "median, s", "longest, s"]
    chart = bar_chart(series, x, y, f"Durations of videos, up to {longest:.1f} seconds; the table has the figures")
    legend = [(line.name, line.style) for line in series]
    drawn = figure("Durations, share of each split", chart, legend)
    return f'<div class="figures">{drawn}<div class="box">{table("Durations", head, rows)}</div></div>'


def _histogram(values: Sequence[float], width: float) -> list[tuple[float, float]]:
    counts = [0] * _NUM_BINS
    for value in values:
        counts[min(int(value / width), _NUM_BINS - 1)] += 1
    return [((place + 0.5) * width, count / len(values)) for place, count in enumerate(counts)]


def settings_section(run: RunRecord) -> str:
    """Section with the settings that differ from the defaults, and all as the YAML that makes the same run."""
    defaults = dict(flat(to_dict(Experiment())))
    changed = [(key, value) for key, value in flat(run.settings) if defaults.get(key) != value]
    rows = [[Cell(code(key), key), text(shown(value)), text(shown(defaults.get(key)))] for key, value in changed]
    if not rows:
        return section("settings", "Settings", note("No settings are kept here."))
    content = table("Settings that differ from the defaults", ["setting", "here", "default"], rows)
    whole = f'<pre tabindex="0" aria-label="config.yaml">{escape(run.settings_text)}</pre>' if run.settings_text else ""
    return section(
        "settings",
        "Settings",
        f"<p>Those that differ from the defaults.</p>{content}{unfold('All: config.yaml', whole)}",
    )


def machine_section(run: RunRecord) -> str:
    """Commands with their times, the machine they ran on, and the speed of training."""
    parts = [_commands(run.commands), _machines(run.commands), _speed(run)]
    return section("machine", "Commands, hardware and speed", "".join(parts) or note("Nothing of it is kept here."))


def _commands(commands: Sequence[Mapping[str, Any]]) -> str:
    if not commands:
        return "<p>No command is noted: the run was started from Python.</p>"
    items = "".join(
        f"<li>{code(line['command'])}<span class='quiet'>{escape(_when(line['began']))}, {_how_long(line['seconds'])}"
        f"{'' if line['outcome'] == 'done' else ', ' + escape(line['outcome'])}</span></li>"
        for line in commands
    )
    return f'<ol class="commands">{items}</ol>'


def _when(began: str) -> str:
    return began.replace("T", " ").replace("+00:00", " UTC")


def _how_long(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def _machines(commands: Sequence[Mapping[str, Any]]) -> str:
    """Each machine once."""
    machines = list({str((line["machine"], line["versions"])): line for line in commands}.values())
    if not machines:
        return ""
    rows = [
        [text(name), *(text(fact) for fact in facts)]
        for name, *facts in zip(_FACTS, *(_facts(line) for line in machines), strict=True)
    ]
    places = [""] if len(machines) == 1 else [f" {k}" for k in range(1, len(machines) + 1)]
    return table("Machines", ["part", *(f"machine{place}" for place in places)], rows)


def _facts(line: Mapping[str, Any]) -> list[str]:
    """Values of ``_FACTS``, from a line of the journal."""
    machine, versions = line["machine"], line["versions"]
    memory = "unknown" if machine["memory_gb"] is None else f"{machine['memory_gb']:.0f} GB"
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [
        machine["processor"],
        str(machine["cores"]),
        memory,
        ", ".join(machine["gpus"]) or "none",
        machine["system"],
        used,
    ]


def _speed(run: RunRecord) -> str:
    speed, waiting = run.curves.get("clips_per_second"), run.curves.get("waiting_share")
    if not speed:
        return ""
    said = f"<p>Training: {speed[-1][1]:.1f} clips a second in the last epoch"
    said += f", {waiting[-1][1]:.0%} of the time spent waiting for data.</p>" if waiting else ".</p>"
    figures = epochs_chart("Clips a second", [Series("clips a second", speed)])
    if waiting:
        figures += epochs_chart("Time spent waiting for data", [Series("waiting", waiting)], None, "percent")
    return f'{said}<div class="figures">{figures}</div>'
