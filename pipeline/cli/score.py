"""The command that measures predictions of any origin: score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.cli.endings import say_notes
from pipeline.cli.parser import add_options, make_parser, read_options
from pipeline.options import ScoreOptions
from pipeline.schema import to_json


def score_command(args: Sequence[str]) -> int:
    """clipgru score"""
    parser = make_parser(
        "score",
        "Measure predicted timelines, of any origin, as the published tools do: frames, segments, detection, spotting, "
        "delay and false alarms, each with a 95 % interval over videos.",
    )
    help_text = "Predictions: files or folders, which together have each video once."
    parser.add_argument("predictions", nargs="+", type=str, metavar="PREDICTIONS", help=help_text)
    parser.add_argument("truth", type=str, metavar="TRUTH", help="The truth: a file or a folder.")
    add_options(parser, ScoreOptions)
    arguments = parser.parse_args(list(args))
    options = read_options(ScoreOptions, parser, arguments)

    from pipeline.scoring import score_files
    from pipeline.terminal import say

    score = score_files([Path(path) for path in arguments.predictions], Path(arguments.truth), options)
    say_notes(score.notes, options.quiet)
    say(to_json(score.summary(), indent=1) if options.json else "\n".join(score.lines()))
    return 0
