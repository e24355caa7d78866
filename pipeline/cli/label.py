"""The command that labels: label."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.cli.parser import add_options, console, make_parser, read_options
from pipeline.options import LabelOptions


def label_command(args: Sequence[str]) -> int:
    """clipgru label"""
    parser = make_parser(
        "label",
        "Label the long videos of FOLDER on a page in the browser: exact pictures, a timeline, drafts of a model that "
        "learns from your labels in seconds. Saved after every change in FOLDER/manifest.csv, the manifest of task "
        "timeline.",
    )
    parser.add_argument("folder", type=str, metavar="FOLDER", help="The folder that holds the videos.")
    add_options(parser, LabelOptions)
    arguments = parser.parse_args(list(args))
    options = read_options(LabelOptions, parser, arguments)

    from pipeline.datasets.annotations import local_folder
    from pipeline.labelling.command import run_label

    return run_label(local_folder(arguments.folder), options, console())
