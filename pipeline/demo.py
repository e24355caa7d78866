"""The main job on the motion set: two models that differ in their temporal head alone, and a timeline of long videos.

Only the order of frames tells the motion classes apart, so the frame average has nothing to go by, and what the
ConvGRU gains over it is what it understands of time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from pipeline.clip import Segment
from pipeline.config import (
    DataConfig,
    Experiment,
    InferenceConfig,
    ModelConfig,
    SamplingConfig,
    TimelineConfig,
    TrainingConfig,
    TransformConfig,
)
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.motion import BACKGROUND, read_segments
from pipeline.datasets.settled import make_splits
from pipeline.evaluation import Evaluation, evaluate_model, write_evaluation
from pipeline.files.writing import write_atomically
from pipeline.inference import Model
from pipeline.options import DemoOptions, PredictOptions
from pipeline.prediction import predict_files
from pipeline.run_report.page import write_comparison, write_report
from pipeline.schema import to_json
from pipeline.terminal import PlainConsole
from pipeline.timeline.labelled import LabelledVideo
from pipeline.timeline.metrics import TimelineFigures, TimelineSettings, judge_timelines, pair_videos
from pipeline.training.fit import TrainingResult, train

HEADS = ("convgru", "mean")
_TIMELINE_FIGURES = ("f1_10", "f1_25", "f1_50", "edit", "frame_accuracy")


def motion_experiment() -> Experiment:
    """The settings of ``configs/motion.yaml``: the first stages of a published backbone, frozen, and what a temporal
    head can make of them. Frames are embedded once; then a head learns in about a minute on two cores."""
    return Experiment(
        name="motion",
        data=DataConfig(format="motion", root="data/motion", batch_size=32, cache="features"),
        sampling=SamplingConfig(sample_fps=10, num_frames=16, num_eval_clips=1),
        transform=TransformConfig(fit_size_px=64, input_size_px=64, horizontal_flip=0.0),
        model=ModelConfig(num_stages=4, heads=("convgru",), hidden_channels=64, dropout=0.15),
        training=TrainingConfig(epochs=10, learning_rate=3e-3, backbone_lr_scale=0.0, label_smoothing=0.05),
    )


def run_demo(options: DemoOptions, console: PlainConsole) -> dict[str, float]:
    """Makes the set, trains both heads, evaluates them, finds the actions of the untrimmed videos.

    Returns the figures that it also writes to ``summary.json``; everything else lies beside that file.
    """
    start = time.perf_counter()
    folder = Path(options.output_dir)

    def say(text: str) -> None:
        if not options.quiet:
            console.print(text)

    experiment = motion_experiment()
    data = replace(experiment.data, root=str(folder / "motion_set"), cache_dir=str(folder / "cache"))
    experiment = replace(experiment, output_dir=str(folder), seed=options.seed, data=data)
    say(f"1/4 making the motion set in {experiment.data.root}")
    splits = make_splits(read_annotations(experiment.data), experiment.data, experiment.seed)
    say(
        f"    {len(splits.train)} training, {len(splits.val)} validation and {len(splits.test)} test clips, "
        f"{len(splits.labels)} classes"
    )
    results: dict[str, TrainingResult] = {}
    evaluations: dict[str, Evaluation] = {}
    for step, head in enumerate(HEADS, start=2):
        say(f"{step}/4 training the {head} head")
        model = replace(experiment.model, heads=(head,))
        results[head] = train(replace(experiment, name=head, model=model), splits, quiet=options.quiet)
        evaluations[head] = evaluate_model(results[head].model, splits.test, experiment.data)
        write_evaluation(evaluations[head], folder / head / "evaluation_test", evaluations[head].summary())
        write_report(folder / head)
    write_comparison(folder / HEADS[0], folder / HEADS[1], folder / "comparison.html")
    say("4/4 finding the actions of untrimmed videos")
    judged = _timeline(results["convgru"], Path(experiment.data.root), folder, console)
    summary = {f"accuracy_{head}": paired(evaluation).top1 for head, evaluation in evaluations.items()}
    summary |= {f"timeline_{name}": judged.figures[name].value for name in _TIMELINE_FIGURES}
    summary["seconds"] = time.perf_counter() - start
    write_atomically(folder / "summary.json", to_json(summary, indent=1))
    if not options.quiet:
        _print(console, evaluations, judged, summary, folder)
    return summary


def paired(evaluation: Evaluation) -> Evaluation:
    """Without the background clips: those classes that have a partner which is their reversal."""
    return Evaluation(evaluation.labels, tuple(r for r in evaluation.results if r.label != BACKGROUND))


def _timeline(result: TrainingResult, root: Path, folder: Path, console: PlainConsole) -> TimelineFigures:
    """Writes windows and segments of every untrimmed video; compares the segments with the truth."""
    truth = read_segments(root)
    model = Model(result.model)
    options = PredictOptions(
        inference=InferenceConfig(stride_frames=2),
        timeline=TimelineConfig(min_seconds=1.0),  # no action of the motion set is shorter
        json=str(folder / "timeline.json"),
        csv=str(folder / "timeline.csv"),
        quiet=True,
    )
    predict_files(model, list(truth), options, console)
    written = json.loads((folder / "timeline.json").read_text(encoding="utf-8"))
    videos = written["videos"]
    found = [LabelledVideo(v["path"], _segments(v["segments"]), v["duration_seconds"]) for v in videos]
    right = [LabelledVideo(v["path"], truth[Path(v["path"])]) for v in videos]
    pairs = pair_videos(right, found, model.file.sampling.sample_fps, (BACKGROUND,))
    return judge_timelines(pairs, TimelineSettings(num_resamples=0))


def _segments(items: Sequence[dict[str, object]]) -> tuple[Segment, ...]:
    return tuple(Segment(**item) for item in items)  # type: ignore[arg-type]


def _print(
    console: PlainConsole,
    evaluations: dict[str, Evaluation],
    judged: TimelineFigures,
    summary: dict[str, float],
    folder: Path,
) -> None:
    table = Table("head", "held-out motion clips", "right", "accuracy", "background clips right")
    for head, evaluation in evaluations.items():
        motion = paired(evaluation)
        right = sum(result.predicted == result.label for result in motion.results)
        background = evaluation.class_recall[BACKGROUND] or 0.0
        table.add_row(head, str(motion.num_videos), str(right), f"{motion.top1:.1%}", f"{background:.1%}")
    console.print(table, soft_wrap=False)
    console.print("The frame average cannot pass 50 %: each clip's reversal is in the test set under another label.")
    scores, counts = judged.summary(), judged.counts[0.5]
    console.print(
        f"timeline of the untrimmed videos: segment F1 {scores['f1_10']:.3f} / {scores['f1_25']:.3f} / "
        f"{scores['f1_50']:.3f} at IoU 0.1 / 0.25 / 0.5 "
        f"({counts.hits} found, {counts.missed} missed, {counts.false_alarms} false at 0.5), "
        f"edit score {scores['edit']:.3f}, {scores['frame_accuracy']:.1%} of frames right"
    )
    console.print(f"{summary['seconds']:.0f} s in all. Written:")
    of_heads = [f"{head}/{name}" for name in ("model.safetensors", "report.html") for head in HEADS]
    for name in ("summary.json", "timeline.json", "timeline.csv", "motion_set", *of_heads, "comparison.html"):
        console.print(f"  {folder / name}")
