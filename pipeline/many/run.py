"""``clipgru predict --engine``: many files, recorded once each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.checkpoint import ModelFile, load_model_file
from pipeline.config import to_dict
from pipeline.errors import UserError
from pipeline.files.content import file_digest
from pipeline.files.outputs import check_outputs, claimed
from pipeline.files.stopping import exit_code_of
from pipeline.many.job import FileResult, Job
from pipeline.many.journal import Journal
from pipeline.many.on_ray import run_on_ray
from pipeline.many.pool import run_pool
from pipeline.many.shards import Shard, list_facts
from pipeline.options import PredictOptions
from pipeline.prediction import find_videos
from pipeline.report.parquet import ParquetFile, import_arrow
from pipeline.report.records import OK
from pipeline.sources import distinct_names, shown_source
from pipeline.terminal import PlainConsole
from pipeline.version import __version__

_Engine = Callable[[Job, Sequence[str], int | None], Generator[FileResult, None, None]]

ENGINES: dict[str, _Engine] = {"pool": run_pool, "ray": run_on_ray}


@dataclass(frozen=True)
class _Plan:
    """The files to work on, and the outputs."""

    job: Job
    paths: Sequence[str]
    """The files of this shard, in the order of the table."""
    table: Path
    run: dict[str, Any]
    """Facts that every file's rows depend on."""
    header: dict[str, Any]
    """Metadata of the table."""


def predict_many(model_path: str, sources: Sequence[str], options: PredictOptions, console: PlainConsole) -> int:
    """Predicts the videos that the sources name, in processes, and makes one table of them: a journal of finished ones
    grows beside it, from which the same call goes on if it was killed.

    Returns:
        0; 1 if a video could not be read, or ended its process; 128 + the signal if it was interrupted.

    Raises:
        UserError: a source names nothing, the table cannot be written, or what is there belongs to another run.
    """
    if os.name != "posix":
        raise UserError(f"--engine {options.engine} needs Linux or macOS; use --engine local")
    model = load_model_file(model_path)
    pictures, note = model.sampling.num_frames == 1, None if options.quiet else console.print  # as Model.open_as has it
    allow_url = replace(model.decode, **options.decode).allow_url
    plan = _plan(model_path, model, find_videos(sources, allow_url, pictures=pictures, note=note), options)
    source = plan.job.source
    import_arrow("pyarrow.parquet")
    journal_path = plan.table.with_name(f"{plan.table.name}.journal")
    with ExitStack() as held:
        inputs = [model_path, *sources, *plan.paths]
        held.enter_context(claimed({"--parquet": plan.table}, inputs, no_clobber=options.no_clobber))
        check_outputs({"the journal": journal_path}, inputs)
        journal = held.enter_context(Journal(journal_path, plan.run))
        left = [path for path in plan.paths if not journal.is_done(path, options.retry, source(path))]
        try:
            _work(plan, left, journal, console)
        except KeyboardInterrupt as interrupt:
            num_done = sum(journal.is_done(path, retry=False, source=source(path)) for path in plan.paths)
            console.print(f"interrupted: {num_done} of {len(plan.paths)} videos done; the same command goes on")
            return exit_code_of(interrupt)
        _write_table(plan, journal)
        counts = Counter(journal.status(path) for path in plan.paths)
    if not options.quiet:
        words = ", ".join(f"{count} {status}" for status, count in sorted(counts.items(), key=lambda item: -item[1]))
        earlier = f" ({len(plan.paths) - len(left)} of them earlier)" if len(left) < len(plan.paths) else ""
        console.print(f"videos: {words or 'none'}{earlier}\nwritten: {plan.table}")
    return 1 if set(counts) - {OK} else 0


def _plan(model_path: str, model: ModelFile, videos: Sequence[Path | str], options: PredictOptions) -> _Plan:
    urls = sorted(video for video in videos if isinstance(video, str))
    addresses = dict(zip(distinct_names(map(shown_source, urls)), urls, strict=True))
    files = {str(video) for video in videos if isinstance(video, Path)}
    paths = sorted(files | addresses.keys())
    folder = "" if all(Path(path).is_absolute() for path in files) else str(Path.cwd())
    job = Job(str(Path(model_path).absolute()), file_digest(Path(model_path)), folder, options, addresses)
    # All that decides the rows. Where a file is decoded, and how long it may take, does not.
    run: dict[str, Any] = {
        "clipgru": __version__,
        "model": job.model_sha256,
        "device": options.device,
        "decode": {name: options.decode.get(name) for name in ("decoder", "stream")},
    }
    run |= {"timeline": to_dict(options.timeline)}
    run |= {f"inference.{name}": value for name, value in to_dict(options.inference).items()}
    header = {"labels": list(model.labels), "sampling": to_dict(model.sampling), "run": run}
    header |= {"videos": list_facts(paths)}
    table = Path(options.parquet or "")
    if options.shard is None:
        return _Plan(job, paths, table, run, header)
    shard = Shard.parse(options.shard)
    return _Plan(job, shard.of(paths), shard.table(table), run, header | {"shard": str(shard)})


def _work(plan: _Plan, left: Sequence[str], journal: Journal, console: PlainConsole) -> None:
    """Bring every file that is left into the journal, whatever becomes of its worker."""
    options = plan.job.options
    missing = dict.fromkeys(left)
    columns = (TextColumn("videos"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = options.quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("", total=len(plan.paths), completed=len(plan.paths) - len(left))

        def record(result: FileResult) -> None:
            if result.path not in missing:  # tried again though it was done: a node that was lost too late
                return
            journal.add(result)
            del missing[result.path]
            if result.error:
                console.print(f"error: {result.error}", style="red")
            progress.advance(task)

        if left:
            with closing(ENGINES[options.engine](plan.job, left, options.workers)) as results:
                for result in results:
                    record(result)
        for path in list(missing):
            cause = f"{path}: every process that was to work on it was lost"
            record(FileResult.of_crash(path, cause, plan.job.source(path)))


def _write_table(plan: _Plan, journal: Journal) -> None:
    table = ParquetFile(plan.table, plan.header, no_clobber=plan.job.options.no_clobber)
    try:
        for path in plan.paths:
            for row in journal.table_rows(path):
                table.add(row)
        table.close()
    finally:
        table.discard()
