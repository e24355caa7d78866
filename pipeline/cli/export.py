"""The command that turns a model file into files for other runtimes: export."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.endings import say_notes
from pipeline.cli.parser import (
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
from pipeline.files.outputs import check_outputs, files_in
from pipeline.hub import local_model
from pipeline.options import ExportOptions
from pipeline.schema import to_json

if TYPE_CHECKING:
    from pipeline.checkpoint import ModelFile
    from pipeline.export.files import Int8Data
    from pipeline.export.outcome import Exported


_PARTS = ("backbone", "clip", "step")


def export_command(args: Sequence[str]) -> int:
    """clipgru export"""
    parser = make_parser(
        "export",
        "Write MODEL as ONNX files that clipgru predict, clipgru webcam and other programs run without torch. With "
        "--int8 the data is that of the training, or other data given by --data.* options.",
    )
    parser.add_argument("model_file", type=str, metavar="MODEL", help=MODEL_HELP)
    add_data(parser)
    add_options(parser, ExportOptions)
    add_no_clobber(parser)
    arguments = parser.parse_args(list(args))
    options = read_options(ExportOptions, parser, arguments)
    model = Path(local_model(arguments.model_file, output=options.output))
    folder = Path(options.output) if options.output else model.parent
    names = [f"{model.stem}{kind}.{part}.{end}" for kind, part, end in product(("", ".int8"), _PARTS, ("onnx", "pt2"))]
    check_outputs(files_in(folder, names), [model, *config_files(arguments)], no_clobber=arguments.no_clobber)
    exported = FORMATS[options.format](model, arguments, options)
    if not options.quiet:
        console().print(f"written: {', '.join(map(str, exported.paths))}")
    summary: dict[str, Any] = {"written": [str(path) for path in exported.paths], "differences": exported.differences}
    print(to_json(summary | ({"int8": exported.cost} if exported.cost else {}), indent=1))
    return 0


def _export_onnx(path: Path, arguments: Any, options: ExportOptions) -> Exported:
    from rich.progress import Progress

    from pipeline.inference.onnx_file import import_onnx

    import_onnx()  # before anything that takes long
    from pipeline.checkpoint import load_model_file
    from pipeline.export.files import export_onnx

    file = load_model_file(path).decoded_as(given_settings(arguments, "decode"))
    stem = (Path(options.output) if options.output else path.parent) / path.stem
    if not file.recognizer.temporal.streams and not options.quiet:
        num_frames = file.sampling.num_frames
        note = f"this model is bidirectional: there is no streaming step, and clips have {num_frames} frames"
        console().print(f"note: {note}")
    if not options.int8:
        return export_onnx(file, stem)
    with Progress(console=console(), disable=options.quiet or not sys.stderr.isatty()) as progress:
        task = progress.add_task("measuring int8")
        int8 = _int8_data(file, arguments, options, lambda count: progress.advance(task, count))
        num_answered = len(int8.rows if file.task == "clip" else {row.source for row in int8.rows})
        progress.update(task, total=2 * num_answered)
        return export_onnx(file, stem, int8)


def _int8_data(file: ModelFile, arguments: Any, options: ExportOptions, progress: Callable[[int], None]) -> Int8Data:
    from pipeline.export.files import Int8Data
    from pipeline.unseen import rows_to_judge

    given_data = given_settings(arguments, "data")
    judged = rows_to_judge(file, given_data, options.split)
    say_notes(judged.notes, options.quiet)
    calibration = judged if options.split == "all" else rows_to_judge(file, given_data, "train")
    return Int8Data(calibration.rows, options.calibration_clips, judged.rows, judged.data, progress)


def _export_programs(path: Path, arguments: Any, options: ExportOptions) -> Exported:
    from pipeline.checkpoint import load_model_file
    from pipeline.export.programs import export_programs

    file = load_model_file(path)
    if not options.quiet:
        note = (
            f"the clip has {file.sampling.num_frames} frames, since torch.export unrolls time; the step has any number"
        )
        console().print(f"note: {note}")
    stem = (Path(options.output) if options.output else path.parent) / path.stem
    return export_programs(file, stem)


# format -> (model file, parsed arguments, options) -> what was written
FORMATS: dict[str, Callable[[Path, Any, ExportOptions], Exported]] = {
    "onnx": _export_onnx,
    "torch": _export_programs,
}
