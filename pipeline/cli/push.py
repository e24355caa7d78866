"""The command that puts a model file on the Hugging Face hub: push."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.cli.endings import say_notes
from pipeline.cli.parser import add_no_clobber, add_options, make_parser, read_options
from pipeline.files.outputs import claimed
from pipeline.options import PushOptions
from pipeline.schema import to_json


def push_command(args: Sequence[str]) -> int:
    """clipgru push"""
    parser = make_parser(
        "push",
        "Put MODEL on the Hugging Face hub as OWNER/NAME, with its SHA-256 and a card of what its file and the run "
        "folder beside it say. The file goes as it is: its settings name folders, and it lists its training videos. "
        "Needs a token that may write: hf auth login, or HF_TOKEN.",
    )
    parser.add_argument("model_file", type=str, metavar="MODEL", help="A model file.")
    parser.add_argument("name", type=str, metavar="OWNER/NAME", help="The repository; made if it is not there.")
    add_options(parser, PushOptions)
    add_no_clobber(parser)
    arguments = parser.parse_args(list(args))
    options = read_options(PushOptions, parser, arguments)
    path = Path(arguments.model_file)
    with claimed({"--card_only": options.card_only}, [path], no_clobber=arguments.no_clobber):
        from pipeline.files.writing import write_atomically
        from pipeline.publishing.push import make_parcel, push_parcel

        parcel = make_parcel(path, arguments.name, options.revision, options.licence)
        say_notes(parcel.card.notes, options.quiet)
        if options.card_only:
            write_atomically(Path(options.card_only), parcel.card.text)
            return 0
        print(to_json(push_parcel(parcel, private=options.private), indent=1))
    return 0
