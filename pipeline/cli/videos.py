"""The commands that work on videos: predict, merge, webcam, check, doctor, shard, cache."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.cli.endings import say_notes
from pipeline.cli.parser import (
    MODEL_HELP,
    add_no_clobber,
    add_options,
    console,
    make_parser,
    read_experiment,
    read_options,
    read_paths,
)
from pipeline.files.lock import locked_folder
from pipeline.files.outputs import claimed
from pipeline.hub import local_model
from pipeline.options import CheckOptions, DoctorOptions, PredictOptions, ShardOptions, WebcamOptions
from pipeline.schema import to_json


def predict_command(args: Sequence[str]) -> int:
    """clipgru predict"""
    parser = make_parser("predict", "Find actions in videos: files, folders or quoted glob patterns.")
    parser.add_argument("model", type=str, metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "sources",
        nargs="+",
        type=str,
        metavar="SOURCE",
        help="Video files, folders, quoted patterns, .txt lists, .csv or .jsonl manifests, other tools' labels; "
        "addresses with --decode.allow_url true.",
    )
    add_options(parser, PredictOptions)
    arguments = parser.parse_args(list(args))
    options = read_options(PredictOptions, parser, arguments)
    arguments.model = local_model(arguments.model)

    from pipeline.prediction import passed_over

    say_notes(passed_over(arguments.sources), options.quiet)
    if options.engine != "local":
        from pipeline.many.run import predict_many

        return predict_many(arguments.model, arguments.sources, options, console())
    # Before the model loads, so that of two runs at the same moment the second knows at once.
    with claimed(options.files(), [arguments.model, *arguments.sources], no_clobber=options.no_clobber):
        from pipeline.inference import load_model
        from pipeline.prediction import find_videos, predict_files

        model = load_model(arguments.model, options.device)
        model.open_as(replace(model.file.decode, **options.decode))
        pictures, note = model.opener.opens_pictures, None if options.quiet else console().print
        videos = find_videos(arguments.sources, model.opener.config.allow_url, pictures=pictures, note=note)
        return predict_files(model, videos, options, console(), inputs=[arguments.model, *arguments.sources])


def merge_command(args: Sequence[str]) -> int:
    """clipgru merge"""
    parser = make_parser(
        "merge",
        "Join the tables that clipgru predict --shard 1/N ... N/N --parquet TABLE made, into TABLE: the one that a "
        "run without --shard would have made. Refused unless all are there, of one run over the same list of videos.",
    )
    parser.add_argument("table", type=str, help="The Parquet file, as --parquet named it.")
    add_no_clobber(parser)
    arguments = parser.parse_args(list(args))
    table = Path(arguments.table)

    from pipeline.many.shards import find_shards, merge_shards
    from pipeline.terminal import say

    with claimed({"the table": table}, find_shards(table), no_clobber=arguments.no_clobber):
        say(f"{table}: {merge_shards(table)} videos")
    return 0


def webcam_command(args: Sequence[str]) -> int:
    """clipgru webcam"""
    parser = make_parser(
        "webcam",
        "Find actions live, in cameras, network streams, or files that play the part of a camera (--replay). Several "
        "sources share one model.",
    )
    parser.add_argument("model", type=str, metavar="MODEL", help=MODEL_HELP)
    help_text = "Camera index, device path, RTSP or HTTP URL, or with --replay a file; none: camera 0."
    parser.add_argument("sources", nargs="*", type=str, metavar="SOURCE", help=help_text)
    add_options(parser, WebcamOptions)
    add_no_clobber(parser)
    arguments = parser.parse_args(list(args))
    options = read_options(WebcamOptions, parser, arguments)
    arguments.model = local_model(arguments.model)

    # FFmpeg's own words would mix with ours. Read when OpenCV first opens something.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    from pipeline.streaming.sources import parse_sources

    sources = parse_sources(arguments.sources or ["0"], options.replay, options.fast, options.name)
    with claimed({"--stats": options.stats}, [arguments.model, *arguments.sources], no_clobber=arguments.no_clobber):
        from pipeline.inference import load_model
        from pipeline.streaming.webcam import run_webcam

        model = load_model(arguments.model, options.device)
        model.open_as(replace(model.file.decode, **options.decode))
        return run_webcam(model, sources, options, console())


def check_command(args: Sequence[str]) -> int:
    """clipgru check"""
    parser = make_parser(
        "check",
        "Decode videos from end to end and tell which are usable, degraded or unusable, and why. A PATH is a video, a "
        "folder, a manifest (.csv, .jsonl) or another tool's labels, an experiment config (.yaml), or a folder or .zip "
        "of pictures. Exits with 1 if anything cannot be used.",
    )
    paths, options, config, no_clobber = read_paths(CheckOptions, parser, args)

    from pipeline.check import run_check
    from pipeline.found import find

    found, outputs = find(paths, config.allow_url), {"--json": options.json, "--csv": options.csv}
    with claimed(outputs, [*paths, *found.files, *found.tables], no_clobber=no_clobber):
        return run_check(paths, options, config, console())


def doctor_command(args: Sequence[str]) -> int:
    """clipgru doctor"""
    parser = make_parser(
        "doctor",
        "Measure every installed decoder on your own files, against a plain sequential decode, and print which to use "
        "as lines for the config. A PATH is as for check. Exits with 1 if a file cannot be read.",
    )
    paths, options, config, no_clobber = read_paths(DoctorOptions, parser, args)

    from pipeline.doctor import run_doctor
    from pipeline.found import find

    found = find(paths)
    with claimed({"--json": options.json}, [*paths, *found.files, *found.tables], no_clobber=no_clobber):
        return run_doctor(paths, options, config, console())


def shard_command(args: Sequence[str]) -> int:
    """clipgru shard"""
    parser = make_parser(
        "shard",
        "Pack the videos of CONFIG's data into tar files of the WebDataset layout, with their splits and groups. Train "
        "on them with --data.format shards --data.root OUTPUT; the results are the same.",
    )
    parser.add_argument("config", type=str, metavar="CONFIG", help="An experiment's YAML file.")
    add_options(parser, ShardOptions)
    arguments = parser.parse_args(list(args))
    options = read_options(ShardOptions, parser, arguments)
    experiment = read_experiment(Path(arguments.config))

    from dataclasses import asdict

    from rich.progress import Progress

    from pipeline.datasets.formats import read_annotations
    from pipeline.datasets.shards import write_shards

    annotations = read_annotations(experiment.data, experiment.timeline_targets)
    num_videos = len({row.path for rows in annotations.splits.values() for row in rows})
    hidden = options.quiet or not sys.stderr.isatty()
    with locked_folder(Path(options.output)), Progress(console=console(), disable=hidden) as progress:
        task = progress.add_task("packing", total=num_videos)
        packed = write_shards(
            annotations,
            Path(options.output),
            options.shard_mb * 1_000_000,
            experiment.seed,
            lambda: progress.advance(task),
        )
    print(to_json({"folder": options.output} | asdict(packed), indent=1))
    return 0


def cache_command(args: Sequence[str]) -> int:
    """clipgru cache"""
    parser = make_parser("cache", "What the caches of frames, features and indexes hold (info), or empty them (clear).")
    parser.add_argument("action", choices=("info", "clear"), help="info or clear.")
    parser.add_argument("--cache_dir", type=str, default=None, help="As data.cache_dir of the config.")
    arguments = parser.parse_args(list(args))

    from pipeline.decode.cache import index_store
    from pipeline.files.cache import Store, cache_folder
    from pipeline.terminal import say

    verb = "removed" if arguments.action == "clear" else "holds"
    for store in (Store(cache_folder(arguments.cache_dir), max_bytes=0), index_store()):
        sizes = [status.st_size for _, status in store.entries()]
        if arguments.action == "clear":
            store.clear()
        say(f"{store.folder or 'no home folder'}: {verb} {len(sizes)} entries, {sum(sizes) / 1e9:.3f} GB")
    return 0
