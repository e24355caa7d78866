"""The commands that look into a model: diagnose, explain, explain-sampling."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.cli.endings import end_with_report, say_notes
from pipeline.cli.parser import (
    EXIT_SOME_FAILED,
    MODEL_HELP,
    add_data,
    add_given,
    add_no_clobber,
    add_options,
    config_files,
    console,
    given_settings,
    make_parser,
    read_options,
)
from pipeline.config import DecodeConfig
from pipeline.files.lock import locked_folder
from pipeline.files.outputs import check_outputs, claimed, files_in
from pipeline.hub import local_model
from pipeline.options import DiagnoseOptions, ExplainOptions
from pipeline.schema import to_json


def diagnose_command(args: Sequence[str]) -> int:
    """clipgru diagnose"""
    parser = make_parser(
        "diagnose",
        "Does MODEL use time? Accuracy with the frames as filmed, shuffled, reversed and one at a time, and against "
        "the share of the clip seen; its hardest clips and most confident errors as pictures.",
    )
    parser.add_argument("model_file", type=str, metavar="MODEL", help=MODEL_HELP)
    add_data(parser)
    add_options(parser, DiagnoseOptions)
    add_no_clobber(parser)
    arguments = parser.parse_args(list(args))
    options = read_options(DiagnoseOptions, parser, arguments)
    arguments.model_file = local_model(arguments.model_file, output=options.output)

    from rich.progress import Progress

    from pipeline.checkpoint import load_model_file
    from pipeline.datasets.annotations import annotation_files
    from pipeline.diagnosis import diagnose
    from pipeline.explanation.sheets import DIAGNOSIS_FILES, write_diagnosis
    from pipeline.inference import pick_device
    from pipeline.run_report.journal import now
    from pipeline.run_report.page import refuse_foreign_report
    from pipeline.unseen import rows_to_judge

    began = now()
    home = Path(options.output or Path(arguments.model_file).parent)
    folder = home if options.output else home / "diagnosis"
    refuse_foreign_report(home)
    with locked_folder(folder):
        model = load_model_file(arguments.model_file, pick_device(options.device))
        model.require_clips("clipgru diagnose")
        model = model.decoded_as(given_settings(arguments, "decode"))
        judged = rows_to_judge(model, given_settings(arguments, "data"), options.split)
        say_notes(judged.notes, options.quiet)
        data = judged.data
        inputs = [arguments.model_file, *config_files(arguments), *annotation_files(data.root, data.annotations)]
        inputs += [row.path for row in judged.rows]
        check_outputs(files_in(folder, DIAGNOSIS_FILES), inputs, no_clobber=arguments.no_clobber)
        with Progress(console=console(), disable=options.quiet or not sys.stderr.isatty()) as progress:
            task = progress.add_task("diagnosing", total=len(judged.rows))
            diagnosis = diagnose(model, judged.rows, data, progress=lambda count: progress.advance(task, count))
        if judged.left_out is not None:
            diagnosis = replace(diagnosis, num_left_out=len(judged.left_out))
        written = write_diagnosis(diagnosis, model, judged.rows, folder)
    if not options.quiet:
        console().print(f"written: {', '.join(map(str, written))}")
    end_with_report(home, "diagnose", args, began, options.quiet)
    print(to_json(diagnosis.summary(), indent=1))
    return EXIT_SOME_FAILED if diagnosis.num_errors else 0


def explain_sampling_command(args: Sequence[str]) -> int:
    """clipgru explain-sampling"""
    parser = make_parser("explain-sampling", "Draw exactly the frames of VIDEO that MODEL sees, with their times.")
    parser.add_argument("model_file", type=str, metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("video", type=str, metavar="VIDEO", help="A video file.")
    parser.add_argument("--output", type=str, default="sampling.png", help="The picture to write.")
    parser.add_argument("--seed", type=int, default=0, help="Decides the training clips.")
    add_given(parser, "decode", DecodeConfig)
    add_no_clobber(parser)
    arguments = parser.parse_args(list(args))
    arguments.model_file = local_model(arguments.model_file)
    inputs = [arguments.model_file, arguments.video]
    with claimed({"--output": arguments.output}, inputs, no_clobber=arguments.no_clobber):
        from pipeline.checkpoint import load_model_file
        from pipeline.explanation.sheets import sampling_sheet
        from pipeline.files.writing import write_atomically

        model = load_model_file(arguments.model_file).decoded_as(given_settings(arguments, "decode"))
        model.require_clips("clipgru explain-sampling")
        sheet = sampling_sheet(model, Path(arguments.video), arguments.seed)
        write_atomically(Path(arguments.output), sheet)
    console().print(f"written: {arguments.output}")
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
    parser.add_argument("model_file", type=str, metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("video", type=str, metavar="VIDEO", help="A video file.")
    add_options(parser, ExplainOptions)
    add_no_clobber(parser)
    arguments = parser.parse_args(list(args))
    options = read_options(ExplainOptions, parser, arguments)
    arguments.model_file = local_model(arguments.model_file)

    video = Path(options.output)
    outputs = {"--output": video} | files_in(video.parent, [video.with_suffix(end).name for end in (".png", ".json")])
    inputs = [arguments.model_file, arguments.video]
    with claimed(outputs, inputs, no_clobber=arguments.no_clobber, videos=("--output",)):
        from pipeline.checkpoint import load_model_file
        from pipeline.decode import VideoOpener
        from pipeline.explanation.memory import remember
        from pipeline.explanation.overlay import explanation_record, write_explanation
        from pipeline.inference import pick_device

        model = load_model_file(arguments.model_file, pick_device(options.device)).decoded_as(options.decode)
        model.require_network("clipgru explain")
        with VideoOpener(model.decode).open(arguments.video) as reader:
            memory = remember(model, reader)
            written = write_explanation(memory, reader, model.transform, video, options.top)
    if not options.quiet:
        console().print(f"written: {', '.join(map(str, written))}")
    answer = explanation_record(memory, options.top)
    print(to_json({name: answer[name] for name in ("label", "score", "is_unknown", "top_frames")}, indent=1))
    return 0
