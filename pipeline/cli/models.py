"""The commands that train models and show their runs: train, learn, report, demo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.cli.endings import rounded_figures
from pipeline.cli.parser import (
    EXIT_SOME_FAILED,
    add_experiment,
    add_no_clobber,
    add_options,
    config_files,
    console,
    make_parser,
    read_options,
    to_experiment,
)
from pipeline.files.outputs import check_outputs, claimed, files_in
from pipeline.files.stopping import Interrupted
from pipeline.options import (
    DemoOptions,
    LearnOptions,
    ReportOptions,
    TrainOptions,
)
from pipeline.schema import to_json


def train_command(args: Sequence[str]) -> int:
    """clipgru train"""
    parser = make_parser("train", "Train a model on videos. The model file and all logs go to <output_dir>/<name>.")
    add_experiment(parser)
    add_options(parser, TrainOptions)
    arguments = parser.parse_args(list(args))
    experiment, options = to_experiment(parser, arguments), read_options(TrainOptions, parser, arguments)

    from pipeline.ranks import current_rank
    from pipeline.run_report.journal import note_command, now
    from pipeline.run_report.page import refuse_foreign_report, write_report
    from pipeline.training.fit import RUN_FILES, train

    began = now()
    refuse_foreign_report(experiment.run_dir)
    if not options.resume:
        check_outputs(files_in(experiment.run_dir, RUN_FILES), config_files(arguments))
    try:
        result = train(experiment, resume=options.resume, quiet=options.quiet)
    except Interrupted:
        if current_rank() > 0:
            return 0  # of several ranks the first one speaks
        note_command(experiment.run_dir, "train", args, began, "interrupted")
        raise
    if current_rank() > 0:
        return 0
    note_command(experiment.run_dir, "train", args, began)
    report = write_report(experiment.run_dir)
    print(
        to_json({"model": str(result.model_path), "report": str(report), **rounded_figures(result.metrics)}, indent=1)
    )
    return 0


def learn_command(args: Sequence[str]) -> int:
    """clipgru learn"""
    parser = make_parser(
        "learn",
        "A model from a few short videos a class, 2 to 20 in a folder each below DIR, on a CPU. Tries several heads on "
        "a frozen backbone, keeps the one that is best on held-out videos, and calibrates its scores by those. Videos "
        "of one source stay together where DIR/groups.csv names it. A folder of long videos with a manifest.csv of "
        "labelled stretches, as clipgru label writes it, gives a model of timelines.",
    )
    parser.add_argument("root", type=str, metavar="DIR", help="A folder with a folder of videos for each class.")
    add_options(parser, LearnOptions)
    add_no_clobber(parser)
    arguments = parser.parse_args(list(args))
    options = read_options(LearnOptions, parser, arguments)

    from pipeline.datasets.annotations import annotation_files, is_labelled_folder, local_folder, require_folder

    root = local_folder(arguments.root)
    if is_labelled_folder(root):
        return _learn_timelines(root, options, no_clobber=arguments.no_clobber)
    require_folder(root)
    with claimed({"--output": options.output}, annotation_files(root), no_clobber=arguments.no_clobber):
        from pipeline.learning.processes import prepare_processes

        prepare_processes(options)
        from pipeline.learning.learn import learn

        learned = learn(root, options, console())
    calibration = learned.model.calibration
    answer = {
        "model": options.output,
        "head": learned.choice.best,
        **rounded_figures(learned.model.metrics),
        "temperature": round(calibration.temperature, 4),
        "unknown_threshold": calibration.unknown_threshold,
        "left_out": [video.path for video in learned.bad],
        "classes_of_one_source": list(learned.of_one_source),
    }
    print(to_json(answer, indent=1))
    return EXIT_SOME_FAILED if learned.bad else 0


def _learn_timelines(root: Path, options: LearnOptions, *, no_clobber: bool) -> int:
    with claimed({"--output": options.output}, [root / "manifest.csv"], no_clobber=no_clobber):
        from pipeline.labelling.command import learn_folder

        answer = learn_folder(root, options, console())
    print(to_json(answer, indent=1))
    return EXIT_SOME_FAILED if answer["left_out"] else 0


def report_command(args: Sequence[str]) -> int:
    """clipgru report"""
    parser = make_parser(
        "report",
        "Make the page of RUN anew from the files in its folder, such as runs/mine; with RUN2 a page that compares the "
        "two: figures, a paired test on the videos that both saw, curves, classes and the settings that differ.",
    )
    parser.add_argument("run", type=str, metavar="RUN", help="A run's folder.")
    parser.add_argument("run2", nargs="?", type=str, metavar="RUN2", help="The folder of a run to compare it with.")
    add_options(parser, ReportOptions)
    add_no_clobber(parser)
    arguments = parser.parse_args(list(args))
    options = read_options(ReportOptions, parser, arguments)

    from pipeline.run_report.page import write_comparison, write_report
    from pipeline.terminal import say

    output = Path(options.output) if options.output else None
    run, run2 = Path(arguments.run), Path(arguments.run2) if arguments.run2 else None
    read = [path for folder in filter(None, (run, run2)) for path in folder.rglob("*") if path.suffix != ".html"]
    with claimed({"--output": output}, read, no_clobber=arguments.no_clobber):
        if run2 is None:
            say(str(write_report(run, output, options.clips, options.decode)))
        else:
            say(str(write_comparison(run, run2, output)))
    return 0


def demo_command(args: Sequence[str]) -> int:
    """clipgru demo"""
    parser = make_parser("demo", "Make the motion set, train two models on it, find actions in long videos.")
    add_options(parser, DemoOptions)
    options = read_options(DemoOptions, parser, parser.parse_args(list(args)))

    from pipeline.demo import run_demo

    try:
        run_demo(options, console())
    except Interrupted as interrupted:
        raise Interrupted(interrupted.signal_number, "the same command begins again") from None
    return 0
