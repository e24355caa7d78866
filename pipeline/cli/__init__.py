"""The command line: parse, wire the stages together, print. No stage knows of it.

Help is made from the config dataclasses and imports nothing heavy; each command imports its stages when it runs.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.cli.backbones import backbones_command
from pipeline.cli.convert import convert_command
from pipeline.cli.evaluate import evaluate_command
from pipeline.cli.export import export_command
from pipeline.cli.insight import diagnose_command, explain_command, explain_sampling_command
from pipeline.cli.label import label_command
from pipeline.cli.models import (
    demo_command,
    learn_command,
    report_command,
    train_command,
)
from pipeline.cli.parser import EXIT_SOME_FAILED, EXIT_USER_ERROR
from pipeline.cli.push import push_command
from pipeline.cli.score import score_command
from pipeline.cli.tune import tune_timeline_command
from pipeline.cli.videos import (
    cache_command,
    check_command,
    doctor_command,
    merge_command,
    predict_command,
    shard_command,
    webcam_command,
)
from pipeline.errors import UserError, unknown_name
from pipeline.files.failures import reason_of
from pipeline.files.stopping import Interrupted, exit_code_of
from pipeline.machine import core_quota, keep_freed_memory, num_cores
from pipeline.sources import shown_source, shown_text
from pipeline.version import __version__

_DESCRIPTION = """Video action recognition with an image network and a convolutional GRU.

commands:
  train      train a model on videos, write one self-describing model file
  learn      a model from a few short videos a class, or from a labelled folder, in a minute or two
  label      label long videos in the browser, learn in seconds, correct, learn again
  evaluate   measure a model on held-out videos, or run a whole protocol over folds
  tune-timeline   choose thresholds and the shortest segment of a model of timelines anew
  score      measure predicted timelines, of any origin, against the truth
  convert    labelled stretches from one tool's format to another's
  diagnose   does a model use time, and where is it wrong
  report     make the page of a run anew, or one that compares two runs
  predict    find actions in video files
  merge      join the tables of predict --shard
  webcam     find actions live: cameras, network streams, replayed files
  export     a model as ONNX files that run without torch
  push       a model file to the Hugging Face hub, with a card; hf://owner/name opens it
  check      what is wrong with videos and annotations, before a training finds out
  explain    what a model writes into its memory, and the frames that decided
  explain-sampling   draw exactly the frames that a model sees
  backbones  networks that can look at the frames, with parameters, work, licence
  doctor     which decoder to use for your files, measured on them
  shard      pack a dataset into tar files, for disks that are slow with small ones
  cache      how much the caches of frames, features and indexes hold; empty them
  demo       all of it on a small generated video set, in a few minutes

"""


# What torch reads when it loads; whoever starts us may have set them otherwise.
ENVIRONMENT = {
    # torch's threads share the cores with the processes that decode. Threads that spin while they wait take the time
    # from those they wait for: the head's step was 2 to 8 times slower beside one busy process.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Large tensors from large pages: every operation on 32 frames of 224x224 takes fresh memory, and half of the
    # backbone's time went into mapping it page by page (24 against 11 ms a frame).
    "THP_MEM_ALLOC_ENABLE": "1",
}

_TRAINING_COMMANDS = frozenset({"train", "learn", "evaluate", "demo"})  # evaluate trains the folds of a protocol

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train_command,
    "learn": learn_command,
    "label": label_command,
    "evaluate": evaluate_command,
    "tune-timeline": tune_timeline_command,
    "score": score_command,
    "convert": convert_command,
    "diagnose": diagnose_command,
    "report": report_command,
    "predict": predict_command,
    "merge": merge_command,
    "webcam": webcam_command,
    "export": export_command,
    "push": push_command,
    "check": check_command,
    "backbones": backbones_command,
    "doctor": doctor_command,
    "explain": explain_command,
    "explain-sampling": explain_sampling_command,
    "shard": shard_command,
    "cache": cache_command,
    "demo": demo_command,
}


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code: 0 done, 1 some videos failed, 2 wrong input or no room on the disk,
    128 + the signal: stopped."""
    args = sys.argv[1:] if args is None else args
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if core_quota() is not None:  # torch counts the machine's cores, and too many threads wait for one another
        os.environ.setdefault("OMP_NUM_THREADS", str(num_cores()))
    try:
        code = _run(args)
        sys.stdout.flush()
    except UserError as error:
        return _end_with(_without_secrets(str(error), args))
    except KeyboardInterrupt as interrupt:
        code = exit_code_of(interrupt)
        return _end_with(f"stopped by {signal.Signals(code - 128).name}", code, f"clipgru {args[0]}")
    except Interrupted as interrupted:
        return _end_with(str(interrupted), 128 + interrupted.signal_number, f"clipgru {args[0]}")
    except BrokenPipeError:  # the reader went away (clipgru ... | head): nothing to tell, nobody to tell it to
        _flush_or_let_go()
        return EXIT_SOME_FAILED
    except OSError as error:
        _flush_or_let_go()
        message = f"{error.filename}: {reason_of(error)}" if error.filename else reason_of(error)
        return _end_with(_without_secrets(message, args))
    return code


def _run(args: Sequence[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(
            f"usage: clipgru [-h] [--version] COMMAND ...\n\n{_DESCRIPTION}\nclipgru COMMAND --help tells the options."
        )
        return 0 if args else EXIT_USER_ERROR
    if args[0] == "--version":
        print(f"clipgru {__version__}")
        return 0
    if args[0] not in COMMANDS:
        raise unknown_name("command", args[0], COMMANDS)
    if args[0] in _TRAINING_COMMANDS:
        keep_freed_memory()
    return COMMANDS[args[0]](args[1:])


def _without_secrets(message: str, args: Sequence[str]) -> str:
    """The message without what may be a password in words of the command line that it repeats: any may be an address,
    and one that no option took is perhaps another source. Files, such as a config, may have brought more."""
    is_unknown = "unrecognized arguments" in message
    for word in sorted(args, key=len, reverse=True):
        value = word.partition("=")[2] if word.startswith("-") else word
        if value and (is_unknown or re.search(r"[\w.+-]{2,}:/|\w:.*@|[?;#=]", value)) and not os.path.exists(value):
            path = Path(value)  # of which an error may name a folder
            for form in (value, str(path), *(str(folder) for folder in path.parents if "@" in str(folder))):
                message = message.replace(form, shown_source(value))
    return shown_text(message)


def _end_with(message: str, code: int = EXIT_USER_ERROR, prefix: str = "clipgru: error") -> int:
    from pipeline.terminal import say

    indented = message.replace("\n", "\n  ")  # a line end in somebody's file name begins no line of ours
    say(f"{prefix}: {indented}", sys.stderr)
    return code


def _flush_or_let_go() -> None:
    """Flush standard output, or replace it by the null device if it takes nothing: it would be tried again, and an
    error printed, when the process ends."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
