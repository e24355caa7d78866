"""The commands that look into a model: diagnose, explain, explain-sampling."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli.models import end_with_report, rows_of
from pipeline.cli.parser import EXIT_SOME_FAILED, add_experiment, add_options, console, make_parser, read_options
from pipeline.options import DiagnoseOptions, ExplainOptions
from pipeline.schema import to_json


def diagnose_command(args: Sequence[str]) -> int:
    """clipgru diagnose"""
    parser = make_parser(
        "diagnose",
        "Does MODEL use time? Accuracy with the frames as filmed, shuffled, reversed and one at a time, and against "
        "the share of the clip seen; its hardest clips and most confident errors as pictures.",
    )
    parser.add_argument("model_file", type=str, metavar="MODEL", help="A model file.")
    add_experiment(parser)
    add_options(parser, DiagnoseOptions)
    arguments = parser.parse_args(list(args))
    options = read_options(DiagnoseOptions, parser, arguments)
    given = parser.parse_args(list(args), defaults=False)

    from rich.progress import Progress

    from pipeline.checkpoint import load_model_file
    from pipeline.diagnosis import diagnose
    from pipeline.explanation.sheets import write_diagnosis
    from pipeline.inference import pick_device
    from pipeline.run_report.journal import now

    began = now()
    model = load_model_file(arguments.model_file, pick_device(options.device))
    rows, data = rows_of(model, given.get("data"), options.split)
    with Progress(console=console(), disable=options.quiet or not sys.stderr.isatty()) as progress:
        task = progress.add_task("diagnosing", total=len(rows))
        diagnosis = diagnose(model, rows, data, progress=lambda count: progress.advance(task, count))
    home = Path(options.output or Path(arguments.model_file).parent)
    written = write_diagnosis(diagnosis, model, rows, home if options.output else home / "diagnosis")
    if not options.quiet:
        console().print(f"written: {', '.join(map(str, written))}", soft_wrap=True)
    end_with_report(home, "diagnose", args, began, options.quiet)
    print(to_json(diagnosis.summary(), indent=1))
    return EXIT_SOME_FAILED if diagnosis.num_errors else 0


def explain_sampling_command(args: Sequence[str]) -> int:
    """clipgru explain-sampling"""
    parser = make_parser("explain-sampling", "Draw exactly the frames of VIDEO that MODEL sees, with their times.")
    parser.add_argument("model_file", type=str, metavar="MODEL", help="A model file.")
    parser.add_argument("video", type=str, metavar="VIDEO", help="A video file.")
    parser.add_argument("--output", type=str, default="sampling.png", help="The picture to write.")
    parser.add_argument("--seed", type=int, default=0, help="Decides the training clips.")
    arguments = parser.parse_args(list(args))

    from pipeline.checkpoint import load_model_file
    from pipeline.explanation.sheets import sampling_sheet
    from pipeline.files import write_atomically

    sheet = sampling_sheet(load_model_file(arguments.model_file), Path(arguments.video), arguments.seed)
    write_atomically(Path(arguments.output), sheet)
    console().print(f"written: {arguments.output}", soft_wrap=True)
    return 0


def explain_command(args: Sequence[str]) -> int:
    """clipgru explain"""
    parser = make_parser(
        "explain",
        "What MODEL writes into its memory as VIDEO runs, and which frames decided its label. Writes the video with "
        "the places that its update gate let in laid over it (a head of maps: convgru, convmingru) and the gate "
        "through time under it (those, gru and mingru). The frames that decided are found by leaving out one at a "
        "time: the label's probability falls by so much without it.",
    )
    parser.add_argument("model_file", type=str, metavar="MODEL", help="A model file.")
    parser.add_argument("video", type=str, metavar="VIDEO", help="A video file.")
    add_options(parser, ExplainOptions)
    arguments = parser.parse_args(list(args))
    options = read_options(ExplainOptions, parser, arguments)

    from pipeline.checkpoint import load_model_file
    from pipeline.decode import VideoOpener
    from pipeline.explanation.memory import remember
    from pipeline.explanation.overlay import explanation_record, write_explanation
    from pipeline.inference import pick_device

    model = load_model_file(arguments.model_file, pick_device(options.device))
    with VideoOpener(model.decode).open(arguments.video) as reader:
        memory = remember(model, reader)
        written = write_explanation(memory, reader, model.transform, Path(options.output), options.top)
    if not options.quiet:
        console().print(f"written: {', '.join(map(str, written))}", soft_wrap=True)
    answer = explanation_record(memory, options.top)
    print(to_json({name: answer[name] for name in ("label", "score", "is_unknown", "top_frames")}, indent=1))
    return 0
