"""The command that turns labelled stretches from one format into another: convert."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.cli.endings import say_notes
from pipeline.cli.parser import add_options, make_parser, read_options
from pipeline.config import DecodeConfig
from pipeline.options import ConvertOptions


def convert_command(args: Sequence[str]) -> int:
    """clipgru convert"""
    parser = make_parser(
        "convert",
        "Turn labelled stretches of long videos from one tool's format into another's. What a format cannot hold is "
        "named on standard error.",
    )
    parser.add_argument("source", type=str, metavar="IN", help="A file or a folder of labelled stretches.")
    parser.add_argument("target", type=str, metavar="OUT", help="The file to write, or the folder.")
    add_options(parser, ConvertOptions)
    parser.add_class_arguments(DecodeConfig, "decode")
    arguments = parser.parse_args(list(args))
    options, decode = read_options(ConvertOptions, parser, arguments), parser.instantiate(arguments).decode

    from pipeline.converting import convert

    say_notes(convert(Path(arguments.source), Path(arguments.target), options, decode), options.quiet)
    return 0
