"""The command line: parse, wire the stages together, print. No stage knows of it.

Help is made from the config dataclasses and imports nothing heavy; each command imports its stages when it runs.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import docstring_parser
import jsonargparse
import yaml

from pipeline.config import DataConfig, DecodeConfig, Experiment
from pipeline.errors import UserError, unknown_name
from pipeline.options import CheckOptions, DemoOptions, DoctorOptions, EvaluateOptions, PredictOptions, TrainOptions
from pipeline.version import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.evaluation import Evaluation

EXIT_SOME_FAILED, EXIT_USER_ERROR = 1, 2

DESCRIPTION = """Video action recognition with a CNN and a convolutional GRU.

commands:
  train      train a model on videos, write one self-describing model file
  evaluate   measure a model on held-out videos, or run a whole protocol over folds
  predict    find actions in video files
  check      what is wrong with videos and annotations, before a training finds out
  doctor     which decoder to use for your files, measured on them
  demo       all of it on a small generated video set, in a few minutes

"""


class Parser(jsonargparse.ArgumentParser):
    """jsonargparse's parser with one-screen errors: what is wrong and where to look, not the whole usage."""

    def parse_args(self, args: Any = None, **settings: Any) -> Any:  # type: ignore[override]
        """As jsonargparse does, after a look at the config files."""
        for place, word in enumerate(args):
            if word == "--config" and place + 1 < len(args):
                _check_config_file(Path(args[place + 1]))
            elif word.startswith("--config="):
                _check_config_file(Path(word.removeprefix("--config=")))
        return super().parse_args(args, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what ``main`` prints, with a guess at what was meant."""
        known = {text.removeprefix("--") for action in self._actions for text in action.option_strings}
        known |= {name.rpartition(".")[2] for name in known}
        words = re.findall(r"--([\w.]+)|option '([\w.]+)'", message)
        close = [match for pair in words for word in pair for match in get_close_matches(word, sorted(known), n=1)]
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise UserError(f"{message.strip()}.{guess}\nSee {self.prog} --help")


def _check_config_file(path: Path) -> None:
    """Wrong YAML and unknown sections, with the file's name; the rest is checked with the command line's settings."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    known = [item.name for item in fields(Experiment)]
    for name in content if isinstance(content, dict) else ():
        if name not in known:
            raise unknown_name(f"section in {path}:", str(name), known)


def _parser(command: str, description: str) -> Parser:
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    return Parser(prog=f"clipgru {command}", description=description, exit_on_error=True)


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def _experiment(parser: Parser, arguments: Any) -> Experiment:
    groups = set(Experiment.__dataclass_fields__)
    instantiated = parser.instantiate(arguments)
    return Experiment(**{name: instantiated[name] for name in groups})


def read_experiment(path: Path) -> Experiment:
    """The experiment that a YAML file describes.

    Raises:
        UserError: the file is missing, or a key or value in it is wrong.
    """
    parser = _parser("train", "")
    _add_experiment(parser)
    return _experiment(parser, parser.parse_args(["--config", str(path)]))


def _add_experiment(parser: Parser) -> None:
    parser.add_argument("--config", action="config", help="A YAML file with any of these settings; configs/ has some.")
    parser.add_class_arguments(Experiment, None)


def _add_options(parser: Parser, options_type: type[Any]) -> None:
    """The fields of an options dataclass; a boolean one is a bare flag (``--quiet``)."""
    flags = {item.name for item in fields(options_type) if item.type == "bool"}
    parser.add_class_arguments(options_type, None, skip=flags)
    texts = {text.arg_name: text.description for text in docstring_parser.parse_from_object(options_type).params}
    for name in sorted(flags):
        parser.add_argument(f"--{name}", action="store_true", help=texts[name])


def _options(options_type: type[Any], parser: Parser, arguments: Any) -> Any:
    instantiated = parser.instantiate(arguments)
    return options_type(**{name: instantiated[name] for name in options_type.__dataclass_fields__})


def train_command(args: Sequence[str]) -> int:
    """clipgru train"""
    parser = _parser("train", "Train a model on videos. The model file and all logs go to <output_dir>/<name>.")
    _add_experiment(parser)
    _add_options(parser, TrainOptions)
    arguments = parser.parse_args(list(args))
    experiment, options = _experiment(parser, arguments), _options(TrainOptions, parser, arguments)

    from pipeline.training.callbacks import Interrupted
    from pipeline.training.fit import train

    try:
        result = train(experiment, resume=options.resume, quiet=options.quiet)
    except Interrupted as interrupted:
        print(f"clipgru train: {interrupted}", file=sys.stderr)
        return 128 + interrupted.signal_number
    print(json.dumps({"model": str(result.model_path), **_rounded(result.metrics)}, indent=1))
    return 0


def evaluate_command(args: Sequence[str]) -> int:
    """clipgru evaluate"""
    parser = _parser(
        "evaluate",
        "Measure MODEL on the test videos of the data it was trained on, or of other data given by --data.* options. "
        "With --protocol instead of MODEL: train and test each fold of an experiment.",
    )
    # Not "model": that is the group of the architecture's settings.
    help_text = "A model file; leave it out with --protocol."
    parser.add_argument("model_file", nargs="?", type=str, metavar="MODEL", help=help_text)
    _add_experiment(parser)
    _add_options(parser, EvaluateOptions)
    arguments = parser.parse_args(list(args))
    options = _options(EvaluateOptions, parser, arguments)
    if bool(arguments.model_file) == bool(options.protocol):
        raise UserError("clipgru evaluate needs either a MODEL file or --protocol with --config; see --help")
    if options.protocol:
        return _evaluate_protocol(_experiment(parser, arguments), options)
    given = parser.parse_args(list(args), defaults=False)
    return _evaluate_model(arguments.model_file, given.get("data"), options)


def _evaluate_model(model_path: str, given_data: Any, options: EvaluateOptions) -> int:
    from rich.progress import Progress

    from pipeline.checkpoint import load_model_file
    from pipeline.datasets.datamodule import make_splits, read_annotations
    from pipeline.evaluation import evaluate_model
    from pipeline.inference import pick_device

    model = load_model_file(model_path, pick_device(options.device))
    trained_as = model.provenance.get("experiment", {})
    overrides = given_data.as_dict() if given_data else {}
    data = DataConfig(**(trained_as.get("data", {}) | overrides))
    annotations = read_annotations(data)
    if options.split == "all":
        rows: Sequence[Any] = [row for part in annotations.splits.values() for row in part]
    else:
        rows = getattr(make_splits(annotations, data, trained_as.get("seed", 0)), options.split)
    with Progress(console=_console(), disable=options.quiet or not sys.stderr.isatty()) as progress:
        task = progress.add_task("evaluating", total=len(rows))
        evaluation = evaluate_model(
            model, rows, data, num_clips=options.clips, progress=lambda n: progress.advance(task, n)
        )
    folder = Path(options.output) if options.output else Path(model_path).parent / f"evaluation_{options.split}"
    _report_evaluation(evaluation, folder, evaluation.summary(), options.quiet)
    return EXIT_SOME_FAILED if evaluation.num_errors else 0


def _evaluate_protocol(experiment: Experiment, options: EvaluateOptions) -> int:
    from pipeline.protocols import ProtocolResult, run_protocol
    from pipeline.training.callbacks import Interrupted

    console, folds = _console(), []
    assert options.protocol is not None
    try:
        for fold in run_protocol(experiment, options.protocol, quiet=options.quiet):
            folds.append(fold)
            if not options.quiet:
                so_far = ProtocolResult(tuple(folds)).whole
                console.print(f"fold {len(folds)}: top-1 {fold.top1:.3f}   so far {so_far.top1:.3f}")
    except Interrupted as interrupted:
        print(f"clipgru evaluate: {interrupted}; the same command goes on with this fold", file=sys.stderr)
        return 128 + interrupted.signal_number
    result = ProtocolResult(tuple(folds))
    folder = Path(options.output) if options.output else experiment.run_dir / "evaluation"
    _report_evaluation(result.whole, folder, result.summary(), options.quiet)
    return EXIT_SOME_FAILED if result.whole.num_errors else 0


def _report_evaluation(evaluation: Evaluation, folder: Path, summary: dict[str, float], quiet: bool) -> None:
    from pipeline.evaluation import write_evaluation

    written = write_evaluation(evaluation, folder, summary)
    if not quiet:
        _print_classes(evaluation)
        _console().print(f"written: {', '.join(map(str, written))}", soft_wrap=True)
    print(json.dumps(_rounded(summary), indent=1))


def _print_classes(evaluation: Evaluation) -> None:
    from rich.table import Table

    table = Table("class", "videos", "right", "recall")
    for label, recall in evaluation.class_recall.items():
        count = sum(result.label == label for result in evaluation.results)
        shown = "-" if recall is None else f"{recall:.1%}"
        table.add_row(label, str(count), str(round((recall or 0) * count)), shown)
    table.add_row("all", str(evaluation.num_videos), "", f"{evaluation.top1:.1%}", style="bold")
    _console().print(table)


def predict_command(args: Sequence[str]) -> int:
    """clipgru predict"""
    parser = _parser("predict", "Find actions in videos. A SOURCE is a video file, a folder or a quoted glob pattern.")
    parser.add_argument("model", type=str, help="A model file.")
    parser.add_argument("sources", nargs="+", type=str, metavar="source", help="Video files, folders or patterns.")
    _add_options(parser, PredictOptions)
    arguments = parser.parse_args(list(args))
    options = _options(PredictOptions, parser, arguments)

    from pipeline.inference import load_model
    from pipeline.prediction import find_videos, predict_files

    videos = find_videos(arguments.sources)
    return predict_files(load_model(arguments.model, options.device), videos, options, _console())


def _read_paths(options_type: type[Any], parser: Parser, args: Sequence[str]) -> tuple[list[str], Any, DecodeConfig]:
    """What the commands that look at files are given: the paths, their options and how to decode."""
    parser.add_argument("paths", nargs="+", type=str, metavar="path", help="Videos, folders, manifests or configs.")
    _add_options(parser, options_type)
    parser.add_class_arguments(DecodeConfig, "decode")
    arguments = parser.parse_args(list(args))
    return arguments.paths, _options(options_type, parser, arguments), parser.instantiate(arguments).decode


def check_command(args: Sequence[str]) -> int:
    """clipgru check"""
    parser = _parser(
        "check",
        "Decode videos from end to end and tell which are usable, degraded or unusable, and why. A PATH is a video, a "
        "folder, a manifest (.csv, .jsonl) or an experiment config (.yaml). Exits with 1 if anything cannot be used.",
    )
    paths, options, config = _read_paths(CheckOptions, parser, args)

    from pipeline.check import run_check

    return run_check(paths, options, config, _console())


def doctor_command(args: Sequence[str]) -> int:
    """clipgru doctor"""
    parser = _parser(
        "doctor",
        "Measure every installed decoder on your own files, against a plain sequential decode, and print which to use "
        "as lines for the config. A PATH is as for check. Exits with 1 if a file cannot be read.",
    )
    paths, options, config = _read_paths(DoctorOptions, parser, args)

    from pipeline.doctor import run_doctor

    return run_doctor(paths, options, config, _console())


def demo_command(args: Sequence[str]) -> int:
    """clipgru demo"""
    parser = _parser("demo", "Make the motion set, train ConvGRU and frame average on it, find actions in long videos.")
    _add_options(parser, DemoOptions)
    options = _options(DemoOptions, parser, parser.parse_args(list(args)))

    from pipeline.demo import run_demo

    run_demo(options, _console())
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train_command,
    "evaluate": evaluate_command,
    "predict": predict_command,
    "check": check_command,
    "doctor": doctor_command,
    "demo": demo_command,
}


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code: 0 done, 1 some videos failed, 2 wrong input, 130/143 stopped."""
    args = sys.argv[1:] if args is None else args
    # torch's threads share the cores with the processes that decode. Threads that spin while they wait take the time
    # from those they wait for: the head's step was 2 to 8 times slower beside one busy process. Read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not args or args[0] in ("-h", "--help"):
        print(
            f"usage: clipgru [-h] [--version] COMMAND ...\n\n{DESCRIPTION}\nclipgru COMMAND --help tells the options."
        )
        return 0 if args else EXIT_USER_ERROR
    if args[0] == "--version":
        print(f"clipgru {__version__}")
        return 0
    try:
        if args[0] not in COMMANDS:
            raise unknown_name("command", args[0], COMMANDS)
        return COMMANDS[args[0]](args[1:])
    except UserError as error:
        print(f"clipgru: error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away (clipgru ... | head): nothing to tell, nobody to tell it to
        return EXIT_SOME_FAILED


def console_main() -> NoReturn:
    """Entry point of the installed command."""
    sys.exit(main())


if __name__ == "__main__":
    console_main()
