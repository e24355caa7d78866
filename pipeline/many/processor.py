"""A file -> its rows, with one model for all files. The same code, and so the same rows, as ``clipgru predict``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.decode.remote import is_url
from pipeline.errors import UserError
from pipeline.files.content import file_digest
from pipeline.files.stopping import StopRequest
from pipeline.inference import load_model
from pipeline.many.job import FileResult, Job, identify, values_of
from pipeline.prediction import VideoRun
from pipeline.report.records import OK, RowWriter, SourceVideo, readable
from pipeline.terminal import PlainConsole


class Processor:
    """The model of a job, ready for one file after the other.

    Raises:
        UserError: there is no such model here, or it is another one.
    """

    def __init__(self, job: Job) -> None:
        model = load_model(job.model_path, job.options.device)
        if file_digest(Path(job.model_path)) != job.model_sha256:
            raise UserError(f"{job.model_path}: not the model that this run began with; begin anew with a new table")
        model.open_as(replace(model.file.decode, **job.options.decode))
        self._job, self._rows = job, _Rows()
        quiet = replace(job.options, quiet=True)
        self._run = VideoRun(model, quiet, self._rows, StopRequest(), PlainConsole(quiet=True))

    def process(self, path: str) -> FileResult:
        """A bad file gives a result with its error, and with what was seen of it.

        Raises:
            UserError: the model cannot do what the options ask for, with any file.
        """
        source = self._job.source(path)
        identity = identify(source)  # first: of a file that changes meanwhile, the bytes are not those
        self._run.predict(source if is_url(source) else Path(source), readable(path))
        return FileResult(path, self._rows.status, self._rows.error, tuple(self._rows.rows), identity)


class _Rows(RowWriter):
    """A writer that keeps the rows of the video at hand."""

    def begin_video(self, video: SourceVideo) -> None:
        super().begin_video(video)
        self.rows: list[tuple[Any, ...]] = []
        self.status, self.error = OK, ""

    def end_video(self, status: str, error: str) -> None:
        super().end_video(status, error)
        self.status, self.error = status, error

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(values_of(row))
