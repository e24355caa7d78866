"""A model of timelines, run as it was trained, beside a model of clips of the same stretches, run by windows.

    python tools/compare_with_clips.py --config configs/ceiling.yaml --label fall --output benchmarks/ceiling

Both are trained on each fold of a protocol (groups held out) with the same settings, network and features. The clips
are the labelled stretches and, as a class of their own, what lies between them. Both answer to whole videos that
neither has seen. The model of clips answers twice: as ``predict`` runs it, and with the model of timelines' shortest
segment, which it could not have chosen itself. Folds that are there are not trained again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.checkpoint import ModelFile, load_model_file
from pipeline.cli.parser import read_experiment
from pipeline.config import DecodeConfig, Experiment, InferenceConfig, TimelineConfig, TimelineNumbers
from pipeline.datasets.annotations import VideoRow
from pipeline.datasets.sequences import TimelineVideo, timeline_videos
from pipeline.datasets.settled import Splits
from pipeline.decode import VideoOpener
from pipeline.inference import Model
from pipeline.protocols.folds import PROTOCOLS, Fold, silent_labels
from pipeline.schema import to_json
from pipeline.timeline.metrics import VideoPair
from pipeline.timeline_evaluation import evaluate_timelines
from pipeline.timeline_results import TimelineEvaluation
from pipeline.training.fit import train

_SHORTEST_SECONDS = 0.5
_FIGURES = ("f1_10_by_video", "f1_25_by_video", "f1_50_by_video", "edit", "frame_accuracy", "frame_map_by_score")
_TITLES = {
    "timeline": "timeline, as a stream",
    "clip": "clips, by windows",
    "clip_same_shortest": "clips, by windows, with the shortest segment of the timeline",
}


def clips_of(rows: Sequence[VideoRow], background: str, decode: DecodeConfig) -> tuple[VideoRow, ...]:
    """The labelled stretches of long videos, and what lies between them as background."""
    return tuple(row for video in timeline_videos(rows) for row in _clips_of(video, background, decode))


def _clips_of(video: TimelineVideo, background: str, decode: DecodeConfig) -> Iterator[VideoRow]:
    with VideoOpener(decode).open(video.row.source) as reader:
        end_of_video = reader.info.duration_seconds
    now = 0.0
    for row in video.stretches:
        if row.start_seconds - now >= _SHORTEST_SECONDS:
            yield replace(row, label=background, start_seconds=now, end_seconds=row.start_seconds)
        yield row
        now = max(now, end_of_video if row.end_seconds is None else row.end_seconds)
    if end_of_video - now >= _SHORTEST_SECONDS:
        yield replace(video.row, label=background, start_seconds=now, end_seconds=end_of_video)


def trained(experiment: Experiment, fold: Fold, name: str) -> ModelFile:
    """The model of one fold, for its task."""
    rows, silent = tuple(fold.train), silent_labels(experiment)
    if experiment.task == "clip":
        rows = clips_of(rows, experiment.sequence.background_label, experiment.decode)
    labels = tuple(sorted({row.label for row in rows} - silent))
    experiment = replace(experiment, name=f"{experiment.name}_{experiment.task}_{name}_seed{experiment.seed}")
    path = experiment.run_dir / "model.safetensors"
    if path.exists():
        return load_model_file(path)
    return train(experiment, Splits(labels, rows, (), tuple(fold.test)), quiet=True).model


def joined(folds: Sequence[TimelineEvaluation]) -> TimelineEvaluation:
    """The answers to the videos of all folds."""
    return replace(folds[0], results=tuple(result for fold in folds for result in fold.results))


def found_soon(pairs: Sequence[VideoPair], label: str, seconds: float) -> tuple[int, int]:
    """True segments of a label that an answer of it meets no later than so long after their start, and all."""
    starts = [(pair, span) for pair in pairs for span in pair.truth if span.label == label]
    soon = [
        any(
            answer.label == label
            and answer.start_seconds < span.start_seconds + seconds
            and answer.end_seconds > span.start_seconds
            for answer in pair.predicted
        )
        for pair, span in starts
    ]
    return sum(soon), len(soon)


def main() -> None:
    """Run all folds with both kinds, print the table, and write it with all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--root", help="in place of the config's data.root")
    parser.add_argument("--protocol", default="leave_one_group_out", choices=list(PROTOCOLS))
    parser.add_argument("--label", help="an action whose occurrences are counted one by one")
    parser.add_argument("--soon_seconds", type=float, default=2.0, help="within which it is to be answered")
    parser.add_argument("--runs", default="runs", help="folder of the runs")
    parser.add_argument("--output", help="write NAME.md and NAME.json")
    parser.add_argument("settings", nargs="*", help="after --, as for clipgru train")
    arguments = parser.parse_args()
    experiment = read_experiment(Path(arguments.config), arguments.settings)
    data = replace(experiment.data, root=arguments.root or experiment.data.root)
    experiment = replace(experiment, data=data, output_dir=arguments.runs)
    evaluations: dict[str, list[TimelineEvaluation]] = {kind: [] for kind in _TITLES}
    for number, fold in enumerate(PROTOCOLS[arguments.protocol](experiment), start=1):
        timeline = trained(replace(experiment, task="timeline"), fold, f"fold{number}")
        clip = trained(replace(experiment, task="clip"), fold, f"fold{number}")
        windows, numbers = InferenceConfig(mode="windows"), timeline.timeline or TimelineNumbers()
        kinds = {
            "timeline": (timeline, InferenceConfig(), TimelineConfig()),
            "clip": (clip, windows, TimelineConfig()),
            "clip_same_shortest": (clip, windows, TimelineConfig(min_seconds=numbers.min_seconds)),
        }
        for kind, (file, inference, segments) in kinds.items():
            evaluation = evaluate_timelines(Model(file), fold.test, inference=inference, timeline=segments)
            evaluations[kind].append(evaluation)
            summary = evaluation.summary()
            print(f"fold {number}  {kind}  " + "  ".join(f"{100 * summary[n]:.1f}" for n in _FIGURES), flush=True)
    lines = [f"| | {' | '.join(_FIGURES)} | found_share | delay_median_seconds | false_alarms_per_hour |"]
    lines.append("|---" * (len(_FIGURES) + 4) + "|")
    kept = {}
    for kind, found in evaluations.items():
        whole = joined(found)
        kept[kind] = summary = whole.summary()
        summary["frame_map_by_score"] = sum(fold.frame_map_by_score or 0.0 for fold in found) / len(found)
        cells = [f"{100 * summary[name]:.1f}" for name in (*_FIGURES, "found_share")]
        more = (f"{summary[name]:.2f}" for name in ("delay_median_seconds", "false_alarms_per_hour"))
        lines.append(f"| {_TITLES[kind]} | {' | '.join((*cells, *more))} |")
    if arguments.label:
        lines.append("")
    for kind, found in evaluations.items() if arguments.label else ():
        soon, count = found_soon(joined(found).pairs(), arguments.label, arguments.soon_seconds)
        of_label = kept[kind]["labels"].get(arguments.label, {})
        kept[kind]["found_soon"] = {"label": arguments.label, "count": count, "found": soon}
        lines.append(
            f"- {_TITLES[kind]}: `{arguments.label}` is answered within {arguments.soon_seconds:g} s of its start in "
            f"{soon} of {count}, in its stretch or up to 2 s after it in {100 * of_label.get('found_share', 0.0):.1f} "
            f"%; {of_label.get('false_alarms_per_hour', 0.0):.1f} false alarms an hour"
        )
    text = "\n".join(lines)
    print(text)
    if arguments.output:
        command = shlex.join(["python", "tools/compare_with_clips.py", *sys.argv[1:]])
        Path(f"{arguments.output}.md").write_text(f"Written by\n\n    {command}\n\n{text}\n", encoding="utf-8")
        Path(f"{arguments.output}.json").write_text(to_json(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
