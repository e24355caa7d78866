"""The command that lists what may stand as model.backbone: backbones."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipeline.cli.parser import add_options, console, make_parser, read_options
from pipeline.config import to_dict
from pipeline.options import BackbonesOptions
from pipeline.schema import to_json

_MOST_MEASURED = 40


def backbones_command(args: Sequence[str]) -> int:
    """clipgru backbones"""
    parser = make_parser(
        "backbones",
        "List the networks that may be model.backbone, and have WORD in their name: where they come from, the licence "
        "of their weights, and whether one has to accept terms for these; and, for 40 names or fewer, their parameters "
        "and the work for one picture; of a video network for the clip that it reads for each. Nothing is downloaded.",
    )
    help_text = "A part of the names, such as vit_small or dinov3; without it all."
    parser.add_argument("word", nargs="?", default="", type=str, metavar="WORD", help=help_text)
    add_options(parser, BackbonesOptions)
    arguments = parser.parse_args(list(args))
    options = read_options(BackbonesOptions, parser, arguments)

    from rich.progress import Progress

    from pipeline.models.catalogue import as_table, find_backbones, measured
    from pipeline.terminal import say

    found = find_backbones(arguments.word)
    if len(found) <= _MOST_MEASURED:
        with Progress(console=console(), transient=True, disable=options.quiet or not sys.stderr.isatty()) as progress:
            found = [measured(facts, options.input_size_px) for facts in progress.track(found, description="measuring")]
    elif not options.quiet:
        console().print(
            f"{len(found)} names: parameters and GFLOPs are told of {_MOST_MEASURED} at most; give more of the name"
        )
    say(to_json([to_dict(facts) for facts in found], indent=1) if options.json else "\n".join(as_table(found)))
    return 0
