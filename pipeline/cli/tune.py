"""The command that chooses the numbers of a model of timelines anew: tune-timeline."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.cli.endings import say_notes
from pipeline.cli.parser import (
    EXIT_SOME_FAILED,
    MODEL_HELP,
    add_data,
    add_no_clobber,
    add_options,
    config_files,
    console,
    given_settings,
    make_parser,
    read_options,
)
from pipeline.config import to_dict
from pipeline.errors import UserError
from pipeline.files.outputs import check_outputs, claimed
from pipeline.hub import local_model
from pipeline.options import TuneTimelineOptions
from pipeline.schema import to_json


def tune_timeline_command(args: Sequence[str]) -> int:
    """clipgru tune-timeline"""
    parser = make_parser(
        "tune-timeline",
        "Choose by which numbers MODEL makes segments of its scores: the shortest segment and, of labels that may "
        "overlap, the threshold of each. They stand in the model file, as after a training, and hold wherever no "
        "--timeline.* option is given. Validation videos of its data choose them, or other videos given by --data.* "
        "options; test videos are refused, and those that it was trained on left out.",
    )
    parser.add_argument("model_file", type=str, metavar="MODEL", help=f"{MODEL_HELP} Of task timeline.")
    add_data(parser)
    add_options(parser, TuneTimelineOptions)
    add_no_clobber(parser)
    arguments = parser.parse_args(list(args))
    options = read_options(TuneTimelineOptions, parser, arguments)
    arguments.model_file = local_model(arguments.model_file, output=options.output)
    output = {"--output": options.output} if options.output else {"MODEL": arguments.model_file}
    inputs = [*config_files(arguments), *([arguments.model_file] if options.output else [])]
    with claimed(output, inputs, no_clobber=arguments.no_clobber):
        return _tune(Path(arguments.model_file), arguments, options)


def _tune(model_file: Path, arguments: Any, options: TuneTimelineOptions) -> int:
    from rich.progress import Progress

    from pipeline.checkpoint import load_model_file, save_model
    from pipeline.datasets.annotations import annotation_files
    from pipeline.inference import Model, pick_device
    from pipeline.timeline_evaluation import choose_timeline_numbers
    from pipeline.unseen import rows_to_tune

    file = load_model_file(model_file, pick_device(options.device))
    if file.task != "timeline":
        raise UserError(f"{model_file} answers for clips (task clip); there are numbers for models of timelines alone")
    judged = rows_to_tune(file, given_settings(arguments, "data"))
    data, output = judged.data, Path(options.output or model_file)
    inputs = [*(row.path for row in judged.rows), *annotation_files(data.root, data.annotations)]
    check_outputs({"--output": output}, inputs)
    say_notes(judged.notes, options.quiet)
    with Progress(console=console(), disable=options.quiet or not sys.stderr.isatty()) as progress:
        task = progress.add_task("scoring", total=len({row.path for row in judged.rows}))
        model = Model(file.decoded_as(given_settings(arguments, "decode")))
        numbers, errors = choose_timeline_numbers(model, judged.rows, progress=lambda: progress.advance(task))
    for error in errors:
        console().print(f"error: {error}", style="red")
    if numbers is None:
        raise UserError(f"{judged.data.root}: nothing is known of these videos, or none can be read; name others")
    save_model(output, replace(file, timeline=numbers))
    print(to_json({"model": str(output), **to_dict(numbers)}, indent=1))
    return EXIT_SOME_FAILED if errors else 0
