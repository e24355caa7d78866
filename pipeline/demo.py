"""The main jobs on the motion set: two models of clips that differ in their temporal head alone, and a model of
timelines that answers at every moment of long videos, as a stream.

Only the order of frames tells the motion classes apart, so the frame average has nothing to go by, and what the
ConvGRU gains over it is what it understands of time. The model of timelines goes on from that ConvGRU.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from pipeline.config import (
    DataConfig,
    Experiment,
    ModelConfig,
    SamplingConfig,
    SequenceConfig,
    TrainingConfig,
    TransformConfig,
)
from pipeline.datasets.formats import read_annotations
from pipeline.datasets.motion import BACKGROUND, MotionSetConfig, make_motion_set
from pipeline.datasets.settled import make_splits, read_splits
from pipeline.evaluation import Evaluation, evaluate_model, write_evaluation
from pipeline.files.outputs import check_outputs
from pipeline.files.writing import write_atomically
from pipeline.inference import Model
from pipeline.options import DemoOptions
from pipeline.run_report.page import write_comparison, write_report
from pipeline.schema import to_json
from pipeline.terminal import PlainConsole
from pipeline.timeline_evaluation import evaluate_timelines
from pipeline.timeline_results import TimelineEvaluation, write_timelines
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


def long_videos() -> MotionSetConfig:
    """Long videos with a table of when, 48 minutes in all."""
    return MotionSetConfig(
        num_train_clips=0, num_val_clips=0, num_test_clips=0, num_untrimmed=48, untrimmed_seconds=60.0, seed=1
    )


def _stream_experiment(clips: Experiment, root: Path, initial_model: Path) -> Experiment:
    """The settings of a model of timelines, 0.6 s late, that goes on from a model of clips."""
    training = replace(clips.training, epochs=8, label_smoothing=0.0, initial_model=str(initial_model))
    data = replace(clips.data, format="manifest", root=str(root), batch_size=8, val_fraction=0.1, test_fraction=0.2)
    sequence = SequenceConfig(delay_frames=6, sequence_frames=32)
    return replace(clips, name="stream", task="timeline", data=data, sequence=sequence, training=training)


def run_demo(options: DemoOptions, console: PlainConsole) -> dict[str, float]:
    """Makes the sets, trains both heads on clips and one on long videos, and evaluates them on videos held out.

    Returns the figures that it also writes to ``summary.json``; everything else lies beside that file.
    """
    start = time.perf_counter()
    folder = Path(options.output_dir)
    check_outputs({"--output_dir": folder})

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
    say("4/4 training on long videos with the state carried on, from the convgru head on")
    stream = _stream_experiment(experiment, _make_long_videos(folder), results["convgru"].model_path)
    judged = _stream(stream, folder, quiet=options.quiet)
    figures = judged.figures.figures
    summary = {f"accuracy_{head}": paired(evaluation).top1 for head, evaluation in evaluations.items()}
    summary |= {f"timeline_{name}": figures[name].value for name in _TIMELINE_FIGURES}
    summary["seconds"] = time.perf_counter() - start
    write_atomically(folder / "summary.json", to_json(summary, indent=1))
    if not options.quiet:
        _print(console, evaluations, judged, summary, folder)
    return summary


def paired(evaluation: Evaluation) -> Evaluation:
    """Without the background clips: those classes that have a partner which is their reversal."""
    return Evaluation(evaluation.labels, tuple(r for r in evaluation.results if r.label != BACKGROUND))


def _make_long_videos(folder: Path) -> Path:
    """The folder of the videos and their manifest."""
    make_motion_set(folder / "long_videos", long_videos())
    return folder / "long_videos" / "untrimmed"


def _stream(experiment: Experiment, folder: Path, *, quiet: bool) -> TimelineEvaluation:
    """Train a model of timelines and run it over the videos held out; everything lies in its run folder."""
    splits = read_splits(experiment.data, experiment.seed, experiment.sequence)
    model = Model(train(experiment, splits, quiet=quiet).model)
    evaluation = evaluate_timelines(model, splits.test)
    run_dir = folder / experiment.name
    write_timelines(evaluation, run_dir / "evaluation_test", evaluation.summary())
    write_report(run_dir)
    return evaluation


def _print(
    console: PlainConsole,
    evaluations: dict[str, Evaluation],
    judged: TimelineEvaluation,
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
    scores, counts = judged.figures.summary(), judged.figures.counts[0.5]
    console.print(
        f"{len(judged.results)} long videos as a stream, 0.6 s late, the state never begun anew: segment F1 "
        f"{scores['f1_10']:.3f} / {scores['f1_25']:.3f} / {scores['f1_50']:.3f} at IoU 0.1 / 0.25 / 0.5 "
        f"({counts.hits} found, {counts.missed} missed, {counts.false_alarms} false at 0.5), "
        f"edit score {scores['edit']:.3f}, {scores['frame_accuracy']:.1%} of frames right"
    )
    console.print(f"{summary['seconds']:.0f} s in all. Written:")
    of_runs = [f"{run}/{name}" for name in ("model.safetensors", "report.html") for run in (*HEADS, "stream")]
    for name in ("summary.json", *of_runs, "comparison.html", "motion_set", "long_videos"):
        console.print(f"  {folder / name}")
