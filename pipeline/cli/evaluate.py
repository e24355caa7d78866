"""The command that measures a model: evaluate, by clips, by whole videos, or over the folds of a protocol."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.endings import end_with_report, finished_folds, rounded_figures, say_notes
from pipeline.cli.parser import (
    EXIT_SOME_FAILED,
    MODEL_HELP,
    add_experiment,
    add_given,
    add_no_clobber,
    add_options,
    config_files,
    console,
    given_settings,
    make_parser,
    read_options,
    to_experiment,
)
from pipeline.config import Experiment, InferenceConfig, MachineConfig, TimelineConfig
from pipeline.errors import UserError
from pipeline.files.lock import locked_folder
from pipeline.files.outputs import check_outputs, files_in
from pipeline.hub import local_model
from pipeline.options import (
    EvaluateOptions,
)
from pipeline.schema import to_json

if TYPE_CHECKING:
    from pipeline.evaluation import Evaluation
    from pipeline.protocols.clips import FoldResult
    from pipeline.ranks import Ranks


def evaluate_command(args: Sequence[str]) -> int:
    """clipgru evaluate"""
    parser = make_parser(
        "evaluate",
        "Measure MODEL on the test videos of the data it was trained on, or of other data given by --data.* options. "
        "With --protocol instead of MODEL: train and test each fold of an experiment.",
    )
    # Not "model": that is the group of the architecture's settings.
    help_text = f"{MODEL_HELP} Leave it out with --protocol."
    parser.add_argument("model_file", nargs="?", type=str, metavar="MODEL", help=help_text)
    add_experiment(parser)
    add_given(parser, "inference", InferenceConfig)
    add_given(parser, "timeline", TimelineConfig)
    add_options(parser, EvaluateOptions)
    add_no_clobber(parser)
    arguments = parser.parse_args(list(args))
    options = read_options(EvaluateOptions, parser, arguments)
    if bool(arguments.model_file) == bool(options.protocol):
        raise UserError("clipgru evaluate needs either a MODEL file or --protocol with --config; see --help")
    given = parser.parse_args(list(args), defaults=False)
    if options.protocol:
        return _evaluate_protocol(to_experiment(parser, arguments), given, options, args)
    arguments.model_file = local_model(arguments.model_file, output=options.output)
    from pipeline.checkpoint import read_description

    if _is_of_timelines(read_description(Path(arguments.model_file)).get("task"), given, options):
        from pipeline.cli.evaluate_timelines import evaluate_timeline_model

        return evaluate_timeline_model(arguments, given, options, args)
    return _evaluate_model(arguments, given, options, args)


def _is_of_timelines(task: str | None, given: Any, options: EvaluateOptions) -> bool:
    """True for task timeline. Raises ``UserError`` for options that are of no use with the task."""
    if task == "timeline":
        if options.clips is not None or options.mirror:
            raise UserError("--clips and --mirror are for models of clips; one of timelines reads whole videos, once")
        return True
    if given_settings(given, "inference") or given_settings(given, "timeline"):
        raise UserError("--inference.* and --timeline.* are for models of timelines; this one is judged by clips")
    return False


def _evaluate_model(arguments: Any, given: Any, options: EvaluateOptions, args: Sequence[str]) -> int:
    from pipeline.ranks import join
    from pipeline.run_report.journal import now
    from pipeline.run_report.page import refuse_foreign_report

    machine = MachineConfig(**given_settings(given, "machine"))
    began, ranks = now(), join(machine)
    home = Path(options.output or Path(arguments.model_file).parent)
    folder = home if options.output else home / f"evaluation_{options.split}"
    with ExitStack() as held:
        with ranks.agreement():
            if ranks.is_first:
                refuse_foreign_report(home)
                held.enter_context(locked_folder(folder))
        evaluation, summary = _evaluate_rows(arguments, given, options, folder, ranks, machine.fast_heads)
        if not ranks.is_first:
            return 0
        _write_results(evaluation, folder, summary, options.quiet)
    end_with_report(home, "evaluate", args, began, options.quiet)
    print(to_json(rounded_figures(summary), indent=1))
    return EXIT_SOME_FAILED if evaluation.num_errors else 0


def _evaluate_rows(
    arguments: Any, given: Any, options: EvaluateOptions, folder: Path, ranks: Ranks, fast_heads: bool
) -> tuple[Evaluation, dict[str, float]]:
    """The evaluation and its summary."""
    from rich.progress import Progress

    from pipeline.checkpoint import load_model_file
    from pipeline.datasets.annotations import annotation_files
    from pipeline.evaluation import EVALUATION_FILES, evaluate_model
    from pipeline.inference import pick_device
    from pipeline.models.temporal.fast import set_fast
    from pipeline.unseen import rows_to_judge

    with ranks.agreement():
        model = load_model_file(arguments.model_file, ranks.device or pick_device(options.device))
        set_fast(model.recognizer, fast_heads)
        model = model.decoded_as(given_settings(given, "decode"))
        with ranks.in_turn():
            judged = rows_to_judge(model, given_settings(given, "data"), options.split)
        data = judged.data
        inputs = [arguments.model_file, *config_files(arguments), *annotation_files(data.root, data.annotations)]
        inputs += [row.path for row in judged.rows]
        check_outputs(files_in(folder, EVALUATION_FILES), inputs, no_clobber=arguments.no_clobber)
    say_notes(judged.notes, options.quiet or not ranks.is_first)
    is_quiet = options.quiet or not ranks.is_first or not sys.stderr.isatty()
    with Progress(console=console(), disable=is_quiet) as progress, ranks.agreement():
        task = progress.add_task("evaluating", total=len(judged.rows) / ranks.count)
        evaluation = evaluate_model(
            model,
            judged.rows,
            judged.data,
            num_clips=options.clips,
            mirror=options.mirror,
            progress=lambda n: progress.advance(task, n),
            ranks=ranks,
        )
    evaluation = replace(evaluation, left_out=judged.left_out)
    return evaluation, evaluation.summary() | judged.figures


def _evaluate_protocol(experiment: Experiment, given: Any, options: EvaluateOptions, args: Sequence[str]) -> int:
    if _is_of_timelines(experiment.task, given, options):
        from pipeline.cli.evaluate_timelines import evaluate_timeline_protocol

        return evaluate_timeline_protocol(experiment, given, options, args)
    from pipeline.protocols.clips import EvaluationSettings, ProtocolResult, run_protocol, write_folds
    from pipeline.run_report.journal import now
    from pipeline.run_report.page import refuse_foreign_report

    began, home = now(), Path(options.output or experiment.run_dir)
    refuse_foreign_report(home)
    said: list[FoldResult] = []
    assert options.protocol is not None
    running = run_protocol(
        experiment,
        options.protocol,
        num_seeds=options.seeds,
        baseline=not options.no_baseline,
        evaluation=EvaluationSettings(options.clips, options.mirror),
        quiet=options.quiet,
    )

    def say(fold: FoldResult) -> None:
        said.append(fold)
        so_far = ProtocolResult(tuple(said)).whole(fold.kind)
        console().print(
            f"{fold.kind}, seed {fold.seed}, fold {fold.fold}: top-1 {fold.evaluation.top1:.3f}   "
            f"so far {so_far.top1:.3f}"
        )

    folds = finished_folds(running, say, experiment.run_dir, options.quiet, args, began)
    if folds is None:
        return 0
    result = ProtocolResult(tuple(folds))
    folder = home if options.output else home / "evaluation"
    with locked_folder(folder):
        write_folds(result, folder)
        _write_results(result.whole(), folder, result.summary(), options.quiet)
    end_with_report(home, "evaluate", args, began, options.quiet)
    print(to_json(rounded_figures(result.summary()), indent=1))
    return EXIT_SOME_FAILED if result.whole().num_errors else 0


def _write_results(evaluation: Evaluation, folder: Path, summary: dict[str, float], quiet: bool) -> None:
    from pipeline.evaluation import write_evaluation

    written = write_evaluation(evaluation, folder, summary)
    if not quiet:
        _print_classes(evaluation)
        _print_reliability(evaluation)
        console().print(f"written: {', '.join(map(str, written))}")


def _print_classes(evaluation: Evaluation) -> None:
    from rich.table import Table

    table = Table("class", "videos", "right", "recall")
    for label, recall in evaluation.class_recall.items():
        count = sum(result.label == label for result in evaluation.results)
        shown = "-" if recall is None else f"{recall:.1%}"
        table.add_row(label, str(count), str(round((recall or 0) * count)), shown)
    table.add_row("all", str(evaluation.num_videos), "", f"{evaluation.top1:.1%}", style="bold")
    console().print(table, soft_wrap=False)


def _print_reliability(evaluation: Evaluation) -> None:
    from rich.table import Table

    from pipeline.evaluation import reliability_rows

    before, after = (evaluation.reliability(calibrated=calibrated).expected_error for calibrated in (False, True))
    title = f"expected calibration error {before:.3f} before, {after:.3f} after"
    table = Table("calibration", "score up to", "videos", "mean score", "right", title=title)
    for row in reliability_rows(evaluation):
        table.add_row(*(str(value) for value in row.values()))
    console().print(table, soft_wrap=False)
