"""The command evaluate for models of timelines: whole videos through the engine, of one model or over folds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.endings import end_with_report, finished_folds, rounded_figures, say_notes
from pipeline.cli.parser import EXIT_SOME_FAILED, config_files, console, given_settings
from pipeline.config import Experiment, InferenceConfig, TimelineConfig
from pipeline.files.lock import locked_folder
from pipeline.files.outputs import check_outputs, files_in
from pipeline.options import EvaluateOptions
from pipeline.schema import to_json

if TYPE_CHECKING:
    from pipeline.protocols.timelines import TimelineFold, TimelineProtocol


def evaluate_timeline_model(arguments: Any, given: Any, options: EvaluateOptions, args: Sequence[str]) -> int:
    """Judge a model file by whole videos and write the figures and the page; return the exit code."""
    from dataclasses import replace

    from rich.progress import Progress

    from pipeline.checkpoint import load_model_file
    from pipeline.datasets.annotations import annotation_files
    from pipeline.inference import Model, pick_device
    from pipeline.run_report.journal import now
    from pipeline.run_report.page import refuse_foreign_report
    from pipeline.scoring import figure_lines
    from pipeline.timeline_evaluation import evaluate_timelines
    from pipeline.timeline_results import TIMELINE_FILES, write_timelines
    from pipeline.unseen import rows_to_judge

    began, home = now(), Path(options.output or Path(arguments.model_file).parent)
    folder = home if options.output else home / f"evaluation_{options.split}"
    refuse_foreign_report(home)
    file = load_model_file(arguments.model_file, pick_device(options.device))
    file = file.decoded_as(given_settings(given, "decode"))
    judged = rows_to_judge(file, given_settings(given, "data"), options.split)
    inputs = [arguments.model_file, *config_files(arguments), *(row.path for row in judged.rows)]
    inputs += annotation_files(judged.data.root, judged.data.annotations)
    with locked_folder(folder):
        check_outputs(files_in(folder, TIMELINE_FILES), inputs, no_clobber=arguments.no_clobber)
        say_notes(judged.notes, options.quiet)
        with Progress(console=console(), disable=options.quiet or not sys.stderr.isatty()) as progress:
            task = progress.add_task("evaluating", total=len({row.path for row in judged.rows}))
            evaluation = evaluate_timelines(
                Model(file),
                judged.rows,
                inference=InferenceConfig(**given_settings(given, "inference")),
                timeline=TimelineConfig(
                    **{"background_label": file.sequence.background_label, **given_settings(given, "timeline")}
                ),
                progress=lambda: progress.advance(task),
            )
        evaluation = replace(evaluation, left_out=judged.left_out or ())
        summary = evaluation.summary() | judged.figures
        written = write_timelines(evaluation, folder, summary)
    if not options.quiet:
        for line in figure_lines(evaluation.figures):
            console().print(line)
        console().print(f"written: {', '.join(map(str, written))}")
    end_with_report(home, "evaluate", args, began, options.quiet)
    _print_numbers(summary)
    return EXIT_SOME_FAILED if evaluation.num_errors else 0


def evaluate_timeline_protocol(
    experiment: Experiment, given: Any, options: EvaluateOptions, args: Sequence[str]
) -> int:
    """Train and judge every fold of a protocol and write the figures and the page; return the exit code."""
    from pipeline.protocols.timelines import TimelineProtocol, run_timeline_protocol
    from pipeline.run_report.journal import command_line, now
    from pipeline.run_report.page import refuse_foreign_report

    began, home = now(), Path(options.output or experiment.run_dir)
    refuse_foreign_report(home)
    assert options.protocol is not None
    running = run_timeline_protocol(
        experiment,
        options.protocol,
        num_seeds=options.seeds,
        baseline=not options.no_baseline,
        inference=given_settings(given, "inference"),
        timeline=given_settings(given, "timeline"),
        quiet=options.quiet,
    )
    folds = finished_folds(running, _say_fold, experiment.run_dir, options.quiet, args, began)
    if folds is None:
        return 0
    folder = home if options.output else home / "evaluation"
    command = command_line("evaluate", args)
    summary = _write_protocol(TimelineProtocol(tuple(folds)), folder, command, options.quiet)
    end_with_report(home, "evaluate", args, began, options.quiet)
    _print_numbers(summary)
    return EXIT_SOME_FAILED if summary["num_errors"] else 0


def _say_fold(fold: TimelineFold) -> None:
    from pipeline.protocols.timelines import KIND_TITLES, MAIN_FIGURES, figures_on_grid

    figures = figures_on_grid(fold)
    shown = "   ".join(f"{title} {100 * figures[name]:.1f}" for name, title in MAIN_FIGURES.items())
    console().print(f"seed {fold.seed}, fold {fold.fold}, {KIND_TITLES[fold.kind]}: {shown}")


def _write_protocol(result: TimelineProtocol, folder: Path, command: str, quiet: bool) -> dict[str, Any]:
    """Write the files of a protocol and print its table; return the summary."""
    from rich.table import Table

    from pipeline.protocols.timelines import write_timeline_folds
    from pipeline.timeline_results import write_timelines

    summary = result.summary()
    with locked_folder(folder):
        written = write_timeline_folds(result, folder, command) + write_timelines(result.whole(), folder, summary)
    if not quiet:
        heading, *lines = result.table()
        table = Table(*heading, title="means over folds and seeds, %, with 95 % intervals over videos")
        for line in lines:
            table.add_row(*line)
        console().print(table, soft_wrap=False)
        console().print(f"written: {', '.join(map(str, written))}")
    return summary


def _print_numbers(summary: dict[str, Any]) -> None:
    numbers = {name: value for name, value in summary.items() if isinstance(value, float | int)}
    print(to_json(rounded_figures(numbers), indent=1))
