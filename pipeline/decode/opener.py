"""``VideoOpener``: opens one video after the other as the decode settings say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.buckets import BucketPath, is_bucket_address, source_path
from pipeline.config import DecodeConfig
from pipeline.decode.cache import index_store
from pipeline.decode.decoders import check_decoder, open_here
from pipeline.decode.health import Examination, examine
from pipeline.decode.isolated import DecodingProcess, IsolatedBackend, IsolatedFile, examine_isolated
from pipeline.decode.picture import is_picture, open_picture
from pipeline.decode.reader import VideoReader
from pipeline.decode.remote import check_object, fetch, fetch_object, is_url
from pipeline.decode.unpacked import unpack
from pipeline.errors import DecodeError, UserError
from pipeline.files.content import FilePart


class VideoOpener:
    """Opens videos with one set of settings. With ``isolate`` it starts decoding processes as they are needed, one for
    each reader that is open at the time, and keeps them for the next files until it is closed or forgotten. Threads may
    share it.

    It may be copied into other processes, by pickling or a fork, and starts processes of its own there; readers may
    not.

    Args:
        config: the settings.
        opens_pictures: a single picture is a video of one frame, instead of being refused. The limits hold for it too,
            but it is decoded in this process.

    Raises:
        UserError: the settings name an unknown decoder.
    """

    def __init__(self, config: DecodeConfig, *, opens_pictures: bool = False) -> None:
        check_decoder(config.decoder)
        if config.index_cache:
            index_store().check()
        self.config, self.opens_pictures = config, opens_pictures
        self._idle: list[DecodingProcess] = []

    def open(self, path: str | Path | FilePart) -> VideoReader:
        """A reader, to be used in a ``with`` statement. Raises as ``open_video``; a file that hangs or crashes the
        decoder raises ``DecodeError`` if the decoder is isolated.

        Args:
            path: a regular file, or a part of one, or with ``allow_url`` an http or https address, as a text, or one of
                an object in a bucket, which may be a ``BucketPath``.
        """
        if isinstance(path, FilePart):
            return self._open_temporary(path.name, partial(unpack, path))
        if isinstance(path, str) and self.config.allow_url and is_url(path):
            if not is_bucket_address(path):
                return self._open_temporary(path, partial(fetch, path, config=self.config))
            path = source_path(path)
        if isinstance(path, BucketPath):
            return self._open_object(path.opened(self.config.timeout_seconds))
        return self._open_file(Path(path), self.config)

    def _open_object(self, path: BucketPath) -> VideoReader:
        """Open an object of a bucket by ranges, if the decoder can, else what is fetched of it."""
        self._check_allowed(path)
        if self._needs_file(path):
            return self._open_temporary(path, partial(fetch_object, path, config=self.config))
        check_object(path, self.config)
        return self._open_file(path, replace(self.config, index_cache=False))

    def _needs_file(self, path: BucketPath) -> bool:
        return self.config.isolate or self.config.decoder != "pyav" or (self.opens_pictures and is_picture(path))

    def _check_allowed(self, path: BucketPath) -> None:
        if not self.config.allow_url:
            raise DecodeError(path, "open", "in a bucket, and only local files are read; set decode.allow_url true")

    def _open_temporary(self, name: str | Path, bring: Callable[[Path], Path]) -> VideoReader:
        """Open what ``bring`` puts into a folder, which is there for as long as the reader is open."""
        with ExitStack() as stack:
            path = bring(Path(stack.enter_context(TemporaryDirectory(prefix="clipgru-"))))
            # Its path never comes again: there is nothing to keep an index for.
            try:
                reader = self._open_file(path, replace(self.config, index_cache=False))
            except DecodeError as error:
                raise DecodeError(name, error.stage, error.cause) from error
            return reader.when_closed(stack.pop_all().close)

    def _open_file(self, path: Path, config: DecodeConfig) -> VideoReader:
        if self.opens_pictures and is_picture(path):
            return open_picture(path, config)
        if not config.isolate:
            return open_here(path, config)
        process = self._take()
        try:
            file = IsolatedFile(path, config, process, self._give_back)
        except (DecodeError, UserError):
            self._give_back(process)
            raise
        return VideoReader(file, IsolatedBackend(file))

    def examine(self, path: str | Path) -> Examination:
        """The health of a file. A bad one never raises, and with ``isolate`` it cannot hang or crash this process."""
        if isinstance(path, BucketPath):
            return self._examine_object(path.opened(self.config.timeout_seconds))
        if not self.config.isolate:
            return examine(Path(path), self.config)
        process = self._take()
        examination = examine_isolated(Path(path), self.config, process)
        self._give_back(process)
        return examination

    def _examine_object(self, path: BucketPath) -> Examination:
        """The health of what is fetched of an object: all of it is decoded."""
        try:
            self._check_allowed(path)
            with TemporaryDirectory(prefix="clipgru-") as folder:
                examination = self.examine(fetch_object(path, Path(folder), self.config))
        except DecodeError as error:
            return Examination.of_unreadable(path, f"{error.stage}: {error.cause}")
        return replace(examination, health=replace(examination.health, path=str(path)))

    def peak_memory_mb(self) -> float:
        """The most memory that any of the decoding processes at rest has ever had."""
        answers = [process.ask("memory", {}, self.config.timeout_seconds) for process in self._idle]
        return max((float(message["peak_mb"]) for message, _ in answers), default=0.0)

    def _take(self) -> DecodingProcess:
        try:
            process = self._idle.pop()  # of several threads, each gets its own
        except IndexError:
            return DecodingProcess()
        return process if process.is_usable else self._take()

    def _give_back(self, process: DecodingProcess) -> None:
        if process.is_usable:
            self._idle.append(process)
        else:
            process.stop()

    def close(self) -> None:
        """Ends the decoding processes that are not in use."""
        while self._idle:
            self._idle.pop().stop()

    def __enter__(self) -> VideoOpener:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "opens_pictures": self.opens_pictures, "_idle": []}
